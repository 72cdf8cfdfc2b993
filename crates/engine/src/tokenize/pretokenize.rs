//! Splits text into words, within which byte-level BPE merges, using the regular expressions of published models.
//!
//! The expressions come from the models' `tokenizer.json` files; GGUF files name them in `tokenizer.ggml.pre`. They run
//! on a linear-time engine without look-ahead. The only look-ahead they need, `\s+(?!\S)` (white space up to, but
//! without, the character before the next word), is implemented in [`Stage::split`].

use super::TokenizeError;
use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};

/// Splits text into words in one or more stages; each stage splits the pieces of the previous one.
pub(crate) struct PreTokenizer {
    stages: Vec<Stage>,
}

/// Whether to go on.
type Emitted = Result<(), TokenizeError>;

/// One expression. Matches and the text between them become pieces.
struct Stage {
    /// Pattern 0 is the expression; pattern 1, if present, is its ending `\s+(?!\S)|\s+`.
    regex: Regex,
}

/// A named pre-tokenizer of GGUF files.
#[derive(Debug)]
pub struct Preset {
    names: &'static [&'static str],
    /// One expression per stage.
    pub stages: &'static [&'static str],
    /// Whether a word that is itself a token is not built by merges.
    pub whole_words: bool,
    /// Whether the model uses BOS unless its file says otherwise.
    pub adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As `GPT4O`, with Chinese apart.
const KIMI: &str = r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The letters of alphabets that distinguish upper and lower case, as DeepSeek's file lists them.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[",
    r"A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}",
    r"\u{370}-\u{373}\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}",
    r"\u{3a3}-\u{3f5}\u{3f7}-\u{481}\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}",
    r"\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}",
    r"\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}\u{1f48}-\u{1f4d}",
    r"\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}",
    r"\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}",
    r"\u{1ff2}-\u{1ff4}\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}",
    r"\u{2126}\u{2128}\u{212a}-\u{212d}\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}",
    r"\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}",
    r"\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}",
    r"\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}\u{10400}-\u{1044f}",
    r"\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}",
    r"\u{1e900}-\u{1e943}",
    r"]+"
);

/// The pre-tokenizers that GGUF files name, for models of the architectures that Zonda runs.
const PRESETS: &[Preset] = &[
    Preset {
        names: &["default"],
        stages: &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        whole_words: false,
        adds_bos: false,
    },
    Preset {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "exaone4",
            "granite-docling",
        ],
        stages: &[GPT2],
        whole_words: false,
        adds_bos: false,
    },
    Preset {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        stages: &[r"\p{N}", GPT2],
        whole_words: false,
        adds_bos: false,
    },
    Preset {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        stages: &[LLAMA3],
        whole_words: true,
        adds_bos: true,
    },
    Preset {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe"],
        stages: &[LLAMA3],
        whole_words: false,
        adds_bos: false,
    },
    Preset { names: &["glm4", "glm5"], stages: &[LLAMA3], whole_words: true, adds_bos: false },
    Preset {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "megrez",
            "stablelm2",
            "hunyuan",
            "kormo",
            "grok-2",
            "f2llmv2",
            "solar-open",
        ],
        stages: &[QWEN2],
        whole_words: false,
        adds_bos: false,
    },
    Preset { names: &["qwen35"], stages: &[QWEN35], whole_words: false, adds_bos: false },
    Preset { names: &["tekken"], stages: &[TEKKEN], whole_words: true, adds_bos: true },
    Preset {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        stages: &[GPT4O],
        whole_words: false,
        adds_bos: false,
    },
    Preset { names: &["kimi-k2"], stages: &[KIMI], whole_words: false, adds_bos: false },
    Preset {
        names: &["deepseek-llm"],
        stages: &[
            r"[\r\n]",
            DEEPSEEK_LETTERS,
            r"\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+",
            r"\s+$",
            r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+",
            r"\p{N}+",
        ],
        whole_words: false,
        adds_bos: false,
    },
    Preset {
        names: &["deepseek-coder"],
        stages: &[
            r"[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            r"[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+",
            r"\p{N}",
        ],
        whole_words: false,
        adds_bos: false,
    },
    Preset {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        stages: &[
            r"\p{N}{1,3}",
            r"[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
        ],
        whole_words: false,
        adds_bos: false,
    },
    Preset {
        names: &["falcon"],
        stages: &[r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"],
        whole_words: false,
        adds_bos: false,
    },
    Preset {
        names: &["bloom", "gpt3-finnish", "poro-chat"],
        stages: &[r" ?[^(\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+"],
        whole_words: false,
        adds_bos: false,
    },
    Preset {
        names: &["viking"],
        stages: &[r" ?[^(\s|.,!?\u{2026}\u{3002}\u{ff0c}\u{3001}\u{964}\u{6d4}\u{60c})]+", r"\p{N}"],
        whole_words: false,
        adds_bos: false,
    },
    Preset {
        names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        stages: &[
            r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        ],
        whole_words: false,
        adds_bos: false,
    },
    Preset {
        names: &["seed-coder"],
        stages: &[
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        whole_words: false,
        adds_bos: false,
    },
];

/// The pre-tokenizer that a GGUF file names.
pub fn preset(name: &str) -> Result<&'static Preset, TokenizeError> {
    PRESETS.iter().find(|preset| preset.names.contains(&name)).ok_or_else(|| TokenizeError::Unsupported {
        what: "pre-tokenizer",
        found: name.to_owned(),
        known: PRESETS.iter().flat_map(|preset| preset.names).copied().collect::<Vec<_>>().join(", "),
    })
}

/// GGUF's name for a pre-tokenizer with these stages; if there are several names, the usual one.
pub fn preset_name(stages: &[String], whole_words: bool) -> Option<&'static str> {
    let same = |preset: &&Preset| preset.whole_words == whole_words && preset.stages == stages;
    PRESETS.iter().find(same).map(|preset| preset.names[0])
}

impl Preset {
    /// Compiles the preset's expressions.
    pub(super) fn compile(&self) -> Result<PreTokenizer, TokenizeError> {
        PreTokenizer::new(self.stages)
    }
}

impl PreTokenizer {
    /// Compiles expressions, one per stage.
    pub fn new(stages: &[&str]) -> Result<PreTokenizer, TokenizeError> {
        let stages = stages.iter().map(|pattern| Stage::new(pattern)).collect::<Result<_, _>>()?;
        Ok(PreTokenizer { stages })
    }

    /// GPT-2's expression as the only stage.
    pub fn gpt2() -> Result<PreTokenizer, TokenizeError> {
        PreTokenizer::new(&[GPT2])
    }

    /// Passes each word to `emit`, from left to right; together the words are the text.
    ///
    /// # Errors
    /// The first error of `emit`, after which it is not called again.
    pub fn split<'a>(&self, text: &'a str, mut emit: impl FnMut(&'a str) -> Emitted) -> Emitted {
        fn walk<'a>(stages: &[Stage], piece: &'a str, emit: &mut dyn FnMut(&'a str) -> Emitted) -> Emitted {
            match stages.split_first() {
                None => emit(piece),
                Some((first, rest)) => first.split(piece, &mut |part| walk(rest, part, emit)),
            }
        }
        walk(&self.stages, text, &mut emit)
    }
}

impl Stage {
    fn new(pattern: &str) -> Result<Stage, TokenizeError> {
        let regex = match pattern.strip_suffix(r"|\s+(?!\S)|\s+") {
            Some(main) => Regex::new_many(&[main, r"\s+"]),
            None => Regex::new(pattern),
        };
        regex.map(|regex| Stage { regex }).map_err(|e| {
            let reason = std::error::Error::source(&e).map_or_else(|| e.to_string(), |s| s.to_string());
            TokenizeError::invalid(
                "pre-tokenizer",
                r"a regular expression without look-around (but `\s+(?!\S)|\s+` at its end)",
                format!("{pattern:?} ({reason})"),
            )
        })
    }

    fn split<'a>(&self, piece: &'a str, emit: &mut dyn FnMut(&'a str) -> Emitted) -> Emitted {
        let mut at = 0;
        while at < piece.len() {
            // Searches in the whole piece, not in a slice: no expression looks behind, but `$` must match the piece's
            // end.
            let input = Input::new(piece).range(at..).anchored(Anchored::No);
            let Some(found) = self.regex.find(input).filter(|m| !m.is_empty()) else { break };
            let mut end = found.end();
            // `\s+(?!\S)`: white space before a word leaves its last character to the word.
            if found.pattern().as_usize() == 1 && end < piece.len() {
                let last = piece[found.start()..end].char_indices().next_back();
                if let Some((offset, _)) = last.filter(|&(offset, _)| offset > 0) {
                    end = found.start() + offset;
                }
            }
            if at < found.start() {
                emit(&piece[at..found.start()])?;
            }
            emit(&piece[found.start()..end])?;
            at = end;
        }
        if at < piece.len() {
            emit(&piece[at..])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let mut words = Vec::new();
        let pre = preset(name).unwrap().compile().unwrap();
        let keep = |word| {
            words.push(word);
            Ok(())
        };
        pre.split(text, keep).unwrap();
        assert_eq!(words.concat(), text);
        words
    }

    #[test]
    fn every_preset_compiles_and_keeps_the_text() {
        let text = "Hello, wörld!  12345 it's\n\n\t x = a[1];\r\n 你好。 👩‍💻 '' \u{a0} \u{301}e  ";
        for preset in PRESETS {
            words(preset.names[0], text);
            words(preset.names[0], "");
        }
    }

    /// The hash of `testdata/tokenizers/make_pretokenizers.py`: FNV-1a over the ends of pieces, in bytes.
    fn hash(words: &[&str]) -> String {
        let mut end = 0;
        let ends = words.iter().flat_map(|word| {
            end += word.len() as u32;
            end.to_le_bytes()
        });
        let value =
            ends.fold(0x811c_9dc5_u32, |value, byte| (value ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        format!("{value:08x}")
    }

    #[test]
    fn words_end_where_the_crate_tokenizers_ends_them() {
        #[derive(serde::Deserialize)]
        struct Goldens {
            presets: std::collections::BTreeMap<String, Vec<String>>,
        }
        let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata");
        let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
        let strings: Vec<String> = serde_json::from_str(&read("text/strings.json")).unwrap();
        let goldens: Goldens = serde_json::from_str(&read("tokenizers/pretokenizers.json")).unwrap();
        assert!(goldens.presets.len() >= 12);
        let mut wrong = Vec::new();
        for (name, hashes) in goldens.presets {
            assert_eq!(hashes.len(), strings.len());
            let pre = preset(&name).unwrap().compile().unwrap();
            for (text, expected) in strings.iter().zip(hashes) {
                let mut words = Vec::new();
                let keep = |word| {
                    words.push(word);
                    Ok(())
                };
                pre.split(text, keep).unwrap();
                if hash(&words) != expected {
                    wrong.push(format!("{name}: {words:?}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    }

    #[test]
    fn white_space_before_a_word_gives_it_its_last_space() {
        assert_eq!(words("gpt-2", "a   b"), ["a", "  ", " b"]);
        assert_eq!(words("gpt-2", "a \t"), ["a", " \t"]);
        assert_eq!(words("gpt-2", "a\n\n b"), ["a", "\n\n", " b"]);
        assert_eq!(words("llama-bpe", "a\n\n b"), ["a", "\n\n", " b"]);
        assert_eq!(words("llama-bpe", "a \n  b"), ["a", " \n", " ", " b"]);
    }

    #[test]
    fn numbers_are_cut_as_each_model_wants() {
        assert_eq!(words("smollm", "in 2024"), ["in", " ", "2", "0", "2", "4"]);
        assert_eq!(words("llama-bpe", "12345"), ["123", "45"]);
        assert_eq!(words("qwen2", "123"), ["1", "2", "3"]);
        assert_eq!(words("gpt-2", "a 123"), ["a", " 123"]);
    }

    #[test]
    fn tekken_cuts_at_case_changes() {
        assert_eq!(words("tekken", "camelCaseABCd it's"), ["camel", "Case", "ABCd", " it", "'s"]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_list() {
        let error = preset("no-such").err().unwrap().to_string();
        assert!(error.contains("no-such") && error.contains("llama-bpe"), "{error}");
    }

    #[test]
    fn look_around_elsewhere_is_refused() {
        assert!(PreTokenizer::new(&["a(?=b)"]).is_err());
    }
}
