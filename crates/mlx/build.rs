//! Finds MLX, checks its version, compiles the shim against it and tells the linker where it is.
//!
//! MLX is a library of Apple's that comes ready built: in Python wheels for macOS and Linux, and from Homebrew. Nothing is
//! downloaded here; `scripts/setup.sh mlx` fetches the wheel.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The version whose headers the shim is written against. MLX changes signatures between patch releases.
const VERSION: &str = "0.32.2";

/// A place that may hold MLX: the folder with `include/mlx` and `lib`, and where the idea comes from.
struct Candidate {
    folder: PathBuf,
    from: &'static str,
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/shim.h");
    println!("cargo:rerun-if-changed=src/shim.cc");
    println!("cargo:rerun-if-env-changed=MLX_DIR");
    println!("cargo:rerun-if-env-changed=ZONDA_NO_OPENBLAS");
    let folder = find().unwrap_or_else(|why| {
        eprintln!("{why}");
        std::process::exit(1);
    });
    compile(&folder);
}

/// The folder of an MLX of the right version, or a sentence that says what to install.
fn find() -> Result<PathBuf, String> {
    let named = std::env::var_os("MLX_DIR").map(PathBuf::from);
    let candidates = match &named {
        // What was named is taken or refused; nothing else is tried in its place.
        Some(folder) => vec![
            Candidate { folder: folder.clone(), from: "MLX_DIR" },
            Candidate { folder: folder.join("mlx"), from: "MLX_DIR" },
        ],
        None => candidates(),
    };
    let mut seen = Vec::new();
    for Candidate { folder, from } in candidates {
        let header = folder.join("include/mlx/version.h");
        println!("cargo:rerun-if-changed={}", header.display());
        match std::fs::read_to_string(&header).ok().as_deref().map(version) {
            Some(found) if found == VERSION => return Ok(folder),
            Some(found) => seen.push(format!("{from} ({}) has MLX {found}", folder.display())),
            None => {}
        }
    }
    let platform = if cfg!(target_os = "macos") { "metal" } else { "cpu" };
    let seen = match (seen.as_slice(), &named) {
        ([], Some(folder)) => format!("MLX_DIR is {}, which has no include/mlx/version.h", folder.display()),
        ([], None) => {
            "none was found in target/mlx, among Python's packages or in Homebrew's folder".to_owned()
        }
        (seen, _) => seen.join("; "),
    };
    Err(format!(
        "the mlx backend needs MLX {VERSION}: {seen}. Run `scripts/setup.sh mlx`, or \
         `python3 -m pip install --target DIR --no-deps mlx-{platform}=={VERSION}` and set MLX_DIR=DIR/mlx"
    ))
}

/// Where MLX may be when nobody says: what `scripts/setup.sh mlx` fetched, Python's packages, Homebrew.
fn candidates() -> Vec<Candidate> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut all = vec![Candidate { folder: root.join("target/mlx/mlx"), from: "scripts/setup.sh" }];
    let ask = "import importlib.util as u; s = u.find_spec('mlx'); print(*(s.submodule_search_locations if s else []), sep='\\n')";
    if let Ok(answer) = Command::new("python3").args(["-c", ask]).output() {
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        all.extend(text.lines().map(|line| Candidate { folder: line.into(), from: "Python's package" }));
    }
    for prefix in ["/opt/homebrew", "/usr/local"] {
        all.push(Candidate { folder: prefix.into(), from: "Homebrew or a system-wide installation" });
    }
    all
}

/// `0.32.2` of a `version.h`.
fn version(header: &str) -> String {
    let part = |name: &str| {
        let line = header.lines().find_map(|line| line.strip_prefix(&format!("#define MLX_VERSION_{name} ")));
        line.map_or("?", str::trim)
    };
    format!("{}.{}.{}", part("MAJOR"), part("MINOR"), part("PATCH"))
}

fn compile(folder: &Path) {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let lib = folder.join("lib");
    let openblas = openblas();
    let mut build = cxx_build::bridge("src/sys.rs");
    build.file("src/shim.cc").std("c++20").include(folder.join("include")).warnings(false);
    build.define("ZONDA_MLX_VERSION", format!("\"{VERSION}\"").as_str());
    if openblas.is_some() {
        build.define("ZONDA_OPENBLAS", None);
    }
    build.compile("zonda_mlx_shim");

    // Before MLX, so that its matrix products find OpenBLAS rather than the reference BLAS that the wheel brings.
    if let Some(openblas) = openblas {
        println!("cargo:rustc-link-search=native={}", openblas.parent().unwrap_or(Path::new("/")).display());
        let name = openblas.file_name().unwrap_or_default().to_string_lossy().into_owned();
        println!("cargo:rustc-link-lib=dylib:+verbatim={name}");
    }
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=mlx");
    // For this crate's own tests; a program that links this crate sets its own (`DEP_MLX_LIB`).
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:lib={}", lib.display());
}

/// OpenBLAS, if it is installed on Linux: MLX's own matrix products on the processor are several times slower. The wheels
/// for CUDA don't use it. `ZONDA_NO_OPENBLAS=1` leaves it out: a program built with it needs it to start.
fn openblas() -> Option<PathBuf> {
    if std::env::var_os("CARGO_CFG_TARGET_OS")? != "linux" || std::env::var_os("ZONDA_NO_OPENBLAS").is_some()
    {
        return None;
    }
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::var("CARGO_CFG_TARGET_ARCH").ok()?);
    let places = [multiarch.as_str(), "/usr/lib64", "/usr/lib"];
    let found =
        places.iter().map(|folder| Path::new(folder).join("libopenblas.so.0")).find(|path| path.exists());
    println!("cargo:rerun-if-changed={}", Path::new(&multiarch).join("libopenblas.so.0").display());
    found
}
