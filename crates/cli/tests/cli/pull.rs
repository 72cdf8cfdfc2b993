//! `zonda pull` against a stub of the Hub: resume, checksums, refusals, tokens, redirects.

use super::hub::{self, Fault, Hub, sha256};
use crate::common::{Ran, Sandbox, finish};
use std::path::PathBuf;

/// Large enough for a client to read it in several pieces.
fn weights() -> Vec<u8> {
    (0..600_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn pull(sandbox: &Sandbox, hub: &Hub, args: &[&str]) -> Ran {
    pull_with(sandbox, hub, args, &[])
}

fn pull_with(sandbox: &Sandbox, hub: &Hub, args: &[&str], env: &[(&str, &str)]) -> Ran {
    let mut command = sandbox.command();
    command.arg("pull").args(args).env("HF_ENDPOINT", &hub.address).env_remove("ZONDA_OFFLINE");
    finish(command.envs(env.iter().copied()))
}

fn stored(sandbox: &Sandbox, file: &str) -> PathBuf {
    sandbox.store().join("hub/org/name").join(file)
}

/// The temporary files left in the repository's folder.
fn leftovers(sandbox: &Sandbox) -> Vec<String> {
    let entries = std::fs::read_dir(stored(sandbox, "")).into_iter().flatten().flatten();
    let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
    names.filter(|n| n.contains(".part") || n.contains("tmp")).collect()
}

#[test]
fn a_safetensors_repository() {
    let body = weights();
    let hub = Hub::start(&[
        ("config.json", b"{}"),
        ("model.safetensors", &body),
        ("tokenizer.json", b"{ }"),
        ("README.md", b"no"),
        ("pytorch_model.bin", b"no"),
    ]);
    let sandbox = Sandbox::new();
    let document = pull(&sandbox, &hub, &["org/name", "--json"]).json();
    let model = &document["models"][0];
    assert_eq!(model["commit"], hub::COMMIT);
    assert_eq!(model["bytes"], 600_005);
    let files: Vec<_> =
        model["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(files, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(model["files"][1]["sha256"], sha256(&body));
    assert_eq!(std::fs::read(stored(&sandbox, "model.safetensors")).unwrap(), body);

    // The second pull downloads nothing, and offline it makes no request.
    let before = hub.asked().len();
    pull(&sandbox, &hub, &["org/name"]).ok();
    assert_eq!(hub.asked().len(), before);
    let list = sandbox.run(&["list", "--json"]).json();
    assert_eq!(list["models"][0]["name"], "org/name");
    assert_eq!(list["models"][0]["path"], stored(&sandbox, "").to_str().unwrap().trim_end_matches('/'));

    // A damaged file is downloaded again; the others are kept.
    std::fs::write(stored(&sandbox, "model.safetensors"), vec![0; body.len()]).unwrap();
    pull(&sandbox, &hub, &["org/name"]).ok();
    assert_eq!(hub.asked().len(), before + 1);
    assert_eq!(std::fs::read(stored(&sandbox, "model.safetensors")).unwrap(), body);

    sandbox.run(&["rm", "org/name"]).ok();
    assert!(!stored(&sandbox, "").exists());
}

#[test]
fn a_broken_connection_is_resumed_within_one_pull() {
    let body = weights();
    let hub = Hub::start(&[("m.gguf", &body)]).faults(&[Fault::CutAfter(200_000), Fault::CutAfter(150_000)]);
    let sandbox = Sandbox::new();
    pull(&sandbox, &hub, &["org/name"]).ok();
    assert_eq!(hub.ranges(), [None, Some("bytes=200000-".into()), Some("bytes=350000-".into())]);
    assert_eq!(std::fs::read(stored(&sandbox, "m.gguf")).unwrap(), body);
    assert_eq!(leftovers(&sandbox), [""; 0]);
}

#[test]
fn a_later_pull_resumes_where_an_earlier_one_stopped() {
    let body = weights();
    let sandbox = Sandbox::new();
    let refused = Hub::start(&[("m.gguf", &body)]).faults(&[Fault::CutAfter(123_456), Fault::Status(410)]);
    pull(&sandbox, &refused, &["org/name"]).fails(1, &["410"]);
    assert_eq!(leftovers(&sandbox).len(), 1);
    assert!(!stored(&sandbox, "m.gguf").exists());
    sandbox.run(&["run", "-m", "org/name", "hi"]).fails(1, &["ZONDA_OFFLINE"]);

    let hub = Hub::start(&[("m.gguf", &body)]);
    pull(&sandbox, &hub, &["org/name"]).ok();
    assert_eq!(hub.ranges(), [Some("bytes=123456-".into())]);
    assert_eq!(std::fs::read(stored(&sandbox, "m.gguf")).unwrap(), body);
    assert_eq!(leftovers(&sandbox), [""; 0]);
}

#[test]
fn the_whole_file_is_requested_if_ranges_are_missing_or_wrong() {
    let body = weights();
    for fault in [Fault::NoRanges, Fault::WrongRange] {
        let hub = Hub::start(&[("m.gguf", &body)]).faults(&[Fault::CutAfter(100_000), fault]);
        let sandbox = Sandbox::new();
        pull(&sandbox, &hub, &["org/name"]).ok();
        assert_eq!(std::fs::read(stored(&sandbox, "m.gguf")).unwrap(), body, "{fault:?}");
    }
}

#[test]
fn a_wrong_checksum_is_refused_and_the_file_deleted() {
    let body = weights();
    let hub = Hub::start(&[("m.gguf", &body)]).faults(&[Fault::Corrupt]);
    let sandbox = Sandbox::new();
    pull(&sandbox, &hub, &["org/name"]).fails(1, &["expected SHA-256", &sha256(&body), "help:"]);
    assert!(!stored(&sandbox, "m.gguf").exists());
    assert_eq!(leftovers(&sandbox), [""; 0]);
    pull(&sandbox, &hub, &["org/name"]).ok();
}

#[test]
fn a_body_longer_than_published_is_refused() {
    let hub = Hub::start(&[("m.gguf", &weights())]).faults(&[Fault::Endless]);
    let sandbox = Sandbox::new();
    pull(&sandbox, &hub, &["org/name"]).fails(1, &["expected 600000 bytes", "sends more"]);
    assert!(!stored(&sandbox, "m.gguf").exists());
}

#[test]
fn refusals_give_advice() {
    let sandbox = Sandbox::new();
    let hub = Hub::start(&[("m.gguf", b"x")]);
    pull(&sandbox, &hub, &["org/other"]).fails(1, &["404", "check the spelling"]);

    let private = Hub::start(&[("m.gguf", b"x")]).needs_token("secret");
    pull(&sandbox, &private, &["org/name"]).fails(1, &["401", "set HF_TOKEN"]);
    let wrong = pull_with(&sandbox, &private, &["org/name"], &[("HF_TOKEN", "guess")]);
    let wrong = wrong.fails(1, &["401", "may not read this repository"]);
    assert!(!wrong.err.contains("guess"), "a token is never shown");
    pull_with(&sandbox, &private, &["org/name"], &[("HF_TOKEN", "secret\n")]).ok();

    let busy = Hub::start(&[("m.gguf", b"xyz")]).faults(&[Fault::Status(503), Fault::Status(429)]);
    pull(&Sandbox::new(), &busy, &["org/name"]).ok();
    assert_eq!(busy.asked().len(), 3);
    let gone = Hub::start(&[("m.gguf", b"xyz")]).also_lists(&["config.json", "model.safetensors"]);
    pull(&Sandbox::new(), &gone, &["org/name"]).fails(1, &["404"]);
    assert!(!sandbox.store().join("hub/org/other").exists(), "a failed pull leaves no empty folders");
}

#[test]
fn the_token_in_the_hubs_own_folder_is_used() {
    let hub = Hub::start(&[("m.gguf", b"x")]).needs_token("stored");
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path("hf")).unwrap();
    std::fs::write(sandbox.path("hf/token"), "stored\n").unwrap();
    pull(&sandbox, &hub, &["org/name"]).ok();
}

#[test]
fn a_redirect_to_another_host_gets_no_token_and_is_checksummed() {
    let body = weights();
    let cdn = Hub::start(&[("m.gguf", &body)]).faults(&[Fault::CutAfter(10), Fault::Corrupt]);
    let hub = Hub::start(&[("m.gguf", &body)]).needs_token("secret").redirects_to(&cdn).lists_plainly();
    let sandbox = Sandbox::new();
    let env = [("HF_TOKEN", "secret")];
    pull_with(&sandbox, &hub, &["org/name"], &env).fails(1, &["expected SHA-256", &sha256(&body)]);
    pull_with(&sandbox, &hub, &["org/name"], &env).ok();
    assert_eq!(std::fs::read(stored(&sandbox, "m.gguf")).unwrap(), body);
    assert!(hub.asked().iter().all(|a| a.token.is_some()));
    assert!(cdn.asked().iter().all(|a| a.token.is_none()), "{:?}", cdn.asked());
}

#[test]
fn one_of_several_gguf_files_is_chosen() {
    let hub = Hub::start(&[("q4/a b.gguf", b"four"), ("q8.gguf", b"eight"), ("README.md", b"")]);
    let sandbox = Sandbox::new();
    pull(&sandbox, &hub, &["org/name"])
        .fails(1, &["2 GGUF models", "org/name:q4/a b.gguf", "org/name:q8.gguf"]);
    pull(&sandbox, &hub, &["org/name:q2.gguf"]).fails(1, &["no GGUF file \"q2.gguf\"", "org/name:q8.gguf"]);
    pull(&sandbox, &hub, &["org/name:q4/a b.gguf"]).ok();
    assert_eq!(std::fs::read(stored(&sandbox, "q4/a b.gguf")).unwrap(), b"four");
    pull(&sandbox, &hub, &["org/name:q8.gguf"]).ok();
    let list = sandbox.run(&["list", "--json"]).json();
    let names: Vec<_> =
        list["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["org/name:q4/a b.gguf", "org/name:q8.gguf"]);
    sandbox.run(&["rm", "org/name:q8.gguf", "--json"]).ok();
    assert!(!stored(&sandbox, "q8.gguf").exists());
    assert!(stored(&sandbox, "q4/a b.gguf").exists());
}

#[test]
fn a_listing_that_leaves_the_folder_is_refused() {
    for name in ["../../../evil.gguf", "/tmp/evil.gguf", "a\\..\\evil.gguf", "a/../../evil.gguf"] {
        let hub = Hub::start(&[]).also_lists(&[name]);
        let sandbox = Sandbox::new();
        pull(&sandbox, &hub, &["org/name"]).fails(1, &["refused the file name"]);
        assert_eq!(hub.asked(), []);
    }
}

#[test]
fn files_in_the_hubs_own_cache_are_used_in_place() {
    let sandbox = Sandbox::new();
    let repo = sandbox.path("hf/hub/models--org--tiny");
    let snapshot = repo.join("snapshots").join(hub::COMMIT);
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(repo.join("refs/main"), hub::COMMIT).unwrap();
    for entry in std::fs::read_dir(crate::common::tiny()).unwrap().flatten() {
        std::fs::copy(entry.path(), snapshot.join(entry.file_name())).unwrap();
    }
    let document = sandbox.run(&["inspect", "org/tiny", "--json"]).json();
    assert_eq!(document["architecture"], "llama");
    let list = sandbox.run(&["list", "--json"]).json();
    assert_eq!(list["models"][0]["source"], "hub cache");
    sandbox.run(&["rm", "org/tiny"]).fails(1, &["the Hub's own cache folder"]);

    // A snapshot without one of its shards is not a model.
    std::fs::remove_file(snapshot.join("model-00002-of-00003.safetensors")).unwrap();
    sandbox.run(&["inspect", "org/tiny"]).fails(1, &["ZONDA_OFFLINE"]);
}

#[test]
fn downloads_can_be_forbidden_and_endpoints_are_validated() {
    let sandbox = Sandbox::new();
    sandbox.run(&["pull", "org/name"]).fails(1, &["ZONDA_OFFLINE forbids downloads", "help:"]);
    sandbox.run(&["pull", "smollm2-135m"]).fails(1, &["ZONDA_OFFLINE forbids downloads"]);
    sandbox.run(&["pull", "../up"]).fails(2, &["expected NAME, ORG/NAME or ORG/NAME:FILE.gguf"]);
    let mut command = sandbox.command();
    command.args(["pull", "org/name"]).env_remove("ZONDA_OFFLINE").env("HF_ENDPOINT", "ftp://x");
    finish(&mut command).fails(1, &["HF_ENDPOINT is \"ftp://x\""]);
}

#[test]
fn a_server_that_never_continues_is_given_up() {
    let body = weights();
    for fault in [Fault::Status(416), Fault::WrongRange] {
        let hub = Hub::start(&[("m.gguf", &body)]).never_continues(fault);
        let sandbox = Sandbox::new();
        pull(&sandbox, &hub, &["org/name"]).fails(1, &["gave up"]);
        assert!(hub.asked().len() < 12, "{:?}", hub.ranges());
        assert!(!stored(&sandbox, "m.gguf").exists());
    }
}

#[test]
fn without_a_checksum_only_the_same_version_is_continued() {
    let body = weights();
    let other: Vec<u8> = body.iter().map(|b| b ^ 0x55).collect();
    for etags in [true, false] {
        let hub = Hub::start(&[("m.gguf", &body)]).lists_plainly();
        let hub = if etags { hub.has_etags() } else { hub };
        let hub = hub.faults(&[Fault::CutAfter(200_000), Fault::Replaced]);
        let sandbox = Sandbox::new();
        pull(&sandbox, &hub, &["org/name"]).ok();
        let found = std::fs::read(stored(&sandbox, "m.gguf")).unwrap();
        assert!(found == other, "two versions were joined, ETags: {etags}");
    }
    // The same version is continued within a pull, and not in a later one.
    let hub = Hub::start(&[("m.gguf", &body)]).lists_plainly().has_etags();
    let hub = hub.faults(&[Fault::CutAfter(200_000), Fault::CutAfter(1000), Fault::Status(410)]);
    let sandbox = Sandbox::new();
    pull(&sandbox, &hub, &["org/name"]).fails(1, &["410"]);
    assert_eq!(hub.ranges(), [None, Some("bytes=200000-".into()), Some("bytes=201000-".into())]);
    pull(&sandbox, &hub, &["org/name"]).ok();
    assert_eq!(hub.ranges().last(), Some(&None));
    assert!(std::fs::read(stored(&sandbox, "m.gguf")).unwrap() == body);
}

#[test]
fn a_manifest_deletes_nothing_outside_the_store() {
    let hub = Hub::start(&[("m.gguf", b"abc")]);
    let sandbox = Sandbox::new();
    pull(&sandbox, &hub, &["org/name"]).ok();
    std::fs::write(sandbox.path("precious"), "kept").unwrap();
    let manifest = stored(&sandbox, "manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap().replace("m.gguf", "../../../../precious");
    std::fs::write(&manifest, text).unwrap();
    pull(&sandbox, &hub, &["org/name"]).fails(1, &["files below this folder", "help:"]);
    sandbox.run(&["rm", "org/name:../../../../precious"]).fails(2, &["not a model's name"]);
    sandbox.run(&["list"]).fails(1, &["files below this folder"]);
    assert_eq!(std::fs::read(sandbox.path("precious")).unwrap(), b"kept");
}

#[cfg(unix)]
#[test]
fn links_in_the_store_are_not_followed() {
    use std::os::unix::fs::{MetadataExt as _, symlink};
    let hub = Hub::start(&[("m.gguf", b"abc")]);
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(stored(&sandbox, "")).unwrap();
    std::fs::write(sandbox.path("precious"), "kept").unwrap();
    let part = format!("m.gguf.{}.part", &sha256(b"abc")[..12]);
    for name in [".lock", part.as_str()] {
        symlink(sandbox.path("precious"), stored(&sandbox, name)).unwrap();
        pull(&sandbox, &hub, &["org/name"]).fails(1, &[name, "a link"]);
        assert_eq!(std::fs::read(sandbox.path("precious")).unwrap(), b"kept");
        std::fs::remove_file(stored(&sandbox, name)).unwrap();
    }
    pull(&sandbox, &hub, &["org/name"]).ok();
    let mode = |name: &str| std::fs::metadata(stored(&sandbox, name)).unwrap().mode();
    assert_eq!(mode("manifest.json"), mode("m.gguf"));
}
