//! Finds MLX, checks its version, compiles the shim against it and passes its location to the linker.
//!
//! MLX is Apple's array library, available prebuilt in Python wheels for macOS and Linux, and from Homebrew. This script
//! downloads nothing; `scripts/setup.sh mlx` fetches the wheel.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The version whose headers the shim is written against. MLX changes signatures between patch releases.
const VERSION: &str = "0.32.2";

/// A possible location of MLX: the folder with `include/mlx` and `lib`, and its origin.
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

/// The folder of an MLX of the right version, or advice on what to install.
fn find() -> Result<PathBuf, String> {
    let named = std::env::var_os("MLX_DIR").map(PathBuf::from);
    let candidates = match &named {
        // A folder in `MLX_DIR` is used or refused; nothing else is tried.
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

/// Default locations of MLX: the wheel fetched by `scripts/setup.sh mlx`, Python's packages, Homebrew.
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

/// The version in a `version.h`, such as `0.32.2`.
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

    // Before MLX, so that its matrix products use OpenBLAS instead of the reference BLAS in the wheel.
    if let Some(openblas) = openblas {
        println!("cargo:rustc-link-search=native={}", openblas.parent().unwrap_or(Path::new("/")).display());
        let name = openblas.file_name().unwrap_or_default().to_string_lossy().into_owned();
        println!("cargo:rustc-link-lib=dylib:+verbatim={name}");
    }
    println!("cargo:rustc-link-search=native={}", lib.display());
    println!("cargo:rustc-link-lib=dylib=mlx");
    // For this crate's own tests; programs that link this crate set their own rpath (`DEP_MLX_LIB`).
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", lib.display());
    println!("cargo:lib={}", lib.display());
}

/// OpenBLAS, if it is installed on Linux: MLX's own matrix products on the CPU are several times slower. The wheels for CUDA
/// don't use it. `ZONDA_NO_OPENBLAS=1` builds without it, because a program built with OpenBLAS can't start without it.
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
