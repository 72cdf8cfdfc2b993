//! [`Constraint`]: keeps a generation to a [`Grammar`] with a mask over the logits.
//!
//! The crate `llguidance` parses the text generated so far and names the tokens that may come next; the logits of all others
//! become negative infinity before sampling. A [`GrammarCompiler`] holds what depends on the vocabulary alone, a
//! [`Constraint`] one generation's state.

use super::bounds;
use super::error::SampleError;
use super::grammar::{Grammar, GrammarError, with_bounded_whitespace};
use crate::TokenId;
use crate::tokenize::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use std::fmt;
use std::sync::Arc;

/// Stack of the thread that compiles a grammar, in bytes. The system commits only the pages that are used.
const STACK: usize = 256 << 20;

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
        let bounded = match grammar {
            Grammar::JsonSchema(schema) => bounds::check_schema(schema),
            Grammar::Lark(text) => bounds::check_lark(text),
            Grammar::Regex(pattern) => bounds::check_regex(pattern),
        };
        bounded.map_err(GrammarError::Invalid)?;
        let invalid = |message: String| GrammarError::Invalid(message);
        // `llguidance` recurses from rule to rule. Grammars within the bounds fit this stack.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("zonda-grammar".into()).stack_size(STACK);
            let compiling = thread.spawn_scoped(scope, || self.compile_here(grammar));
            let compiling =
                compiling.map_err(|e| invalid(format!("no thread to compile the grammar: {e}")))?;
            compiling.join().unwrap_or_else(|_| Err(invalid("the grammar's compiler panicked".to_owned())))
        })
    }

    /// Compiles on the caller's stack.
    fn compile_here(&self, grammar: &Grammar) -> Result<Constraint, GrammarError> {
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

/// The state of one generation in its grammar. A clone is a generation of its own.
#[derive(Clone)]
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
    fn a_slash_in_a_pattern_may_be_escaped_or_not() {
        let lark = |pattern: &str| {
            let value = Grammar::Regex(pattern.into()).as_lark_value().unwrap();
            Grammar::Lark(format!("start: x | y\nx: {value}\ny: {value}\n"))
        };
        for pattern in ["a/b", r"a\/b"] {
            assert_eq!(generate(&lark(pattern), "b"), "a/b");
        }
    }

    /// Chains that overflowed the stack of the calling thread end in a mask or in an error that gives the bound.
    #[test]
    fn deep_grammars_are_compiled_or_refused() {
        let chain = |n: usize, name: &str| {
            let rules: String = (0..n).map(|i| format!("{name}{i}: {name}{}\n", i + 1)).collect();
            Grammar::Lark(format!("start: {name}0\n{rules}{name}{n}: \"a\"\n"))
        };
        assert_eq!(generate(&chain(700, "r"), "a"), "a");
        assert_eq!(generate(&chain(900, "T"), "a"), "a");
        let error = COMPILER.compile(&chain(20_000, "r")).unwrap_err().to_string();
        assert!(error.contains("expected at most"), "{error}");
        let groups = format!("start: {}\"a\"{}", "(".repeat(5000), ")".repeat(5000));
        assert!(COMPILER.compile(&Grammar::Lark(groups)).is_err());

        type Wrap = fn(Value) -> Value;
        let ways: [(&str, Wrap); 8] = [
            ("properties", |next| json!({"type": "object", "properties": {"a": next}})),
            ("items", |next| json!({"type": "array", "items": next, "maxItems": 1})),
            ("prefixItems", |next| json!({"type": "array", "prefixItems": [next]})),
            ("allOf", |next| json!({"allOf": [next]})),
            ("anyOf", |next| json!({"anyOf": [next, {"type": "null"}]})),
            ("oneOf", |next| json!({"oneOf": [next]})),
            ("additionalProperties", |next| json!({"type": "object", "additionalProperties": next})),
            ("patternProperties", |next| json!({"type": "object", "patternProperties": {"^a": next}})),
        ];
        for (way, wrap) in ways {
            for (links, taken) in [(220, true), (450, true), (9000, false)] {
                let mut defs = serde_json::Map::new();
                for i in 0..links {
                    defs.insert(format!("d{i}"), wrap(json!({"$ref": format!("#/$defs/d{}", i + 1)})));
                }
                defs.insert(format!("d{links}"), json!({"type": "boolean"}));
                let schema = json!({"$defs": defs, "$ref": "#/$defs/d0"});
                match (COMPILER.compile(&Grammar::JsonSchema(schema)), taken) {
                    (Ok(_), true) => {}
                    (Err(error), false) => {
                        assert!(error.to_string().contains("expected at most"), "{way}: {error}");
                    }
                    // The compiler has bounds of its own on intersections.
                    (Err(error), true) => assert!(error.to_string().contains("level"), "{way}: {error}"),
                    (Ok(_), false) => panic!("{way}: {links} links were taken"),
                }
            }
        }
    }

    #[test]
    fn large_integers_are_refused_rather_than_rounded() {
        for schema in [
            json!({"const": 9_007_199_254_740_993_i64}),
            json!({"enum": [1, 12_345_678_901_234_567_890_u64]}),
            json!({"type": "integer", "minimum": 9_223_372_036_854_775_807_i64}),
        ] {
            let error = COMPILER.compile(&Grammar::JsonSchema(schema)).unwrap_err().to_string();
            assert!(error.contains("2^53"), "{error}");
        }
        assert!(COMPILER.compile(&Grammar::JsonSchema(json!({"const": 9_007_199_254_740_991_i64}))).is_ok());
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

    /// Whether a text follows a grammar, character by character; the errors of the grammar itself.
    fn follows(grammar: &Grammar, text: &str) -> Result<bool, String> {
        let mut constraint = COMPILER.compile(grammar).map_err(|e| e.to_string())?;
        let ids = text.chars().flat_map(|c| MOCK.encode(&c.to_string(), Encode::default()).unwrap());
        for (position, id) in ids.enumerate() {
            let mut row = vec![0.0; MOCK.vocab_size()];
            constraint.mask(&mut row, position).map_err(|e| e.to_string())?;
            if row[id as usize] != 0.0 {
                return Ok(false);
            }
            constraint.accept(id, position).map_err(|e| e.to_string())?;
        }
        let mut row = vec![0.0; MOCK.vocab_size()];
        constraint.mask(&mut row, text.len()).map_err(|e| e.to_string())?;
        Ok(row[MOCK.end_tokens()[0] as usize] == 0.0)
    }

    /// A property that a pattern matches too has to follow both schemas; the pattern gives other names only. Random answers
    /// never meet a position at which nothing may follow.
    #[test]
    fn properties_that_a_pattern_matches_too_follow_both() {
        let int = json!({"type": "integer"});
        let both = json!({
            "type": "object",
            "properties": {"house": {"type": "string"}, "sea": int},
            "patternProperties": {"^h": {"type": "string", "maxLength": 2}},
            "required": ["sea"],
            "additionalProperties": false,
        });
        let apart = json!({"type": "object", "properties": {"house": {"type": "string"}}, "patternProperties": {"^h": int}});
        let never = json!({"type": "object", "properties": {"house": false, "h": int}, "patternProperties": {"^h": int}});
        for (schema, text, expected) in [
            (&both, r#"{"house":"xy","sea":1,"h":"z"}"#, true),
            (&both, r#"{"house":"xyz","sea":1}"#, false),
            (&both, r#"{"house":"x","house":"y","sea":1}"#, false),
            (&apart, r#"{"hall":1}"#, true),
            (&apart, r#"{"house":1}"#, false),
            (&apart, r#"{"house":"x"}"#, false),
            (&never, r#"{"h":1,"hall":2}"#, true),
            (&never, r#"{"house":1}"#, false),
        ] {
            assert_eq!(follows(&Grammar::JsonSchema(schema.clone()), text), Ok(expected), "{text}");
        }
        let quote = MOCK.encode("\"", Encode::default()).unwrap()[0];
        for schema in [both, apart, never] {
            let schema = Grammar::JsonSchema(schema);
            let within = Grammar::Lark(format!("start: \"a\" x\nx: {}\n", schema.as_lark_value().unwrap()));
            for grammar in [schema, within] {
                let compiled = COMPILER.compile(&grammar).unwrap();
                for seed in 0..30 {
                    random_answer(compiled.clone(), seed, quote);
                }
            }
        }
    }

    /// Takes allowed tokens at random, quotation marks more often, and checks that there always are some.
    fn random_answer(mut constraint: Constraint, seed: u64, quote: TokenId) {
        let mut state = seed;
        for position in 0..60 {
            let mut row = vec![0.0; MOCK.vocab_size()];
            constraint.mask(&mut row, position).unwrap();
            let allowed: Vec<TokenId> =
                (0..).zip(&row).filter(|(_, v)| **v == 0.0).map(|(id, _)| id).collect();
            assert!(!allowed.is_empty(), "nothing may follow at {position}, seed {seed}");
            // The constants of Knuth's MMIX.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let any = allowed[(state >> 33) as usize % allowed.len()];
            let token = if allowed.contains(&quote) && state >> 63 == 0 { quote } else { any };
            if MOCK.end_tokens().contains(&token) {
                return;
            }
            constraint.accept(token, position).unwrap();
        }
    }
}
