//! SentencePiece's compiled replacement table (`precompiled_charsmap`): checks that it can be searched for any text.
//!
//! ```text
//! bytes of the table     u32
//! table                  u32 each: a double array (Darts)
//! replacements           UTF-8, each up to a zero
//! ```
//! Integers are little-endian; all of it is encoded in Base64. From the unit at `p`, with its offset, the byte `c`
//! leads to the unit at `p ^ offset ^ c` if that unit's label is `c`. Where a key ends, the unit at `p ^ offset` says
//! where its replacement begins.

use super::error::TokenizeError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Maximum size of a table, in bytes of Base64; SentencePiece's own have 0.3 MB.
const LARGEST: usize = 8 << 20;

/// Checks a table. Returns the maximum factor by which a replacement is longer than its key, at least 1.
pub(super) fn charsmap(value: &Value) -> Result<usize, TokenizeError> {
    let invalid = |expected: &str, found: String| {
        TokenizeError::invalid("tokenizer.json: precompiled_charsmap", expected, found)
    };
    let text = value.as_str().ok_or_else(|| invalid("Base64", "no text".into()))?;
    if text.len() > LARGEST {
        return Err(invalid(&format!("at most {LARGEST} bytes"), text.len().to_string()));
    }
    let bytes = STANDARD.decode(text).map_err(|e| invalid("Base64", e.to_string()))?;
    let (size, rest) = bytes.split_first_chunk().ok_or_else(|| invalid("a table's size", "none".into()))?;
    let size = u32::from_le_bytes(*size) as usize / 4 * 4;
    if size > rest.len() {
        return Err(invalid(&format!("a table of {size} bytes"), format!("{} bytes", rest.len())));
    }
    let (table, replacements) = rest.split_at(size);
    let units: Vec<usize> =
        table.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
    let replacements =
        std::str::from_utf8(replacements).map_err(|e| invalid("replacements in UTF-8", e.to_string()))?;
    search(&units, replacements).map_err(|found| invalid("a table that can be searched", found))
}

/// Follows every path. A unit that is reached by two paths is followed once, with the shorter key.
fn search(units: &[usize], replacements: &str) -> Result<usize, String> {
    let mut factor = 1;
    let mut seen = vec![false; units.len()];
    let mut level = vec![0];
    let mut key = 0;
    while !level.is_empty() {
        let mut next = Vec::new();
        for at in level {
            let unit = *units.get(at).ok_or("no units")?;
            let base = at ^ ((unit >> 10) << ((unit & (1 << 9)) >> 6));
            if base | 0xff >= units.len() {
                return Err(format!("unit {at} leads to unit {}, of {}", base | 0xff, units.len()));
            }
            if key > 0 && (unit >> 8) & 1 == 1 {
                let start = units[base] & ((1 << 31) - 1);
                let rest = replacements.get(start..);
                let rest =
                    rest.ok_or_else(|| format!("a replacement at {start} of {}", replacements.len()))?;
                let length = rest.bytes().position(|byte| byte == 0).unwrap_or(rest.len());
                factor = factor.max(length.div_ceil(key));
            }
            for byte in 1..=255 {
                let to = base ^ byte;
                if units[to] & ((1 << 31) | 0xff) == byte && !seen[to] {
                    seen[to] = true;
                    next.push(to);
                }
            }
        }
        level = next;
        key += 1;
    }
    Ok(factor)
}
