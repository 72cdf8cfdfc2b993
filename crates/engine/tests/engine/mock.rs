//! The mock backend: it generates deterministic text and strictly checks the rules of the `Backend` trait.

use zonda_engine::TokenId;
use zonda_engine::forward::{Backend, BackendError, Batch, BatchError, Limits, Logits, Span, Want};
use zonda_engine::mock::{Fault, FaultKind, Mock, MockOptions, PrefixSupport};

fn mock(prefix: PrefixSupport) -> Mock {
    let limits = Limits { slots: 3, batch_tokens: 8, context: 12, kv_tokens: 20, kv_page: 4 };
    Mock::new(MockOptions { limits, prefix, ..MockOptions::default() })
}

fn span(slot: usize, start: usize, tokens: &[TokenId]) -> Span<'_> {
    Span { slot, start, tokens, want: Want::Last }
}

/// The last row of a forward call with one span.
fn run(mock: &mut Mock, slot: usize, start: usize, tokens: &[TokenId]) -> Result<Vec<f32>, BackendError> {
    let mut logits = Logits::new();
    mock.forward(&Batch { spans: vec![span(slot, start, tokens)] }, &mut logits)?;
    Ok(logits.row(0).to_vec())
}

fn refused(mock: &mut Mock, slot: usize, start: usize, tokens: &[TokenId]) -> BatchError {
    match run(mock, slot, start, tokens) {
        Err(BackendError::Batch(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn logits_are_a_function_of_the_history() {
    let mut a = mock(PrefixSupport::Tokens);
    let whole = run(&mut a, 0, 0, &[300, 301, 302]).unwrap();
    // In pieces, in another slot, and batched with another sequence.
    let mut logits = Logits::new();
    let spans = vec![span(2, 0, &[400]), Span { want: Want::None, ..span(1, 0, &[300, 301]) }];
    a.forward(&Batch { spans }, &mut logits).unwrap();
    assert_eq!(logits.rows(), 1);
    assert_eq!(run(&mut a, 1, 2, &[302]).unwrap(), whole);
    // A span gives the same logits as its positions one by one.
    a.truncate(1, 0).unwrap();
    let spans = vec![Span { want: Want::All, ..span(1, 0, &[300, 301, 302]) }];
    a.forward(&Batch { spans }, &mut logits).unwrap();
    let mut b = mock(PrefixSupport::Tokens);
    for (i, token) in [300, 301, 302].into_iter().enumerate() {
        assert_eq!(run(&mut b, 0, i, &[token]).unwrap(), logits.row(i));
    }
    // Another history or seed gives other logits.
    assert_ne!(run(&mut mock(PrefixSupport::Tokens), 0, 0, &[301, 300, 302]).unwrap(), whole);
    let mut seeded = Mock::new(MockOptions { seed: 1, ..MockOptions::default() });
    assert_ne!(run(&mut seeded, 0, 0, &[300, 301, 302]).unwrap(), whole);
}

#[test]
fn invalid_calls_are_refused_and_change_nothing() {
    let mut m = mock(PrefixSupport::Tokens);
    run(&mut m, 0, 0, &[300; 7]).unwrap();
    let vocab = m.spec().vocab_size;
    assert_eq!(refused(&mut m, 0, 6, &[1]), BatchError::WrongStart { slot: 0, start: 6, len: 7 });
    assert_eq!(refused(&mut m, 3, 0, &[1]), BatchError::NoSuchSlot { slot: 3, slots: 3 });
    assert_eq!(refused(&mut m, 1, 0, &[]), BatchError::EmptySpan { slot: 1 });
    assert_eq!(refused(&mut m, 1, 0, &[1; 9]), BatchError::TooManyTokens { tokens: 9, limit: 8 });
    assert_eq!(refused(&mut m, 0, 7, &[1; 6]), BatchError::ContextFull { slot: 0, end: 13, limit: 12 });
    let token = vocab as TokenId;
    assert_eq!(refused(&mut m, 1, 0, &[token]), BatchError::NoSuchToken { token, vocab });
    // 5 pages: 2 are in use, slot 1 takes 2 more, and the next call needs 2 of the 1 left.
    run(&mut m, 1, 0, &[300; 8]).unwrap();
    assert_eq!(refused(&mut m, 2, 0, &[300; 5]), BatchError::KvFull { needed: 2, free: 1 });
    assert_eq!((m.held(0), m.held(1), m.held(2), m.free_pages()), (7, 8, 0, 1));
    run(&mut m, 0, 7, &[300; 1]).unwrap();
}

#[test]
fn prefixes_are_kept_and_shared_as_far_as_supported() {
    for (support, truncated, shared) in [
        (PrefixSupport::Tokens, 6, 6),
        (PrefixSupport::Pages, 6, 4),
        (PrefixSupport::TruncateOnly, 6, 0),
        (PrefixSupport::Never, 0, 0),
    ] {
        let mut m = mock(support);
        run(&mut m, 0, 0, &[300; 8]).unwrap();
        assert_eq!(m.share_prefix(0, 1, 6).unwrap(), shared, "{support:?}");
        assert_eq!(m.truncate(0, 6).unwrap(), truncated, "{support:?}");
        assert_eq!(m.truncate(0, 9).unwrap(), truncated, "truncating beyond the end changes nothing");
    }
    let mut m = mock(PrefixSupport::Tokens);
    run(&mut m, 0, 0, &[300; 4]).unwrap();
    run(&mut m, 1, 0, &[300; 4]).unwrap();
    assert!(m.share_prefix(0, 1, 2).is_err(), "the target is not empty");
    assert!(m.share_prefix(0, 3, 2).is_err() && m.truncate(3, 0).is_err());
    // A sequence continues from a shared prefix as if it had computed it.
    m.share_prefix(0, 2, 3).unwrap();
    let shared = run(&mut m, 2, 3, &[301]).unwrap();
    assert_eq!(run(&mut mock(PrefixSupport::Tokens), 0, 0, &[300, 300, 300, 301]).unwrap(), shared);
}

#[test]
fn after_a_failure_the_slot_must_be_emptied() {
    let faults = vec![Fault::call(1, FaultKind::Error)];
    let mut m = Mock::new(MockOptions { faults, ..MockOptions::default() });
    run(&mut m, 0, 0, &[300]).unwrap();
    assert!(run(&mut m, 0, 1, &[300]).is_err());
    assert!(run(&mut m, 0, 2, &[300]).unwrap_err().to_string().contains("not emptied"));
    run(&mut m, 1, 0, &[300]).unwrap();
    m.truncate(0, 0).unwrap();
    run(&mut m, 0, 0, &[300]).unwrap();
}

#[test]
fn end_of_sequence_is_as_frequent_as_configured() {
    let ends = |end_every| {
        let limits = Limits { batch_tokens: 4096, ..MockOptions::default().limits };
        let mut m = Mock::new(MockOptions { end_every, limits, ..MockOptions::default() });
        let mut logits = Logits::new();
        let spans = vec![Span { want: Want::All, ..span(0, 0, &[300; 4000]) }];
        m.forward(&Batch { spans }, &mut logits).unwrap();
        (0..4000).filter(|&r| logits.row(r)[1] > 4.0).count()
    };
    assert_eq!(ends(0), 0);
    assert_eq!(ends(1), 4000);
    let some = ends(10);
    assert!((320..480).contains(&some), "{some} of 4000");
}
