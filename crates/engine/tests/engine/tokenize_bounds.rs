//! A long text is given up when nobody waits for it, and refused before it is tokenised if it can't fit; what fits is never
//! refused.

use proptest::prelude::*;
use std::cell::Cell;
use std::path::Path;
use std::sync::LazyLock;
use zonda_engine::tokenize::{Bounds, Encode, TokenizeError, Tokenizer};

/// One tokenizer for each algorithm: byte-level BPE, SentencePiece's BPE, Unigram with and without a normaliser, and the crate
/// `tokenizers` with byte-level BPE and with SentencePiece's.
static ALL: LazyLock<Vec<(&str, Tokenizer)>> = LazyLock::new(|| {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizers");
    let names = [
        "tiny.model",
        "unigram.model",
        "unigram_plain.model",
        "bytelevel/tokenizer.json",
        "spaces/tokenizer.json",
    ];
    let files = names.map(|name| (name, Tokenizer::from_file(&data.join(name)).unwrap()));
    std::iter::once(("mock", Tokenizer::mock())).chain(files).collect()
});

const OPTIONS: Encode = Encode { add_bos: false, parse_special: true };

#[test]
fn an_encoding_that_nobody_waits_for_stops() {
    // One word, and many.
    for text in ["a".repeat(200_000), "a b\u{e9}. ".repeat(40_000)] {
        for (name, tokenizer) in ALL.iter() {
            let asked = Cell::new(0);
            let count = || {
                asked.set(asked.get() + 1);
                false
            };
            let whole = Bounds { abandoned: &count, most: usize::MAX };
            tokenizer.encode_within(&text, OPTIONS, &whole).unwrap();
            let calls = asked.replace(0);
            // The crate `tokenizers` is not interrupted within a word, and `spaces` does not split a text into words.
            let one_word = *name == "spaces/tokenizer.json" || name.ends_with(".json") && !text.contains(' ');
            assert!(calls >= if one_word { 1 } else { 10 }, "{name}: asked {calls} times");
            let stop = || {
                asked.set(asked.get() + 1);
                asked.get() == calls / 2 + 1
            };
            let bounds = Bounds { abandoned: &stop, most: usize::MAX };
            let error = tokenizer.encode_within(&text, OPTIONS, &bounds).unwrap_err();
            assert!(matches!(error, TokenizeError::Abandoned), "{name}: {error}");
            assert_eq!(asked.get(), calls / 2 + 1, "{name} goes on");
        }
    }
}

/// Unigram's normalisers may shorten a text, so nothing is certain there.
#[test]
fn a_text_that_can_not_fit_is_refused_before_it_is_tokenised() {
    let text = "the sea ".repeat(20_000);
    let never = || panic!("it is tokenised");
    for (name, tokenizer) in ALL.iter().filter(|(name, _)| !name.starts_with("unigram")) {
        let bounds = Bounds { abandoned: &never, most: 1000 };
        match tokenizer.encode_within(&text, OPTIONS, &bounds).unwrap_err() {
            TokenizeError::TooManyTokens { bytes, least, most } => {
                assert_eq!((bytes, most), (text.len(), 1000), "{name}");
                let tokens = tokenizer.encode(&text, OPTIONS).unwrap().len();
                assert!(least > 1000 && least <= tokens, "{name}: at least {least} of {tokens}");
            }
            error => panic!("{name}: {error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_fits_is_never_refused(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "the", " water", "   ", "\u{2581}", "\u{2581}\u{2581}\u{2581}", "\u{4}", "\u{0}", "\n\n", "\t", "\u{a0}",
                "\u{3000}", "e\u{301}", "\u{212b}", "\u{fb01}", "\u{1100}\u{1161}\u{11a8}", "風", "🌬", "<s>", "</s>", "<0x41>",
                "<|im_start|>", "a", "ab", "b", "é", "[INST]",
            ]),
            0..40,
        ),
        times in 1..6_usize,
    ) {
        let text = parts.concat().repeat(times);
        for (name, tokenizer) in ALL.iter() {
            for parse_special in [true, false] {
                let options = Encode { add_bos: false, parse_special };
                let ids = tokenizer.encode(&text, options).unwrap();
                let bounds = Bounds { most: ids.len(), ..Bounds::NONE };
                let again = tokenizer.encode_within(&text, options, &bounds);
                prop_assert_eq!(again.map_err(|e| format!("{name}: {e}")), Ok(ids));
            }
        }
    }
}
