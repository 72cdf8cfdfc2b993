//! Mistral's instruct formats v1 to v15 against the ids of `mistral-common` (`testdata/tokenizers/mistral/`).

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zonda_engine::tokenize::{ChatTemplate, Message, RenderOptions, TemplateError, Tokenizer};
use zonda_engine::{TextProcessor, TokenId};
use zonda_testkit::models;

#[derive(serde::Deserialize)]
struct Goldens {
    tools: Vec<Value>,
    chats: Vec<Chat>,
    versions: BTreeMap<String, Version>,
}

#[derive(serde::Deserialize)]
struct Chat {
    messages: Vec<Message>,
    #[serde(default)]
    tools: Vec<usize>,
    effort: Option<String>,
}

#[derive(serde::Deserialize)]
struct Version {
    /// A file of `mistral-common`; `None`: the small tokenizer.
    file: Option<String>,
    version: String,
    /// Number of the chat, count and hash of its ids.
    chats: Vec<(usize, usize, String)>,
    whole: BTreeMap<usize, Vec<TokenId>>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizers/mistral")
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A folder as a model has it: its tokenizer's file and no template.
fn folder(file: Option<&str>, version: &str) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let Some(file) = file else {
        let mut tekken: Value = read(&data().join("tekken.json"));
        tekken["config"]["version"] = version.into();
        if version != "v15" {
            tekken.as_object_mut().unwrap().shift_remove("model_settings_builder");
        }
        std::fs::write(folder.path().join("tekken.json"), tekken.to_string()).unwrap();
        return Some(folder);
    };
    let source = models::find(&format!("mistral-common/{file}"))?;
    let name =
        if file.ends_with(".json") { "tekken.json".to_owned() } else { format!("tokenizer.model.{version}") };
    std::fs::copy(source, folder.path().join(name)).unwrap();
    Some(folder)
}

/// A model's text processor, found in its folder.
fn processor(folder: &Path) -> TextProcessor {
    let tokenizer = Tokenizer::from_folder(folder).unwrap().unwrap();
    let template = ChatTemplate::from_folder(folder, &tokenizer).unwrap().expect("a built-in template");
    TextProcessor { tokenizer: Arc::new(tokenizer), template: Some(Arc::new(template)) }
}

/// FNV-1a over the ids as little-endian `u32`.
fn hash(ids: &[TokenId]) -> String {
    let bytes = ids.iter().flat_map(|id| id.to_le_bytes());
    let value = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |value, byte| {
        (value ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{value:016x}")
}

#[test]
fn every_version_gives_the_ids_of_mistral_common() {
    let Goldens { tools, chats, versions } = read(&data().join("formats.json"));
    let mut wrong = Vec::new();
    for (name, Version { file, version, chats: expected, whole }) in versions {
        assert!(expected.len() >= 100, "{name}: {} conversations", expected.len());
        let Some(folder) = folder(file.as_deref(), &version) else { return };
        let text = processor(folder.path());
        for (index, count, expected) in expected {
            let chat = &chats[index];
            let mut options = RenderOptions {
                tools: chat.tools.iter().map(|&tool| tools[tool].clone()).collect(),
                ..RenderOptions::default()
            };
            if let Some(effort) = &chat.effort {
                options.extra.insert("reasoning_effort".to_owned(), effort.as_str().into());
            }
            let found = match text.encode_chat(&chat.messages, &options) {
                Ok(found) => found,
                Err(error) => {
                    wrong.push(format!("{name}, {index}: {error}"));
                    continue;
                }
            };
            if let Some(ids) = whole.get(&index) {
                let shown = text.tokenizer.decode(ids, false);
                assert!(found == *ids, "{name}, {index}: {found:?}, expected {ids:?}: {shown:?}");
            }
            if (found.len(), hash(&found)) != (count, expected) {
                let shown = text.tokenizer.decode(&found, false);
                wrong.push(format!("{name}, {index}: {} ids, expected {count}: {shown:?}", found.len()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong[..wrong.len().min(12)].join("\n"));
}

#[test]
fn settings_that_a_model_does_not_have_are_refused() {
    let folder = |version| folder(None, version).unwrap();
    let render = |version, effort: &str| {
        let text = processor(folder(version).path());
        let mut options = RenderOptions::default();
        options.extra.insert("reasoning_effort".to_owned(), effort.into());
        let messages = [Message::user("hi")];
        text.template.unwrap().render(&messages, &options)
    };
    for (version, effort) in [("v13", "high"), ("v15", "extreme")] {
        let error = render(version, effort).unwrap_err();
        assert!(
            matches!(&error, TemplateError::Refused(why) if why.contains("reasoning_effort")),
            "{version}: {error}"
        );
    }
    assert!(
        render("v15", "high")
            .unwrap()
            .contains(r#"[MODEL_SETTINGS]{"reasoning_effort": "high"}[/MODEL_SETTINGS]"#)
    );
}

#[test]
fn a_tekken_file_of_an_unknown_version_has_no_template() {
    let folder = folder(None, "v99").unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap().unwrap();
    assert!(ChatTemplate::from_folder(folder.path(), &tokenizer).unwrap().is_none());
}

#[test]
fn a_tekken_file_shows_the_format_beside_another_tokenizer() {
    let folder = folder(None, "v13").unwrap();
    let path = folder.path();
    std::fs::write(path.join("tokenizer.json"), "{}").unwrap();
    let find = || ChatTemplate::from_folder(path, &Tokenizer::mock()).unwrap().unwrap();
    assert!(find().source().contains("[THINK]"));
    std::fs::write(path.join("chat_template.jinja"), "its own").unwrap();
    assert_eq!(find().source(), "its own");
}
