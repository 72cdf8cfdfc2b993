//! From a Hugging Face folder's tokenizer to GGUF metadata (`tokenizer.*`), as llama.cpp's converter writes it.

use crate::error::ConvertError;
use serde_json::Value as Json;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use zonda_engine::TokenId;
use zonda_engine::load::{Metadata, Value};
use zonda_engine::tokenize::{Tokenizer, pieces, preset_name};

/// GGUF's numbers for kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// GPT-2's expression, applied by a `ByteLevel` pre-tokenizer with `use_regex`.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// The English contractions in the newer expressions, as published files and as the presets write them.
const ENDINGS: (&str, &str) =
    ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]");

/// The keys for the tokenizer and chat template of a folder, for a model of `vocab_size` rows. No keys if the folder has no
/// tokenizer.
///
/// # Errors
/// If GGUF can't express the tokenizer, or the tokenizer's file is malformed.
pub(crate) fn metadata(folder: &Path, vocab_size: usize) -> Result<Metadata, ConvertError> {
    let mut metadata = Metadata::default();
    let Some(tokenizer) = Tokenizer::from_folder(folder)? else { return Ok(metadata) };
    let vocabulary = Vocabulary::of_folder(folder, vocab_size)?;

    let mut put = |key: &str, value: Value| metadata.0.insert(format!("tokenizer.{key}"), value);
    match vocabulary.algorithm {
        Algorithm::ByteLevel { pre, merges } => {
            put("ggml.model", Value::String("gpt2".to_owned()));
            put("ggml.pre", Value::String(pre.to_owned()));
            put("ggml.merges", Value::Strings(merges.iter().map(|(a, b)| format!("{a} {b}")).collect()));
        }
        Algorithm::SentencePiece { scores, space_prefix, squeeze_spaces } => {
            put("ggml.model", Value::String("llama".to_owned()));
            put("ggml.pre", Value::String("default".to_owned()));
            put("ggml.scores", Value::Floats(scores));
            put("ggml.add_space_prefix", Value::Bool(space_prefix));
            put("ggml.remove_extra_whitespaces", Value::Bool(squeeze_spaces));
        }
    }
    put("ggml.tokens", Value::Strings(vocabulary.tokens));
    put("ggml.token_type", Value::Ints(vocabulary.kinds));
    put("ggml.add_bos_token", Value::Bool(tokenizer.adds_bos()));
    for (key, id) in [("bos", tokenizer.bos()), ("eos", tokenizer.eos())] {
        if let Some(id) = id {
            put(&format!("ggml.{key}_token_id"), Value::U32(id));
        }
    }
    for (key, name) in [("unknown", "unk_token"), ("padding", "pad_token")] {
        if let Some(id) = special_token(folder, name)?.and_then(|text| tokenizer.token_id(&text)) {
            put(&format!("ggml.{key}_token_id"), Value::U32(id));
        }
    }
    // GGUF has one id for the end of a text and one for the end of a turn; a folder lists all ids that end a generation.
    let ends = end_ids(folder)?;
    let turn_end = ends.into_iter().find(|&id| Some(id) != tokenizer.eos() && (id as usize) < vocab_size);
    if let Some(id) = turn_end {
        put("ggml.eot_token_id", Value::U32(id));
    }
    if let Some(template) = chat_template(folder)? {
        put("chat_template", Value::String(template));
    }
    Ok(metadata)
}

/// The chat template's source: a separate file, or in `tokenizer_config.json`, alone or as one of several named templates.
fn chat_template(folder: &Path) -> Result<Option<String>, ConvertError> {
    let path = folder.join("chat_template.jinja");
    if path.is_file() {
        return fs::read_to_string(&path).map(Some).map_err(ConvertError::read(&path));
    }
    let path = folder.join("tokenizer_config.json");
    if !path.is_file() {
        return Ok(None);
    }
    let config = read_json(&path)?;
    let template = &config["chat_template"];
    let default = template.as_array().into_iter().flatten().find(|t| t["name"] == "default");
    Ok(template.as_str().or(default.and_then(|t| t["template"].as_str())).map(str::to_owned))
}

/// The text of a special token that the files beside `tokenizer.json` name.
fn special_token(folder: &Path, name: &str) -> Result<Option<String>, ConvertError> {
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let path = folder.join(file);
        if path.is_file() {
            let json = read_json(&path)?;
            // A token is its text, or an object that contains it.
            if let Some(text) = json[name].as_str().or(json[name]["content"].as_str()) {
                return Ok(Some(text.to_owned()));
            }
        }
    }
    Ok(None)
}

/// The ids that end a generation, from `generation_config.json`.
fn end_ids(folder: &Path) -> Result<Vec<TokenId>, ConvertError> {
    let path = folder.join("generation_config.json");
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let ends = &read_json(&path)?["eos_token_id"];
    let ends = ends.as_array().map_or(std::slice::from_ref(ends), Vec::as_slice);
    Ok(ends.iter().filter_map(Json::as_u64).filter_map(|id| TokenId::try_from(id).ok()).collect())
}

fn read_json(path: &Path) -> Result<Json, ConvertError> {
    let bytes = fs::read(path).map_err(ConvertError::read(path))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| ConvertError::tokenizer(path.display().to_string(), "a JSON document", e.to_string()))
}

/// A tokenizer as GGUF stores it.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    algorithm: Algorithm,
}

enum Algorithm {
    ByteLevel { pre: &'static str, merges: Vec<(String, String)> },
    SentencePiece { scores: Vec<f32>, space_prefix: bool, squeeze_spaces: bool },
}

impl Vocabulary {
    fn of_folder(folder: &Path, size: usize) -> Result<Vocabulary, ConvertError> {
        let path = folder.join("tokenizer.json");
        if path.is_file() {
            return Vocabulary::from_json(&read_json(&path)?, size);
        }
        let names = ["tokenizer.model", "tokenizer.model.v3", "tokenizer.model.v7"];
        match names.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
            Some(path) => {
                let bytes = fs::read(&path).map_err(ConvertError::read(&path))?;
                Vocabulary::from_sentence_piece(&bytes, size)
            }
            None => Err(ConvertError::tokenizer(
                folder.display().to_string(),
                "tokenizer.json or tokenizer.model",
                "another tokenizer file",
            )),
        }
    }

    fn from_sentence_piece(bytes: &[u8], size: usize) -> Result<Vocabulary, ConvertError> {
        let pieces = pieces(bytes)?;
        let mut slots = Slots::new(size);
        let mut scores = vec![0.0; size];
        for (id, (text, score, kind)) in pieces.tokens.into_iter().enumerate() {
            slots.set(&text, id as u64, kind)?;
            scores[id] = score;
        }
        let (tokens, kinds) = slots.finish();
        let (space_prefix, squeeze_spaces) = (pieces.space_prefix, pieces.squeeze_spaces);
        let algorithm = Algorithm::SentencePiece { scores, space_prefix, squeeze_spaces };
        Ok(Vocabulary { tokens, kinds, algorithm })
    }

    fn from_json(json: &Json, size: usize) -> Result<Vocabulary, ConvertError> {
        let model = &json["model"];
        // Older files omit the type.
        if !matches!(model["type"].as_str(), Some("BPE") | None) {
            return Err(wrong("model.type", "BPE", &model["type"]));
        }
        let is_byte_level = find(&json["decoder"], "ByteLevel").is_some();
        let vocab =
            model["vocab"].as_object().ok_or_else(|| wrong("model.vocab", "an object", &model["vocab"]))?;
        let id_of = |id: &Json| id.as_u64().ok_or_else(|| wrong("a token's id", "a number", id));

        let mut slots = Slots::new(size);
        let unknown = model["unk_token"].as_str();
        for (text, id) in vocab {
            let is_byte = !is_byte_level && text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            let kind = match text.as_str() {
                t if Some(t) == unknown => UNKNOWN,
                _ if is_byte => BYTE,
                _ => NORMAL,
            };
            slots.set(text, id_of(id)?, kind)?;
        }
        for token in json["added_tokens"].as_array().into_iter().flatten() {
            let text =
                token["content"].as_str().ok_or_else(|| wrong("an added token", "a content", token))?;
            let kind = match token["special"].as_bool() {
                _ if Some(text) == unknown => UNKNOWN,
                Some(true) => CONTROL,
                _ => USER_DEFINED,
            };
            slots.set(text, id_of(&token["id"])?, kind)?;
        }
        let (tokens, kinds) = slots.finish();

        let merges = model["merges"].as_array().into_iter().flatten().map(|merge| {
            let pair = match merge {
                Json::String(text) => text.split_once(' '),
                Json::Array(pair) if pair.len() == 2 => pair[0].as_str().zip(pair[1].as_str()),
                _ => None,
            };
            let (a, b) = pair.ok_or_else(|| wrong("a merge", "two texts", merge))?;
            Ok((a.to_owned(), b.to_owned()))
        });
        let merges = merges.collect::<Result<Vec<_>, ConvertError>>()?;
        let algorithm = match is_byte_level {
            true => Algorithm::ByteLevel { pre: pre_tokenizer(json)?, merges },
            false => Algorithm::SentencePiece {
                scores: scores(&tokens, &kinds, &merges),
                space_prefix: adds_space(json),
                squeeze_spaces: false,
            },
        };
        Ok(Vocabulary { tokens, kinds, algorithm })
    }
}

/// The rows of a vocabulary, filled in any order.
struct Slots {
    tokens: Vec<Option<String>>,
    kinds: Vec<i32>,
}

impl Slots {
    fn new(size: usize) -> Slots {
        Slots { tokens: vec![None; size], kinds: vec![UNUSED; size] }
    }

    fn set(&mut self, text: &str, id: u64, kind: i32) -> Result<(), ConvertError> {
        let size = self.tokens.len();
        let slot = usize::try_from(id).ok().filter(|&id| id < size).ok_or_else(|| {
            let expected = format!("below {size}, the model's vocabulary");
            ConvertError::tokenizer(format!("id of {text:?}"), expected, id.to_string())
        })?;
        self.tokens[slot] = Some(text.to_owned());
        self.kinds[slot] = kind;
        Ok(())
    }

    /// Texts and types. Rows without a text are padding of a vocabulary that was rounded up.
    fn finish(self) -> (Vec<String>, Vec<i32>) {
        let named = |(id, token): (usize, Option<String>)| token.unwrap_or_else(|| format!("[PAD{id}]"));
        (self.tokens.into_iter().enumerate().map(named).collect(), self.kinds)
    }
}

/// SentencePiece scores that reproduce the order of the listed merges: the result of an earlier merge has a better score.
/// Tokens that are not the result of a merge come last; their scores are never compared.
fn scores(tokens: &[String], kinds: &[i32], merges: &[(String, String)]) -> Vec<f32> {
    let mut rank: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (a, b) in merges {
        let next = rank.len();
        rank.entry(format!("{a}{b}")).or_insert(next);
    }
    let score = |(id, token): (usize, &String)| match kinds[id] {
        NORMAL => -(rank.get(token).map_or(rank.len() + id, |&r| r) as f32),
        _ => 0.0,
    };
    tokens.iter().enumerate().map(score).collect()
}

fn wrong(what: &str, expected: &str, found: &Json) -> ConvertError {
    ConvertError::tokenizer(what, expected, found.to_string().chars().take(60).collect::<String>())
}

/// The first component of this type in a (possibly nested) component.
fn find<'a>(component: &'a Json, name: &str) -> Option<&'a Json> {
    if component["type"] == name {
        return Some(component);
    }
    ["decoders", "normalizers", "pretokenizers"]
        .iter()
        .flat_map(|key| component[*key].as_array().into_iter().flatten())
        .find_map(|part| find(part, name))
}

/// Whether a SentencePiece-like tokenizer puts a space in front of a text.
fn adds_space(json: &Json) -> bool {
    let metaspace = find(&json["pre_tokenizer"], "Metaspace");
    find(&json["normalizer"], "Prepend").is_some()
        || metaspace.is_some_and(|m| m["prepend_scheme"] != "never" && m["add_prefix_space"] != false)
}

/// GGUF's name for a byte-level pre-tokenizer.
fn pre_tokenizer(json: &Json) -> Result<&'static str, ConvertError> {
    let mut stages = Vec::new();
    let whole_words = json["model"]["ignore_merges"] == true;
    collect_stages(&json["pre_tokenizer"], &mut stages)?;
    preset_name(&stages, whole_words).ok_or_else(|| {
        ConvertError::tokenizer("pre_tokenizer", "one with a name in GGUF", format!("{stages:?}"))
    })
}

/// The expressions of a pre-tokenizer, one per stage.
fn collect_stages(component: &Json, stages: &mut Vec<String>) -> Result<(), ConvertError> {
    let refuse = || {
        let found = component.to_string().chars().take(120).collect::<String>();
        Err(ConvertError::tokenizer("pre_tokenizer", "Sequence, Split, Digits or ByteLevel", found))
    };
    match component["type"].as_str() {
        Some("Sequence") => {
            let parts = component["pretokenizers"].as_array().into_iter().flatten();
            parts.into_iter().try_for_each(|part| collect_stages(part, stages))?;
        }
        Some("Split") => {
            let pattern = component["pattern"]["Regex"].as_str();
            // "Removed" with `invert` keeps the matches: the same, for expressions that match everything.
            let isolates = component["behavior"] == "Isolated" && component["invert"] != true
                || component["behavior"] == "Removed" && component["invert"] == true;
            match pattern.filter(|_| isolates) {
                Some(pattern) => stages.push(pattern.replace(ENDINGS.0, ENDINGS.1)),
                None => return refuse(),
            }
        }
        Some("Digits") => {
            let each = component["individual_digits"] == true;
            stages.push(if each { r"\p{N}" } else { r"\p{N}+" }.to_owned());
        }
        Some("ByteLevel") if component["add_prefix_space"] == true => return refuse(),
        Some("ByteLevel") if component["use_regex"] != false => stages.push(GPT2.to_owned()),
        Some("ByteLevel") => {}
        _ => return refuse(),
    }
    Ok(())
}
