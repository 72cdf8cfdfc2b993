//! SentencePiece's `tokenizer.model`: a protobuf message with the vocabulary and two sets of options. The fields
//! below are those of `sentencepiece_model.proto` that matter for BPE.

use super::error::TokenizeError;
use super::spm::{Spm, SpmOptions};
use super::tokenizer::Algorithm;
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

/// Reads a `tokenizer.model`. Models of this kind use BOS.
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
    let options = SpmOptions {
        unknown,
        space_prefix: normalizer.add_dummy_prefix,
        squeeze_spaces: normalizer.remove_extra_whitespaces,
        finds_user_defined: true,
    };
    let (tokens, spm) = Spm::new(&texts, &kinds, &scores, options)?;
    let builder = VocabBuilder {
        bos: special_id("bos_id", trainer.bos, tokens.len())?,
        eos: special_id("eos_id", trainer.eos, tokens.len())?,
        tokens,
        adds_bos: true,
        end_tokens: Vec::new(),
        user_defined_apart: false,
    };
    Ok((builder, Algorithm::Spm(Box::new(spm))))
}

/// Rejects options that the encoder does not support.
fn check(trainer: &Trainer, normalizer: &Normalizer) -> Result<(), TokenizeError> {
    let unsupported = |what, found: &str, known: &str| {
        Err(TokenizeError::Unsupported { what, found: found.to_owned(), known: known.to_owned() })
    };
    match trainer.model {
        2 => {}
        1 => return unsupported("SentencePiece model type", "unigram", "bpe"),
        3 => return unsupported("SentencePiece model type", "word", "bpe"),
        4 => return unsupported("SentencePiece model type", "char", "bpe"),
        other => return unsupported("SentencePiece model type", &other.to_string(), "bpe (2)"),
    }
    if !normalizer.charsmap.is_empty() {
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
