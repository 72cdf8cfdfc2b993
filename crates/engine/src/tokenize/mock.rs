//! The mock backend's tokenizer: a small closed vocabulary that needs no file, so that the engine, the bench and the
//! server can be tested without a model.

use super::bpe::Bpe;
use super::error::TokenizeError;
use super::pretokenize::PreTokenizer;
use super::tokenizer::{Algorithm, Tokenizer};
use super::vocab::{Kind, VocabBuilder};
use crate::TokenId;
use std::collections::HashSet;

/// Control tokens; the first two are BOS and EOS.
const CONTROL: [&str; 4] = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"];

/// Words that are one token, both at the start of a text and after a space.
const WORDS: &str = "\
    the of and to in is that it was for on are as with his they at be this from have or by one had not but what all \
    were when we there can an your which their said if do will each about how up out them then she many some so \
    these would other into has more her two like him see time could no make than first been its who now people my \
    made over did down only way find use may water long little very after words called just where most know get \
    through back much before go good new write our me man too any day same right look think also around another came \
    come work three word must because does part even place well such here take why things help put years different \
    away again off went old number great tell men say small every found still between name should home big give air \
    line set own under read last never us left end along while might next sound below saw something thought both few \
    those always looked show large often together asked house world going want school important until form food keep \
    children feet land side without boy once animals life enough took sometimes four head above kind began almost \
    live page got earth need far hand high year mother light parts country father let night following picture being \
    study second eyes soon times story boys since white days ever paper hard near sentence better best across during \
    today others however sure means knew try told young miles sun ways thing whole hear example heard several change \
    answer room sea against top turned learn point city play toward five using himself usually system user assistant \
    model token text code function wind fast warm";

impl Tokenizer {
    /// The mock backend's tokenizer: common English words, and bytes for everything else. It needs no file.
    pub fn mock() -> Tokenizer {
        tokenizer()
    }
}

/// Builds the tokenizer: control tokens, 256 bytes, words.
fn tokenizer() -> Tokenizer {
    let mut tokens: Vec<(Vec<u8>, Kind)> =
        CONTROL.iter().map(|name| (name.as_bytes().to_vec(), Kind::Control)).collect();
    tokens.extend((0..=u8::MAX).map(|byte| (vec![byte], Kind::Normal)));
    for word in WORDS.split(' ') {
        for text in [word.to_owned(), format!(" {word}")] {
            tokens.push((text.into_bytes(), Kind::Normal));
        }
    }
    let mut seen = HashSet::new();
    tokens.retain(|(bytes, _)| seen.insert(bytes.clone()));
    let text = tokens.iter().enumerate().filter(|(_, (_, kind))| *kind == Kind::Normal);
    let by_bytes = text.map(|(id, (bytes, _))| (bytes.clone().into_boxed_slice(), id as TokenId)).collect();
    let size = tokens.len();
    let builder = VocabBuilder {
        tokens,
        bos: Some(0),
        eos: Some(1),
        adds_bos: true,
        eats_space: Default::default(),
        end_tokens: Vec::new(),
        user_defined_apart: true,
    };
    let build = || {
        let bpe = Bpe::new(PreTokenizer::gpt2()?, by_bytes, size, None, true);
        Ok::<_, TokenizeError>(Tokenizer {
            vocab: builder.build()?,
            algorithm: Algorithm::Bpe(Box::new(bpe)),
        })
    };
    build().expect("the vocabulary above is well-formed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenize::Encode;

    #[test]
    fn words_are_single_tokens_and_anything_round_trips() {
        let mock = Tokenizer::mock();
        let options = Encode { add_bos: true, parse_special: true };
        let ids = mock.encode("the water house", options).unwrap();
        assert_eq!(ids.len(), 4);
        assert_eq!(ids[0], mock.bos().unwrap());
        for text in ["", "Zonda – 風 👩‍💻\n\t  x", "<|im_start|>user\nhow?<|im_end|>"] {
            let ids = mock.encode(text, Encode { add_bos: false, parse_special: true }).unwrap();
            assert_eq!(mock.decode(&ids, false), text);
        }
        assert_eq!(mock.end_tokens(), [1, 3]);
    }
}
