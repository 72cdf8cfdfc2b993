//! [`Constraint`]: keeps a generation to a [`Grammar`] with a mask over the logits.
//!
//! The crate `llguidance` parses the text generated so far and names the tokens that may come next; the logits of all others
//! become negative infinity before sampling. A [`GrammarCompiler`] holds what depends on the vocabulary alone, a
//! [`Constraint`] one generation's state.

use super::error::SampleError;
use super::grammar::{Grammar, GrammarError, with_bounded_whitespace};
use crate::TokenId;
use crate::tokenize::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use std::fmt;
use std::sync::Arc;

/// Compiles grammars for one vocabulary. Share it in an `Arc`: building it takes a tenth of a second.
pub struct GrammarCompiler {
    factory: ParserFactory,
    /// The tokens that end a generation.
    ends: Arc<[TokenId]>,
}

impl GrammarCompiler {
    /// For a tokenizer's vocabulary.
    ///
    /// # Errors
    /// If the vocabulary has no end-of-sequence token, or `llguidance` refuses it.
    pub fn new(tokenizer: &Tokenizer) -> Result<GrammarCompiler, GrammarError> {
        let ends: Arc<[TokenId]> = tokenizer.end_tokens().into();
        let Some(&end) = ends.first() else {
            return Err(GrammarError::Invalid(
                "the model has no end-of-sequence token, so no grammar can end".to_owned(),
            ));
        };
        let size = tokenizer.vocab_size();
        let words: Vec<Vec<u8>> = (0..size as TokenId).map(|id| word(tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, end), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory =
            ParserFactory::new_simple(&env).map_err(|e| GrammarError::Invalid(e.to_string()))?;
        factory.quiet();
        // Generated text is private: it must not appear in error messages.
        factory.limits_mut().verbose_errors = false;
        Ok(GrammarCompiler { factory, ends })
    }

    /// Compiles a grammar for one generation.
    ///
    /// # Errors
    /// The problem with the grammar.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, GrammarError> {
        let parser = self.factory.create_parser(parsed(grammar)?);
        let mut matcher = Matcher::new(parser);
        match matcher.get_error().or_else(|| matcher.compute_mask().err().map(|e| e.to_string())) {
            Some(error) => Err(GrammarError::Invalid(error)),
            None => Ok(Constraint { matcher: Box::new(matcher), ends: self.ends.clone() }),
        }
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").field("ends", &self.ends).finish_non_exhaustive()
    }
}

/// The grammar as `llguidance` takes it.
fn parsed(grammar: &Grammar) -> Result<TopLevelGrammar, GrammarError> {
    Ok(match grammar {
        Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(with_bounded_whitespace(schema)?),
        Grammar::Lark(text) => TopLevelGrammar::from_lark(text.clone()),
        Grammar::Regex(pattern) => TopLevelGrammar::from_regex(pattern),
    })
}

/// A token's bytes for `llguidance`: control tokens get a marker byte that no text contains.
fn word(tokenizer: &Tokenizer, id: TokenId) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id).unwrap_or_default();
    match bytes {
        bytes if tokenizer.is_special(id) => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
        // No UTF-8 begins with this byte: such a token can't be part of a text.
        [TokTrie::SPECIAL_TOKEN_MARKER, ..] => Vec::new(),
        bytes => bytes.to_vec(),
    }
}

/// The state of one generation in its grammar.
pub struct Constraint {
    matcher: Box<Matcher>,
    ends: Arc<[TokenId]>,
}

impl Constraint {
    /// Forbids the tokens that can't come next in a row of logits, `[vocab]`. If the text may end, all of the model's end tokens
    /// are allowed.
    ///
    /// # Errors
    /// If the parser fails because it reaches its limit of work per token.
    pub fn mask(&mut self, row: &mut [f32], position: usize) -> Result<(), SampleError> {
        let allowed = self.matcher.compute_mask_or_eos();
        let allowed = allowed.map_err(|e| SampleError::Grammar { reason: e.to_string(), position })?;
        let end = self.ends.iter().any(|&id| allowed.is_allowed(id));
        let ends: Vec<(TokenId, f32)> = self.ends.iter().map(|&id| (id, row[id as usize])).collect();
        // The trie holds the tokenizer's tokens; a model's further rows are padding.
        let known = allowed.len().min(row.len());
        for (id, logit) in row[..known].iter_mut().enumerate() {
            if !allowed.is_allowed(id as TokenId) {
                *logit = f32::NEG_INFINITY;
            }
        }
        row[known..].fill(f32::NEG_INFINITY);
        for (id, logit) in ends {
            row[id as usize] = if end { logit } else { f32::NEG_INFINITY };
        }
        Ok(())
    }

    /// Advances the grammar by the chosen token.
    ///
    /// # Errors
    /// If the token does not follow the grammar; tokens that the mask allows always do.
    pub fn accept(&mut self, token: TokenId, position: usize) -> Result<(), SampleError> {
        if self.ends.contains(&token) {
            return Ok(());
        }
        let taken = self.matcher.consume_token(token);
        taken.map_err(|e| SampleError::Grammar { reason: e.to_string(), position })
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sampler, SamplingParams};
    use crate::tokenize::Encode;
    use serde_json::{Value, json};
    use std::sync::LazyLock;

    static MOCK: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::mock);
    static COMPILER: LazyLock<GrammarCompiler> =
        LazyLock::new(|| GrammarCompiler::new(&MOCK).expect("the mock has an end token"));

    /// Greedy text under a grammar from logits that like `favourites` best, then low ids; at most 400 tokens.
    fn generate(grammar: &Grammar, favourites: &str) -> String {
        let constraint = COMPILER.compile(grammar).unwrap();
        let mut sampler = Sampler::new(SamplingParams::greedy()).with_constraint(Some(constraint));
        let liked = MOCK.encode(favourites, Encode::default()).unwrap();
        let mut ids = Vec::new();
        for _ in 0..400 {
            let mut row = vec![-1.0; MOCK.vocab_size()];
            liked.iter().for_each(|&id| row[id as usize] = 1.0);
            let token = sampler.sample(&mut row, &ids).unwrap().token;
            if MOCK.end_tokens().contains(&token) {
                return MOCK.decode(&ids, false);
            }
            ids.push(token);
        }
        panic!("no end: {}", MOCK.decode(&ids, false))
    }

    #[test]
    fn a_schema_is_kept_to() {
        let schema = json!({
            "type": "object",
            "properties": {"place": {"enum": ["house", "sea"]}, "old": {"type": "boolean"}},
            "required": ["place", "old"],
            "additionalProperties": false,
        });
        let text = generate(&Grammar::JsonSchema(schema), "sea");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["place"], "sea");
        assert!(value["old"].is_boolean());
    }

    #[test]
    fn the_end_comes_where_the_grammar_ends_and_not_before() {
        assert_eq!(generate(&Grammar::Regex("(water|wind) house".into()), "wind"), "wind house");
        assert_eq!(generate(&Grammar::Lark("start: \"a\" \"b\"".into()), "b"), "ab");
        assert_eq!(generate(&Grammar::Lark("start: /a+/ <|im_start|> \"b\"".into()), "b"), "a<|im_start|>b");
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let fails = |grammar: Grammar| COMPILER.compile(&grammar).unwrap_err().to_string();
        let unique = json!({"type": "array", "uniqueItems": true});
        assert!(fails(Grammar::JsonSchema(unique)).contains("uniqueItems"));
        let lenient = json!({"type": "array", "uniqueItems": true, "x-guidance": {"lenient": true}});
        assert!(fails(Grammar::JsonSchema(lenient)).contains("uniqueItems"));
        let never = json!({"type": "string", "minLength": 2, "maxLength": 1});
        assert!(fails(Grammar::JsonSchema(never)).contains("nsatisfiable"));
        assert!(fails(Grammar::JsonSchema(json!("string"))).contains("object"));
        assert!(!fails(Grammar::Regex("(".into())).is_empty());
        assert!(fails(Grammar::Lark("start: nothing".into())).contains("nothing"));
    }
}
