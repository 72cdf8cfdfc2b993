//! Two slots that share a page and both write to it need one copy, not two: they fit into two pages.

use std::path::Path;
use zonda_engine::forward::{Backend as _, Batch, Logits, Span, Want};
use zonda_engine::load::Model;
use zonda_native::{Native, NativeOptions};

#[test]
fn the_last_holder_of_a_page_copies_nothing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf/llama");
    let model = std::sync::Arc::new(Model::open(&path).unwrap());
    let options =
        NativeOptions { slots: 2, context: Some(32), kv_tokens: Some(64), ..NativeOptions::default() };
    let mut native = Native::open(&model, &options).unwrap();
    let mut logits = Logits::new();
    let prompt: Vec<u32> = (1..11).collect();
    let span = |slot, start, tokens| Span { slot, start, tokens, want: Want::Last };
    native.forward(&Batch { spans: vec![span(0, 0, &prompt)] }, &mut logits).unwrap();
    assert_eq!(native.share_prefix(0, 1, 10).unwrap(), 10);
    let spans = vec![span(0, 10, &[5]), span(1, 10, &[6])];
    native.forward(&Batch { spans }, &mut logits).unwrap();
}
