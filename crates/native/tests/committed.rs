//! The KV cache takes memory as sequences grow, not all at once with the first token.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use zonda_engine::forward::{Backend, Batch, Logits, Span, Want};
use zonda_engine::load::Model;
use zonda_native::{Native, NativeOptions};
use zonda_testkit::models;

/// The resident memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    1024 * kib.unwrap_or(0)
}

#[test]
fn memory_is_committed_as_sequences_grow() {
    let Some(path) = models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
    let model = Arc::new(Model::open(&path).unwrap());
    let options = NativeOptions { context: Some(8192), ..NativeOptions::default() };
    let mut native = Native::open(&model, &options).unwrap();
    let (mut logits, tokens) = (Logits::new(), [7; 256]);
    let mut grow = |start: usize, tokens: &[u32]| {
        let before = resident();
        let spans = vec![Span { slot: 0, start, tokens, want: Want::Last }];
        native.forward(&Batch { spans }, &mut logits).unwrap();
        resident().saturating_sub(before)
    };
    // 256 positions take 6 MiB here, whose ends may be within huge pages of 2 MiB; the whole context would take 180 MiB.
    const CHUNK: usize = 10 << 20;
    let first = grow(0, &tokens[..1]);
    assert!(first > 0 && first < CHUNK + (6 << 20), "{first} bytes with the first token");
    grow(1, &tokens[..255]);
    for (start, least) in [(256, 4 << 20), (512, 4 << 20)] {
        let more = grow(start, &tokens);
        assert!((least..CHUNK).contains(&more), "{more} bytes with 256 tokens from {start} on");
    }
}
