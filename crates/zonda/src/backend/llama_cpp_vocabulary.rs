//! What llama.cpp can't take in a vocabulary: it checks some of it with assertions, throws exceptions that nobody catches while
//! it tokenises, and loops forever where bytes have no token. Source: `src/llama-vocab.cpp` of the release in `Cargo.toml`.

use std::collections::HashSet;
use zonda_engine::load::{Metadata, Value};

/// Kinds that were examined. llama.cpp tokenises with those that the engine's own tokenizers lack.
const KINDS: [&str; 6] = ["llama", "gpt2", "gemma4", "bert", "t5", "rwkv"];
/// Longest token of the kinds whose tokens llama.cpp keeps in a tree as deep as they are long, in bytes; real ones have some
/// hundreds.
const MAX_TOKEN: usize = 1024;
/// `LLAMA_TOKEN_TYPE_BYTE`
const BYTE: i32 = 6;

/// The first thing in a vocabulary that would end the process.
pub(super) fn obstacle(metadata: &Metadata) -> Option<String> {
    let kind = metadata.str("tokenizer.ggml.model")?;
    if matches!(kind, "none" | "no_vocab") {
        return None;
    }
    if !KINDS.contains(&kind) {
        let expected = KINDS.join(", ");
        return Some(format!("tokenizer.ggml.model is {kind:?}; expected one of {expected}"));
    }
    // Without tokens llama.cpp itself refuses the file.
    let tokens = metadata.strings("tokenizer.ggml.tokens")?;
    repeated(tokens).or_else(|| match kind {
        "bert" => too_long(tokens).or_else(|| byte_token(metadata)),
        "rwkv" => too_long(tokens).or_else(|| missing_byte(tokens)),
        "t5" => too_long(tokens).or_else(|| normalizer(metadata)),
        _ => None,
    })
}

/// Two tokens with one text. llama.cpp gives empty ones the text `[EMPTY_n]`.
fn repeated(tokens: &[String]) -> Option<String> {
    let mut seen = HashSet::with_capacity(tokens.len());
    let empty = |(id, text): (usize, &String)| text.is_empty().then(|| format!("[EMPTY_{id}]"));
    let empty: Vec<String> = tokens.iter().enumerate().filter_map(empty).collect();
    let all = tokens.iter().filter(|text| !text.is_empty()).chain(&empty);
    let again = all.map(String::as_str).find(|&text| !seen.insert(text))?;
    let shown: String = again.chars().take(60).collect();
    Some(format!("the token {shown:?} is in the vocabulary twice"))
}

fn too_long(tokens: &[String]) -> Option<String> {
    let found = tokens.iter().map(String::len).max().filter(|&bytes| bytes > MAX_TOKEN)?;
    Some(format!("a token has {found} bytes; expected at most {MAX_TOKEN}"))
}

/// A byte token, which WordPiece does not have.
fn byte_token(metadata: &Metadata) -> Option<String> {
    let types = metadata.ints("tokenizer.ggml.token_type")?;
    let id = types.iter().position(|&kind| kind == BYTE)?;
    Some(format!("token {id} is a byte; a vocabulary of WordPiece has none"))
}

/// A byte value without a token of its own, at which RWKV's tokenizer would not advance.
fn missing_byte(tokens: &[String]) -> Option<String> {
    let single = |text: &String| match unescaped(text)[..] {
        [byte] => Some(byte),
        _ => None,
    };
    let held: HashSet<u8> = tokens.iter().filter_map(single).collect();
    let missing = (0..=u8::MAX).find(|byte| !held.contains(byte))?;
    Some(format!("the byte {missing} has no token; expected one for each of 256"))
}

/// The bytes that RWKV's escapes stand for: `\t`, `\n`, `\r`, `\xHH`, and any other character for itself.
fn unescaped(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match (byte, byte == b'\\') {
            (plain, false) => plain,
            (_, true) => match bytes.next() {
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b'x') => {
                    // llama.cpp reads capitals as other values.
                    let digit = |byte: u8| match byte {
                        b'0'..=b'9' => Some(byte - b'0'),
                        b'a'..=b'f' => Some(byte - b'a' + 10),
                        _ => None,
                    };
                    let pair = bytes.next().and_then(digit).zip(bytes.next().and_then(digit));
                    let Some((high, low)) = pair else { return Vec::new() };
                    high << 4 | low
                }
                Some(other) => other,
                None => break,
            },
        });
    }
    out
}

/// A step or a replacement outside the table with which T5's tokenizer normalises characters. The table is a double array of
/// 32-bit nodes behind its length in bytes, then texts that end with a zero.
fn normalizer(metadata: &Metadata) -> Option<String> {
    const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
    /// A node that holds a text's offset instead of a step.
    const HOLDS_OFFSET: u32 = 1 << 31;
    let value = metadata.get(KEY)?;
    let malformed = |what: &str| Some(format!("{KEY} is malformed: {what}"));
    let byte = |value: &Value| match *value {
        Value::U8(byte) => Some(byte),
        Value::I8(byte) => Some(byte as u8),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = match value {
        Value::Array(list) => list.iter().map(byte).collect(),
        _ => None,
    };
    let Some(bytes) = bytes else { return malformed("expected an array of bytes") };
    if bytes.is_empty() {
        return None;
    }
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return malformed("it has no length") };
    let length = u32::from_le_bytes(*length) as usize;
    let Some((nodes, texts)) = rest.split_at_checked(length) else {
        return malformed("its nodes end after it");
    };
    let nodes: Vec<u32> =
        nodes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    if texts.last() != Some(&0) {
        return malformed("its last text does not end");
    }
    // A step changes the low 8 bits of a node's number, so whole blocks of 256 nodes keep it inside.
    if nodes.is_empty() || !nodes.len().is_multiple_of(256) {
        return malformed("its nodes are not in blocks of 256");
    }
    let base = |node: u32| (node >> 10) << ((node & (1 << 9)) >> 6);
    for (i, &node) in nodes.iter().enumerate().filter(|(_, node)| *node & HOLDS_OFFSET == 0) {
        // The root's number is 0, so this is its step, too.
        let next = (i as u32 ^ base(node)) as usize;
        let Some(&target) = nodes.get(next) else { return malformed("a step leads outside its nodes") };
        let leaf = node & (1 << 8) != 0;
        if leaf && (target & !HOLDS_OFFSET) as usize >= texts.len() {
            return malformed("a replacement lies outside its texts");
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(kind: &str, tokens: Vec<String>) -> Metadata {
        let mut metadata = Metadata::default();
        metadata.0.insert("tokenizer.ggml.model".into(), Value::String(kind.into()));
        metadata.0.insert("tokenizer.ggml.tokens".into(), Value::Strings(tokens));
        metadata
    }

    fn says(metadata: &Metadata) -> String {
        obstacle(metadata).unwrap_or_default()
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn repeated_tokens_are_refused_also_those_that_llama_cpp_names() {
        assert_eq!(says(&vocabulary("gpt2", texts(&["a", "b", "", ""]))), "");
        assert!(
            says(&vocabulary("gpt2", texts(&["a", "b", "a"]))).contains("\"a\" is in the vocabulary twice")
        );
        assert!(says(&vocabulary("gpt2", texts(&["[EMPTY_1]", ""]))).contains("[EMPTY_1]"));
        assert!(
            says(&vocabulary("plamo2", texts(&["a"]))).contains("\"plamo2\"; expected one of llama, gpt2")
        );
    }

    #[test]
    fn rwkv_needs_a_token_for_each_byte() {
        let mut all: Vec<String> = (0..=255).map(|byte| format!("\\x{byte:02x}")).collect();
        all[9] = "\\t".into();
        all[usize::from(b'a')] = "a".into();
        all[usize::from(b'\\')] = "\\\\".into();
        assert_eq!(says(&vocabulary("rwkv", all.clone())), "");
        all[200] = "\\xC8".into();
        assert!(says(&vocabulary("rwkv", all.clone())).contains("the byte 200 has no token"));
        all[200] = "\\xc8".repeat(300);
        assert!(says(&vocabulary("rwkv", all)).contains("1200 bytes; expected at most 1024"));
    }

    #[test]
    fn word_piece_has_no_byte_tokens() {
        let mut metadata = vocabulary("bert", texts(&["[UNK]", "a"]));
        assert_eq!(says(&metadata), "");
        metadata.0.insert("tokenizer.ggml.token_type".into(), Value::Ints(vec![2, 6]));
        assert!(says(&metadata).contains("token 1 is a byte"));
    }

    #[test]
    fn each_malformation_of_a_normalizer_is_refused() {
        // One leaf: `A` (65) becomes the text at offset 2. The root's step leads to node 65, whose step leads to node 64 ^ 65.
        let table = |change: &dyn Fn(&mut Vec<u32>, &mut Vec<u8>)| {
            let mut nodes = vec![0u32; 256];
            nodes[65] = 1 << 10 | 1 << 8 | 65;
            nodes[64] = 1 << 31 | 2;
            let mut texts = b"a\0b\0".to_vec();
            change(&mut nodes, &mut texts);
            let mut bytes = (nodes.len() as u32 * 4).to_le_bytes().to_vec();
            bytes.extend(nodes.iter().flat_map(|node| node.to_le_bytes()));
            bytes.extend(texts);
            let mut metadata = vocabulary("t5", self::texts(&["a"]));
            let bytes = bytes.into_iter().map(Value::U8).collect();
            metadata.0.insert("tokenizer.ggml.precompiled_charsmap".into(), Value::Array(bytes));
            says(&metadata)
        };
        assert_eq!(table(&|_, _| ()), "");
        assert!(table(&|_, texts| texts.truncate(3)).contains("does not end"));
        assert!(table(&|nodes, _| nodes.truncate(255)).contains("blocks of 256"));
        assert!(table(&|nodes, _| nodes[65] = 300 << 10).contains("outside its nodes"));
        assert!(table(&|nodes, _| nodes[64] = 1 << 31 | 4).contains("outside its texts"));
    }
}
