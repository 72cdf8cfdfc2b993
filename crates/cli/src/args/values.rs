//! Values of flags: names with what they mean, counts, token ids.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use std::num::NonZeroUsize;
use zonda::{BackendKind, Device, Keep, KvType, MAX_THREADS, Quantization, TokenId};

/// A parser of names: `(value, name, what it means)`.
fn named<T: Copy + Send + Sync + 'static>(
    all: impl IntoIterator<Item = (T, &'static str, &'static str)>,
) -> impl TypedValueParser<Value = T> {
    let all: Vec<_> = all.into_iter().collect();
    let shown = all.iter().map(|(_, name, about)| match *about {
        "" => PossibleValue::new(*name),
        about => PossibleValue::new(*name).help(about),
    });
    let names = PossibleValuesParser::new(shown.collect::<Vec<_>>());
    names.map(move |text| {
        let found = all.iter().find(|(_, name, _)| *name == text);
        found.map(|(value, ..)| *value).expect("clap accepts only these names")
    })
}

/// `--backend`
pub fn backend() -> impl TypedValueParser<Value = BackendKind> {
    named(BackendKind::ALL.map(|kind| (kind, kind.name(), kind.about())))
}

/// `--device`
pub fn device() -> impl TypedValueParser<Value = Device> {
    named([
        (Device::Auto, "auto", "A GPU if the backend has one"),
        (Device::Cpu, "cpu", "The processor"),
        (Device::Gpu, "gpu", "A GPU, or an error"),
    ])
}

/// `--quantize`
pub fn quantization() -> impl TypedValueParser<Value = Quantization> {
    named(Quantization::AVAILABLE.iter().map(|quantization| (*quantization, quantization.name(), "")))
}

/// `--kv-type`
pub fn kv_type() -> impl TypedValueParser<Value = KvType> {
    named([KvType::F16, KvType::Q8_0, KvType::Q4_0, KvType::F32].map(|kv| (kv, kv.name(), "")))
}

/// `--threads`
///
/// # Errors
/// What was expected.
pub fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let threads = text.parse().ok().filter(|n: &NonZeroUsize| n.get() <= MAX_THREADS);
    threads.ok_or_else(|| format!("expected a number from 1 to {MAX_THREADS}"))
}

/// `--keep`: a number of tokens, or -1.
///
/// # Errors
/// What was expected.
pub fn keep(text: &str) -> Result<Keep, String> {
    let keep = text.parse().ok().and_then(Keep::from_count);
    keep.ok_or_else(|| "expected a number of tokens, or -1 for the whole prompt".to_owned())
}

/// A limit in tokens: at least 1, or -1 for none.
///
/// # Errors
/// What was expected.
pub fn token_limit(text: &str) -> Result<usize, String> {
    let limit = if text == "-1" { Some(usize::MAX) } else { text.parse().ok().filter(|&n| n > 0) };
    limit.ok_or_else(|| "expected at least 1, or -1 for no limit".to_owned())
}

/// `--logit-bias`: a token id and what is added to its logit.
///
/// # Errors
/// What was expected.
pub fn logit_bias(text: &str) -> Result<(TokenId, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "expected ID=BIAS, such as 2=-inf".to_owned())
}

/// Token ids as people write them: separated by commas or spaces, perhaps in brackets.
///
/// # Errors
/// The first piece that is not an id.
pub fn token_ids(text: &str) -> Result<Vec<TokenId>, String> {
    let pieces = text.split(|c: char| c == ',' || c.is_whitespace() || c == '[' || c == ']');
    let ids = pieces.filter(|p| !p.is_empty()).map(|p| p.parse().map_err(|_| p.to_owned()));
    ids.collect::<Result<_, _>>()
        .map_err(|piece| format!("expected token ids such as 1,2,3, found {piece:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_with_a_meaning_of_minus_one() {
        assert_eq!((token_limit("7"), token_limit("-1")), (Ok(7), Ok(usize::MAX)));
        assert_eq!((keep("0"), keep("-1")), (Ok(Keep::Tokens(0)), Ok(Keep::Prompt)));
        assert!(token_limit("0").is_err() && token_limit("-2").is_err() && token_limit("x").is_err());
        assert!(keep("-2").is_err() && keep("x").is_err());
    }

    #[test]
    fn ids_and_biases() {
        assert_eq!(token_ids("1,2, 3\n4 [5]"), Ok(vec![1, 2, 3, 4, 5]));
        assert_eq!(token_ids(""), Ok(vec![]));
        assert!(token_ids("1,-2").unwrap_err().contains("\"-2\""));
        assert_eq!(logit_bias("7=-inf"), Ok((7, f32::NEG_INFINITY)));
        assert!(logit_bias("7").is_err());
    }
}
