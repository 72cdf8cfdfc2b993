//! A tokenizer for synthetic models: byte-level BPE trained on common words, padded with invented words.
//!
//! English text takes two or three tokens per word, every text can be encoded (all 256 bytes are tokens), and the output of a
//! random model is pronounceable. The chat template is ChatML.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use zonda_engine::load::{Architecture, Metadata, ModelSpec, Value};
use zonda_engine::tokenize::byte_alphabet;

/// Common words, the most common first.
const WORDS: &str = include_str!("words.txt");
/// Maximum number of merges; these words have only a few more.
const MAX_MERGES: usize = 2500;
/// Tokens 0 to 4: unknown, beginning and end of a text, beginning and end of a turn.
const SPECIAL: [&str; 5] = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"];
const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// GGUF's numbers for kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// The tokenizer of a model with `spec.vocab_size` tokens, as GGUF metadata (`tokenizer.*`).
///
/// # Panics
/// If the vocabulary is too small for the special tokens and the bytes; no shape's is.
pub(crate) fn metadata(spec: &ModelSpec) -> Metadata {
    let alphabet = byte_alphabet();
    let room = spec.vocab_size.checked_sub(SPECIAL.len() + 256).expect("room for bytes and special tokens");
    let merges = train(&alphabet, room.min(MAX_MERGES));

    let mut tokens: Vec<String> = SPECIAL.map(str::to_owned).into();
    tokens.extend(alphabet.iter().map(char::to_string));
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let taken: HashSet<String> = tokens.iter().cloned().collect();
    let space = alphabet[usize::from(b' ')];
    let invented = (0..).map(|n| format!("{space}{}", invented_word(n))).filter(|w| !taken.contains(w));
    let missing = spec.vocab_size - tokens.len();
    tokens.extend(invented.take(missing));

    let mut kinds = vec![NORMAL; tokens.len()];
    kinds[..SPECIAL.len()].fill(CONTROL);

    let is_qwen =
        matches!(spec.architecture, Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen3Moe);
    let text = |s: &str| Value::String(s.to_owned());
    let merges = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    let pairs = [
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", Value::Strings(tokens)),
        ("tokenizer.ggml.token_type", Value::Ints(kinds)),
        ("tokenizer.ggml.merges", Value::Strings(merges)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.eot_token_id", Value::U32(4)),
        ("tokenizer.ggml.padding_token_id", Value::U32(2)),
        // As in the model families: Qwen's texts have no BOS.
        ("tokenizer.ggml.add_bos_token", Value::Bool(!is_qwen)),
        ("tokenizer.chat_template", text(TEMPLATE)),
    ];
    Metadata(pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

/// Learns BPE merges: repeatedly, the most frequent pair of neighbouring symbols becomes a symbol. Words are weighted by
/// rank (Zipf); among equally frequent pairs the one with older symbols wins.
fn train(alphabet: &[char; 256], count: usize) -> Vec<(String, String)> {
    let mut words: Vec<(Vec<usize>, i64)> = Vec::new();
    for (rank, word) in WORDS.split_whitespace().enumerate() {
        let weight = 1_000_000 / (rank as i64 + 20);
        let mut add = |text: String, weight| words.push((text.bytes().map(usize::from).collect(), weight));
        add(format!(" {word}"), weight);
        add(word.to_owned(), weight / 10);
        add(format!("{}{}", word[..1].to_uppercase(), &word[1..]), weight / 20);
    }
    // Symbols by number: the bytes, then the results of merges.
    let mut symbols: Vec<String> = alphabet.iter().map(char::to_string).collect();
    let mut counts: HashMap<(usize, usize), i64> = HashMap::new();
    let count_word = |word: &[usize], weight: i64, counts: &mut HashMap<_, i64>| {
        for pair in word.windows(2) {
            *counts.entry((pair[0], pair[1])).or_default() += weight;
        }
    };
    for (word, weight) in &words {
        count_word(word, *weight, &mut counts);
    }
    let mut merges = Vec::with_capacity(count);
    while merges.len() < count {
        let best = counts.iter().map(|(&pair, &n)| (n, Reverse(pair))).max();
        let Some((1.., Reverse(pair))) = best else { break };
        for (word, weight) in &mut words {
            if !word.windows(2).any(|w| (w[0], w[1]) == pair) {
                continue;
            }
            count_word(word, -*weight, &mut counts);
            while let Some(at) = word.windows(2).position(|w| (w[0], w[1]) == pair) {
                word[at] = symbols.len();
                word.remove(at + 1);
            }
            count_word(word, *weight, &mut counts);
        }
        let (a, b) = (symbols[pair.0].clone(), symbols[pair.1].clone());
        symbols.push(format!("{a}{b}"));
        merges.push((a, b));
    }
    merges
}

/// Word `n` of a language of three and more syllables: `bababa`, `bababe`, …
fn invented_word(n: usize) -> String {
    const CONSONANTS: [&str; 16] =
        ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "sh", "th"];
    const VOWELS: [&str; 5] = ["a", "e", "i", "o", "u"];
    let syllables = CONSONANTS.len() * VOWELS.len();
    let mut word = String::new();
    let mut rest = n;
    for _ in 0..3 {
        let syllable = rest % syllables;
        word.insert_str(0, VOWELS[syllable % VOWELS.len()]);
        word.insert_str(0, CONSONANTS[syllable / VOWELS.len()]);
        rest /= syllables;
    }
    word
}
