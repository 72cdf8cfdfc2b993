//! The architecture as a test: which crate may use which, what may appear where, and that files say what they own.
//! To change a rule, change this file.

#[path = "architecture/module_graph.rs"]
mod module_graph;

use module_graph::ModuleGraph;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Maximum lines of a source file; separate test files are not counted.
const MAX_LINES: usize = 600;

/// What each crate may use of the workspace. A new crate gets a line.
const MAY_USE: &[(&str, &[&str])] = &[
    ("zonda-machine", &[]),
    ("zonda-kernels", &["zonda-machine"]),
    ("zonda-engine", &["zonda-kernels", "zonda-testkit"]),
    ("zonda-native", &["zonda-machine", "zonda-kernels", "zonda-engine", "zonda-testkit"]),
    ("zonda-llama-cpp", &["zonda-engine", "zonda-testkit"]),
    ("zonda-mlx", &["zonda-engine", "zonda-testkit"]),
    ("zonda-convert", &["zonda-kernels", "zonda-engine", "zonda-testkit"]),
    (
        "zonda",
        &[
            "zonda-machine",
            "zonda-kernels",
            "zonda-engine",
            "zonda-native",
            "zonda-llama-cpp",
            "zonda-mlx",
            "zonda-convert",
            "zonda-testkit",
        ],
    ),
    // Test helpers: a dev-dependency only.
    ("zonda-testkit", &["zonda-engine", "zonda-convert"]),
    ("zonda-bench", &["zonda-machine", "zonda-kernels", "zonda-engine", "zonda", "zonda-testkit"]),
    ("zonda-server", &["zonda-machine", "zonda-engine", "zonda", "zonda-testkit"]),
    (
        "zonda-cli",
        &[
            "zonda-machine",
            "zonda-kernels",
            "zonda-engine",
            "zonda-convert",
            "zonda",
            "zonda-bench",
            "zonda-server",
            "zonda-testkit",
        ],
    ),
    // Nothing uses it.
    ("zonda-fuzz", &["zonda-engine", "zonda", "zonda-bench", "zonda-server"]),
];

/// Crates that the tests of every crate above `zonda-engine` may also use.
const TESTS_MAY_USE: &[&str] = &["zonda-convert", "zonda-testkit"];

/// Crates outside the workspace that only these crates may use.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("tokio", &["zonda-cli", "zonda-server", "zonda-fuzz"]),
    ("axum", &["zonda-server", "zonda-fuzz"]),
    ("anyhow", &["zonda-cli"]),
    ("clap", &["zonda-cli"]),
    ("ureq", &["zonda-cli", "zonda"]),
    ("llama-cpp-sys-2", &["zonda-llama-cpp"]),
    ("cxx", &["zonda-mlx"]),
    ("cxx-build", &["zonda-mlx"]),
    ("libc", &["zonda-machine", "zonda-kernels"]),
];

/// Crates, by folder, in which no files use each other in a circle.
const WITHOUT_CIRCLES: &[&str] = &[
    "machine",
    "kernels",
    "engine",
    "native",
    "convert",
    "llama-cpp",
    "mlx",
    "zonda",
    "testkit",
    "bench",
    "server",
    "cli",
];

/// The engine's modules in order: a module may use items of earlier ones only. The shared modules come first, then the path of a
/// request, with `quant`, `mock`, `prompt_cache` and `request` where they fit.
const ROOMS: &[&str] = &[
    "lib",
    "hash",
    "files",
    "printable",
    "batch",
    "load",
    "quant",
    "tokenize",
    "schedule",
    "speculate",
    "forward",
    "mock",
    "prompt_cache",
    "sample",
    "stream",
    "request",
    "worker",
];

/// The one file of each backend crate that calls its foreign library.
const CALLERS: &[(&str, &str)] =
    &[("llama_cpp_sys_2", "crates/llama-cpp/src/safe.rs"), ("sys::ffi", "crates/mlx/src/safe.rs")];

/// Backend crates are named in `crates/zonda/src/backend` and nowhere else.
const BACKEND_CRATES: &[&str] = &["zonda_native", "zonda_llama_cpp", "zonda_mlx"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace root is two folders up")
}

/// Every file below `dir` except build outputs and other files that git ignores.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | "results" | ".git" | "node_modules" | "__pycache__") {
                    folders.push(path);
                }
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The Rust files of the crates, as `(path below the root, text)`, without this one.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let this = "crates/cli/tests/architecture.rs";
    let rust = files(&root.join("crates")).into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs"));
    let all: Vec<_> = rust
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().replace('\\', "/");
            (name, text)
        })
        .filter(|(name, _)| name != this)
        .collect();
    assert!(all.len() > 20, "found only {} source files below {}", all.len(), root.display());
    all
}

/// The code of a line: the part before a comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// Fails if there are breaches, with one line for each.
fn no_breaches(rule: &str, breaches: impl IntoIterator<Item = String>) {
    let breaches: Vec<_> = breaches.into_iter().collect();
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

/// Every line of code that `found` calls a breach, except in files that `allowed` accepts.
fn lines_with(
    sources: &[(String, String)],
    allowed: impl Fn(&str) -> bool,
    found: impl Fn(&str) -> bool,
) -> Vec<String> {
    let mut breaches = Vec::new();
    for (name, text) in sources.iter().filter(|(name, _)| !allowed(name)) {
        let lines = text.lines().enumerate().filter(|(_, line)| found(code(line)));
        breaches.extend(lines.map(|(i, line)| format!("{name}:{}: {}", i + 1, line.trim())));
    }
    breaches
}

/// Dependencies of every workspace crate, by name; dev-dependencies only if `with_dev`.
fn dependencies(with_dev: bool) -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let name = |v: &serde_json::Value| v["name"].as_str().expect("a name").to_owned();
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let all = package["dependencies"].as_array().expect("dependencies").iter();
            let used = all.filter(|d| with_dev || d["kind"] != "dev").map(name);
            (name(package), used.collect())
        })
        .collect()
}

#[test]
fn crates_use_only_what_is_below_them() {
    let rules: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let without_tests = dependencies(false);
    let mut breaches = Vec::new();
    for (name, used) in dependencies(true) {
        let Some(allowed) = rules.get(name.as_str()) else {
            breaches.push(format!("{name} has no line in MAY_USE"));
            continue;
        };
        let ours = used.iter().filter(|d| (*d == "zonda" || d.starts_with("zonda-")) && **d != name);
        let above_engine = allowed.contains(&"zonda-engine");
        let in_tests =
            |d: &str| above_engine && TESTS_MAY_USE.contains(&d) && !without_tests[&name].contains(d);
        let breach = ours.filter(|d| !allowed.contains(&d.as_str()) && !in_tests(d));
        breaches.extend(breach.map(|d| format!("{name} uses {d}")));
    }
    no_breaches("machine ← kernels ← engine ← {backends, convert} ← zonda ← {bench, server} ← cli", breaches);
}

#[test]
fn restricted_crates_are_used_only_where_allowed() {
    let used = dependencies(false);
    let mut breaches = Vec::new();
    for (name, dependencies) in &used {
        for (dependency, allowed) in ONLY_IN {
            if dependencies.contains(*dependency) && !allowed.contains(&name.as_str()) {
                breaches.push(format!("{name} uses {dependency}, which belongs in {allowed:?}"));
            }
        }
    }
    no_breaches("crates in their place", breaches);
}

#[test]
fn processor_architectures_are_named_in_kernels_only() {
    let words = ["target_arch", "target_feature", "std::arch", "core::arch"];
    let breaches = lines_with(
        &sources(),
        |name| name.starts_with("crates/kernels/"),
        |line| words.iter().any(|w| line.contains(w)),
    );
    no_breaches("processor architectures belong in crates/kernels", breaches);
}

#[test]
fn a_foreign_library_is_called_in_one_file_of_its_crate() {
    let is_bridge = |name: &str| name == "crates/mlx/src/sys.rs";
    let declares = |line: &str| line.contains("extern \"C\" {") || line.contains("extern \"C++\" {");
    let breaches = lines_with(&sources(), is_bridge, declares);
    no_breaches("foreign functions are declared in crates/mlx/src/sys.rs only", breaches);
    for (library, caller) in CALLERS {
        let calls = lines_with(&sources(), |name| name == *caller, |line| line.contains(library));
        no_breaches(&format!("{library} is used in {caller} only"), calls);
        let text = std::fs::read_to_string(root().join(caller)).expect("the file is there");
        assert!(text.contains(library), "{caller} does not use {library}: the rule checks nothing");
    }
}

#[test]
fn files_do_not_depend_on_each_other_in_circles() {
    let mut breaches = Vec::new();
    for name in WITHOUT_CIRCLES {
        let graph = ModuleGraph::read(&root().join("crates").join(name).join("src"));
        for circle in graph.circles() {
            let uses = circle.iter().map(|file| {
                let others = graph.uses[file].iter().filter(|other| circle.contains(other));
                format!("\n    {file} uses {}", others.cloned().collect::<Vec<_>>().join(", "))
            });
            breaches.push(format!(
                "crates/{name}/src: a circle of {}:{}",
                circle.len(),
                uses.collect::<String>()
            ));
        }
    }
    no_breaches("no files of a crate use each other in a circle", breaches);
}

#[test]
fn engine_modules_use_only_earlier_ones() {
    let graph = ModuleGraph::read(&root().join("crates/engine/src"));
    let room = |file: &str| file.split('/').next().unwrap_or(file).trim_end_matches(".rs").to_owned();
    let rank = |file: &str| ROOMS.iter().position(|r| *r == room(file));
    let mut breaches = Vec::new();
    for (file, used) in &graph.uses {
        let Some(own) = rank(file) else {
            breaches.push(format!("{file}: the room {} has no place in ROOMS", room(file)));
            continue;
        };
        let later = used.iter().filter(|other| rank(other).is_some_and(|other| other > own));
        breaches.extend(later.map(|other| format!("{file} uses {other}")));
    }
    assert!(graph.uses.len() > 50, "found only {} files of the engine", graph.uses.len());
    no_breaches(&format!("a room uses earlier rooms only: {}", ROOMS.join(" → ")), breaches);
}

#[test]
fn circles_are_found_through_re_exports_and_test_modules_are_ignored() {
    let files = BTreeMap::from([
        ("lib.rs", "pub mod a;\nmod b;\npub use a::Item;\npub type Id = u32;"),
        ("a/mod.rs", "mod inner;\npub use inner::Item;"),
        ("a/inner.rs", "use crate::Id;\npub struct Item(pub Id);\nfn f() { crate::b::help::<'x'>(\"}\"); }"),
        ("b.rs", "// use crate::c::No;\npub fn help() {}\nmod inline { use super::super::Item; }"),
        ("c.rs", "not a module"),
    ]);
    let text = |file: &str| files.get(file).map(|text| (*text).to_owned());
    let graph = ModuleGraph::from_files("lib.rs", &text);
    assert_eq!(graph.circles(), [["a/inner.rs", "b.rs"]]);
    assert_eq!(graph.uses["a/inner.rs"], BTreeSet::from(["b.rs".to_owned(), "lib.rs".to_owned()]));
    assert!(graph.uses["lib.rs"].is_empty() && !graph.uses.contains_key("c.rs"));
    let without = |file: &str| text(file).map(|t| t.replace("mod inline {", "#[cfg(test)]\nmod inline {"));
    assert!(ModuleGraph::from_files("lib.rs", &without).circles().is_empty());
}

#[test]
fn the_engine_multiplies_no_matrices() {
    let breaches = lines_with(
        &sources(),
        |name| !name.starts_with("crates/engine/src/"),
        |line| {
            line.contains("zonda_kernels") && ["matmul", "attention", "pool"].iter().any(|w| line.contains(w))
        },
    );
    no_breaches("the engine works behind the Backend trait", breaches);
}

#[test]
fn backends_are_named_in_one_place() {
    let own = |name: &str| {
        name.starts_with("crates/zonda/src/backend")
            || BACKEND_CRATES.iter().any(|b| name.contains(&b.replace("zonda_", "crates/").replace('_', "-")))
    };
    let breaches = lines_with(&sources(), own, |line| BACKEND_CRATES.iter().any(|b| line.contains(b)));
    no_breaches("backend crates are used through crates/zonda/src/backend.rs", breaches);
}

#[test]
fn every_file_says_what_it_owns() {
    let breaches = sources()
        .into_iter()
        .filter(|(_, text)| !text.lines().next().is_some_and(|line| line.starts_with("//! ")))
        .map(|(name, _)| name);
    no_breaches("every file opens with //!", breaches);
}

#[test]
fn files_stay_short() {
    let is_test = |name: &str| {
        name.contains("/tests/")
            || name.contains("/benches/")
            || name.ends_with("tests.rs")
            || name.ends_with("test.rs")
    };
    let long = sources().into_iter().filter(|(name, _)| !is_test(name));
    let long = long.map(|(name, text)| (name, text.lines().count())).filter(|(_, lines)| *lines > MAX_LINES);
    no_breaches(
        "a file that needs more than 600 lines is two",
        long.map(|(name, lines)| format!("{name}: {lines} lines")),
    );
}

#[test]
fn no_unfinished_code() {
    let words = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("dbg", "!(")];
    let code = lines_with(&sources(), |_| false, |line| words.iter().any(|w| line.contains(w)));
    let comments = sources().into_iter().flat_map(|(name, text)| {
        let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
        let lines =
            text.lines().enumerate().filter(|(_, l)| marks.iter().any(|m| l.contains(&format!("// {m}"))));
        lines.map(|(i, l)| format!("{name}:{}: {}", i + 1, l.trim())).collect::<Vec<_>>()
    });
    no_breaches("half-made features are not committed", code.into_iter().chain(comments));
}

#[test]
fn no_package_registry_is_named() {
    // Package clients know their registries; a project that names one breaks behind a mirror.
    let hosts = [
        concat!("crates", ".io"),
        concat!("pypi", ".org"),
        concat!("python", "hosted.org"),
        concat!("npmjs", ".org"),
        concat!("npmjs", ".com"),
        concat!("deb.debian", ".org"),
        concat!("proxy.golang", ".org"),
    ];
    // Cargo writes the index's address into its lock file itself.
    let texts = files(&root()).into_iter().filter(|p| !p.ends_with("Cargo.lock"));
    let breaches = texts.filter_map(|path| {
        let text = std::fs::read_to_string(&path).ok()?;
        let host = hosts.iter().find(|h| text.contains(**h))?;
        Some(format!("{}: {host}", path.display()))
    });
    no_breaches("registries are reached through their clients' own settings", breaches);
}

#[test]
fn the_hub_is_named_once() {
    let host = concat!("https://hugging", "face.co");
    let breaches =
        lines_with(&sources(), |name| name == "crates/zonda/src/store/http.rs", |line| line.contains(host));
    no_breaches("the Hub's address is in crates/zonda/src/store/http.rs", breaches);
}

#[test]
fn breaches_are_found_in_code_but_not_in_comments() {
    let text = "//! doc\nlet a = 1; // target_arch in a comment\n#[cfg(target_arch = \"x86_64\")]\n";
    let sources = [("crates/x/src/lib.rs".to_owned(), text.to_owned())];
    let breaches = lines_with(&sources, |_| false, |line| line.contains("target_arch"));
    assert_eq!(breaches, ["crates/x/src/lib.rs:3: #[cfg(target_arch = \"x86_64\")]"]);
}

/// The C library is foreign code too: in each crate, only `sys.rs` or `safe.rs` calls it.
#[test]
fn only_sys_files_call_the_c_library() {
    let is_ffi = |name: &str| name.ends_with("/sys.rs") || name.ends_with("/safe.rs");
    let sources = sources();
    let calls = lines_with(&sources, is_ffi, |line| line.contains("libc::") || line.contains("use libc"));
    no_breaches("libc is called in the sys.rs or safe.rs of a crate", calls);
    let mut files = BTreeMap::<&str, Vec<&str>>::new();
    for (name, text) in sources.iter().filter(|(name, _)| is_ffi(name)) {
        if text.lines().any(|line| code(line).contains("libc::")) {
            files.entry(name.split('/').nth(1).unwrap_or_default()).or_default().push(name);
        }
    }
    let several = files.into_iter().filter(|(_, files)| files.len() > 1);
    no_breaches("one file of a crate calls libc", several.map(|(name, files)| format!("{name}: {files:?}")));
}

/// The tests that the last column of a table's row names, as paths of files below `crates/` and names of functions in them.
fn named_tests(row: &str) -> Vec<(String, Option<String>)> {
    let cells: Vec<&str> = row.trim().trim_matches('|').split(" | ").collect();
    let mut found: Vec<(String, Option<String>)> = Vec::new();
    for name in cells.last().unwrap_or(&"").split('`').skip(1).step_by(2) {
        if name.ends_with(".rs") {
            found.push((name.to_owned(), None));
        } else if let Some((file, _)) = found.last().cloned() {
            found.push((file, Some(name.to_owned())));
        }
    }
    found
}

/// Each row of docs/reliability.md that names an attack or a fault names a test that exists.
#[test]
fn the_tests_of_reliability_exist() {
    let doc = std::fs::read_to_string(root().join("docs/reliability.md")).expect("docs/reliability.md");
    let mut breaches = Vec::new();
    let (mut in_table, mut rows) = (false, 0);
    for line in doc.lines() {
        let starts = line.starts_with("| attack |") || line.starts_with("| fault |");
        in_table = starts || (in_table && line.starts_with('|'));
        if !in_table || starts || line.starts_with("|---") {
            continue;
        }
        rows += 1;
        let named = named_tests(line);
        if named.is_empty() && !line.contains("| the same") {
            breaches.push(format!("no test: {line}"));
        }
        for (file, name) in named {
            let text = std::fs::read_to_string(root().join("crates").join(&file)).unwrap_or_default();
            let exists = match &name {
                Some(name) => text.contains(&format!("fn {name}(")),
                None => text.contains("#[test]") || text.contains("#[tokio::test"),
            };
            if !exists {
                breaches.push(format!("{file}: {}", name.unwrap_or_else(|| "no tests".to_owned())));
            }
        }
    }
    assert!(rows > 50, "the tables have {rows} rows");
    no_breaches("docs/reliability.md names tests that exist", breaches);
}

#[test]
fn named_tests_are_found_in_a_row() {
    let row = "| a `x.rs` | b | `c/d.rs` (`e`, `f`), `g.rs` |";
    let found = named_tests(row);
    let expect = |file: &str, name: Option<&str>| (file.to_owned(), name.map(str::to_owned));
    assert_eq!(
        found,
        [
            expect("c/d.rs", None),
            expect("c/d.rs", Some("e")),
            expect("c/d.rs", Some("f")),
            expect("g.rs", None)
        ]
    );
}
