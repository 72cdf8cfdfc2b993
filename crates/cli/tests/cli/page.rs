//! The web page, driven in Chromium by Playwright, served by the real binary with the mock.
//! `make clients` installs both; without them the test prints that it is skipped.

use crate::common::{Sandbox, Served};
use std::path::{Path, PathBuf};
use std::process::Command;

const KEY: &str = "test-key";

/// The first of these programs on the `PATH`.
fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    names.iter().find_map(|name| std::env::split_paths(&path).map(|p| p.join(name)).find(|p| p.is_file()))
}

#[test]
fn the_page_works_and_resists_a_hostile_model() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap();
    let modules = root.join("target/clients/node/node_modules");
    let Some(chromium) = program(&["chromium", "chromium-browser", "google-chrome"]) else {
        return eprintln!("skipped: there is no Chromium; `make clients` installs it");
    };
    if !modules.join("playwright-core").exists() || program(&["node"]).is_none() {
        return eprintln!(
            "skipped: {} has no playwright-core; `make clients` installs it",
            modules.display()
        );
    }
    let sandbox = Sandbox::new();
    let server =
        Served::start_with(&sandbox, &["-m", "mock", "--mock-step", "2", "--api-key", KEY], |command| {
            // Without a folder `results` the page has no report.
            command.current_dir(sandbox.path(""));
        });
    let mut command = Command::new("node");
    command.arg(root.join("testdata/clients/page.mjs")).arg(&modules).arg(chromium).args([&server.url, KEY]);
    let ran = command.env("NO_PROXY", "127.0.0.1").output().unwrap();
    let out = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{out}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(out.contains("checks passed"), "{out}");
    println!("{out}");
    server.end();
}
