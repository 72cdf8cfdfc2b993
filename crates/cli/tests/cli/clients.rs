//! OpenAI's own Python and JavaScript clients and Anthropic's Python client against the real binary, with the mock and with SmolLM2.
//! `make clients` installs them; without them these tests print that they are skipped.

use crate::common::{Sandbox, Served};
use std::path::{Path, PathBuf};
use std::process::Command;
use zonda_testkit::models;

const KEY: &str = "test-key";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The folder of an installed client; if it is missing, prints so and returns `None`.
fn client(part: &str) -> Option<PathBuf> {
    let path = root().join("target/clients").join(part);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is absent; `make clients` installs it", path.display());
    None
}

fn passes(mut command: Command) {
    let ran = command.output().unwrap();
    let out = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{out}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(out.contains("checks passed"), "{out}");
    println!("{out}");
}

fn python(server: &Served) {
    for (package, script) in [("openai", "client.py"), ("anthropic", "messages.py")] {
        let Some(folder) = client(&format!("python/{package}")) else { continue };
        let mut command = Command::new("python3");
        let script = root().join("testdata/clients").join(script);
        command.arg(script).args([&server.url, &server.models[0], KEY]);
        command.env("PYTHONPATH", folder.parent().unwrap()).env("NO_PROXY", "127.0.0.1");
        passes(command);
    }
}

fn javascript(server: &Served) {
    let Some(folder) = client("node/node_modules/openai") else { return };
    let mut command = Command::new("node");
    command.arg(root().join("testdata/clients/client.mjs")).arg(folder.ancestors().nth(2).unwrap());
    command.args([&server.url, &server.models[0], KEY]).env("NO_PROXY", "127.0.0.1");
    passes(command);
}

#[test]
fn the_clients_work_with_the_mock() {
    let sandbox = Sandbox::new();
    let server = Served::start(&sandbox, &["-m", "mock", "--api-key", KEY]);
    python(&server);
    javascript(&server);
    server.end();
}

#[test]
fn the_clients_work_with_smollm2() {
    let Some(model) = models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
    let sandbox = Sandbox::new();
    let model = model.to_str().unwrap();
    let server =
        Served::start(&sandbox, &["-m", model, "--api-key", KEY, "--parallel", "4", "--ctx", "4096"]);
    python(&server);
    javascript(&server);
    server.end();
}
