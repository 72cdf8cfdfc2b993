//! SentencePiece's `tokenizer.model`: a protobuf message with the vocabulary and two sets of options. The fields
//! below are those of `sentencepiece_model.proto` that matter for BPE and Unigram.

use super::charsmap::{CharsMap, Normalizer as Normalizing};
use super::error::TokenizeError;
use super::spm::{Spm, SpmOptions};
use super::tokenizer::Algorithm;
use super::unigram::Unigram;
use super::vocab::{Kind, VocabBuilder};
use crate::TokenId;
use prost::Message;

#[derive(Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Normalizer>,
}

#[derive(Message)]
struct Piece {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, tag = "3", default = "1")]
    kind: i32,
}

#[derive(Message)]
struct Trainer {
    #[prost(int32, tag = "3", default = "1")]
    model: i32,
    #[prost(bool, tag = "24")]
    space_as_suffix: bool,
    #[prost(int32, tag = "41", default = "1")]
    bos: i32,
    #[prost(int32, tag = "42", default = "2")]
    eos: i32,
}

/// The number of the model type Unigram.
const UNIGRAM: i32 = 1;

#[derive(Message)]
struct Normalizer {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "vec", tag = "2")]
    charsmap: Vec<u8>,
    #[prost(bool, tag = "3", default = "true")]
    add_dummy_prefix: bool,
    #[prost(bool, tag = "4", default = "true")]
    remove_extra_whitespaces: bool,
    #[prost(bool, tag = "5", default = "true")]
    escape_whitespaces: bool,
}

/// The vocabulary of a `tokenizer.model` and its handling of spaces, for writing it in another format.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// Text, score, and type with SentencePiece's number (which GGUF adopted).
    pub tokens: Vec<(String, f32, i32)>,
    /// Whether a space is added before a text.
    pub space_prefix: bool,
    /// Whether runs of spaces count as one.
    pub squeeze_spaces: bool,
}

/// Reads only the vocabulary.
pub fn pieces(bytes: &[u8]) -> Result<Pieces, TokenizeError> {
    let (pieces, trainer, normalizer) = decode(bytes)?;
    check(&trainer, &normalizer)?;
    if trainer.model == UNIGRAM {
        return Err(TokenizeError::Unsupported {
            what: "SentencePiece model type",
            found: "unigram".to_owned(),
            known: "bpe".to_owned(),
        });
    }
    Ok(Pieces {
        tokens: pieces.into_iter().map(|piece| (piece.text, piece.score, piece.kind)).collect(),
        space_prefix: normalizer.add_dummy_prefix,
        squeeze_spaces: normalizer.remove_extra_whitespaces,
    })
}

fn decode(bytes: &[u8]) -> Result<(Vec<Piece>, Trainer, Normalizer), TokenizeError> {
    let model = ModelProto::decode(bytes)
        .map_err(|e| TokenizeError::invalid("tokenizer.model", "a SentencePiece model", e.to_string()))?;
    Ok((model.pieces, model.trainer.unwrap_or_default(), model.normalizer.unwrap_or_default()))
}

/// Reads a `tokenizer.model`. Models with BPE want BOS.
pub(super) fn read(bytes: &[u8]) -> Result<(VocabBuilder, Algorithm), TokenizeError> {
    let (pieces, trainer, normalizer) = decode(bytes)?;
    check(&trainer, &normalizer)?;

    let (mut texts, mut kinds, mut scores) = (Vec::new(), Vec::new(), Vec::new());
    let mut unknown = None;
    for (id, piece) in pieces.into_iter().enumerate() {
        let kind = match piece.kind {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            other => {
                let what = format!("type of token {id}");
                return Err(TokenizeError::invalid(what, "1 to 6", other.to_string()));
            }
        };
        if kind == Kind::Unknown {
            unknown.get_or_insert(id as TokenId);
        }
        texts.push(piece.text);
        kinds.push(kind);
        scores.push(piece.score);
    }
    super::gguf::check_unique(&texts)?;
    if trainer.model == UNIGRAM {
        let normalizing = Normalizing {
            charsmap: CharsMap::read(&normalizer.charsmap)?,
            squeeze_spaces: normalizer.remove_extra_whitespaces,
        };
        let prefix = normalizer.add_dummy_prefix;
        let (tokens, unigram) = Unigram::new(&texts, &kinds, &scores, unknown, prefix, normalizing)?;
        return builder(tokens, &trainer, false)
            .map(|builder| (builder, Algorithm::Unigram(Box::new(unigram))));
    }
    let options = SpmOptions {
        unknown,
        space_prefix: normalizer.add_dummy_prefix,
        squeeze_spaces: normalizer.remove_extra_whitespaces,
        finds_user_defined: true,
    };
    let (tokens, spm) = Spm::new(&texts, &kinds, &scores, options)?;
    builder(tokens, &trainer, true).map(|builder| (builder, Algorithm::Spm(Box::new(spm))))
}

fn builder(
    tokens: Vec<(Vec<u8>, Kind)>,
    trainer: &Trainer,
    adds_bos: bool,
) -> Result<VocabBuilder, TokenizeError> {
    Ok(VocabBuilder {
        bos: special_id("bos_id", trainer.bos, tokens.len())?,
        eos: special_id("eos_id", trainer.eos, tokens.len())?,
        tokens,
        adds_bos,
        eats_space: Default::default(),
        end_tokens: Vec::new(),
        user_defined_apart: false,
    })
}

/// Rejects options that the encoder does not support.
fn check(trainer: &Trainer, normalizer: &Normalizer) -> Result<(), TokenizeError> {
    let unsupported = |what, found: &str, known: &str| {
        Err(TokenizeError::Unsupported { what, found: found.to_owned(), known: known.to_owned() })
    };
    match trainer.model {
        2 | UNIGRAM => {}
        3 => return unsupported("SentencePiece model type", "word", "bpe, unigram"),
        4 => return unsupported("SentencePiece model type", "char", "bpe, unigram"),
        other => return unsupported("SentencePiece model type", &other.to_string(), "bpe (2), unigram (1)"),
    }
    if !normalizer.charsmap.is_empty() && trainer.model != UNIGRAM {
        return unsupported("SentencePiece normalizer", &normalizer.name, "identity");
    }
    if trainer.space_as_suffix || !normalizer.escape_whitespaces {
        return unsupported("SentencePiece white space rule", "spaces at the end of words", "▁ before words");
    }
    Ok(())
}

/// A special token's id; a negative id means that there is none.
fn special_id(name: &str, id: i32, count: usize) -> Result<Option<TokenId>, TokenizeError> {
    match TokenId::try_from(id) {
        Err(_) => Ok(None),
        Ok(id) if (id as usize) < count => Ok(Some(id)),
        Ok(id) => Err(TokenizeError::invalid(name, format!("an id below {count}"), id.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Metadata, Value};
    use crate::tokenize::{Encode, Tokenizer};

    #[test]
    fn a_unigram_model_is_the_same_in_gguf() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/tokenizers/unigram.model");
        let (pieces, _, normalizer) = decode(&std::fs::read(path).unwrap()).unwrap();
        let unknown = pieces.iter().position(|piece| piece.kind == 2).unwrap() as u32;
        let bytes = normalizer.charsmap.iter().map(|&byte| Value::I8(byte as i8)).collect();
        let entries = [
            ("model", Value::String("t5".into())),
            ("tokens", Value::Strings(pieces.iter().map(|piece| piece.text.clone()).collect())),
            ("scores", Value::Floats(pieces.iter().map(|piece| piece.score).collect())),
            ("token_type", Value::Ints(pieces.iter().map(|piece| piece.kind).collect())),
            ("precompiled_charsmap", Value::Array(bytes)),
            ("unknown_token_id", Value::U32(unknown)),
            ("add_space_prefix", Value::Bool(true)),
            ("remove_extra_whitespaces", Value::Bool(true)),
        ];
        let entries = entries.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value));
        let gguf = Tokenizer::from_gguf(&Metadata(entries.into_iter().collect())).unwrap();
        let model = Tokenizer::from_file(path.as_ref()).unwrap();
        let encode = |tokenizer: &Tokenizer| {
            tokenizer.encode("  \u{212b} wind… \u{fb01}n 風, and so on\n", Encode::default()).unwrap()
        };
        let ids = encode(&gguf);
        assert_eq!(ids, encode(&model));
        assert!(ids.len() > 8 && gguf.decode(&ids, false) == model.decode(&ids, false));
    }
}
