//! A decode step requests no memory from the allocator, on any thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use zonda_engine::forward::{Backend, Batch, Logits, Span, Want};
use zonda_engine::load::Model;
use zonda_native::{Native, NativeOptions};

/// The system allocator, which counts requests.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every request goes to the system allocator; counting touches no memory of the callers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller upholds `alloc`'s contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from the system allocator, by `alloc` or `realloc` above.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `at` came from the system allocator, by `alloc` or `realloc` above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn step(native: &mut Native, start: usize, tokens: &[u32], logits: &mut Logits) -> usize {
    let spans = [0, 1].map(|slot| Span { slot, start, tokens, want: Want::Last });
    let batch = Batch { spans: spans.to_vec() };
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    native.forward(&batch, logits).expect("a valid batch");
    ALLOCATIONS.load(Ordering::SeqCst) - before
}

#[test]
fn decode_steps_allocate_nothing() {
    let names =
        ["llama", "qwen3", "mixtral", "mistral_window", "ministral3", "gemma3", "gemma2", "olmo2", "cohere2"];
    let newer = ["deepseek_v3", "mistral4", "glm4_moe", "phi3_long", "glm4", "granitemoeshared"];
    for name in names.into_iter().chain(newer) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf").join(name);
        let model = Arc::new(Model::open(&path).expect("a checkpoint"));
        for quantize in [None, Some("q8_0".parse().expect("a mix"))] {
            let options = NativeOptions { threads: Some(2), slots: 2, quantize, ..NativeOptions::default() };
            let Ok(mut native) = Native::open(&model, &options) else {
                assert!(quantize.is_some(), "{name} opens as it is");
                continue;
            };
            let context = native.limits().context;
            let mut logits = Logits::default();
            // The prompt sizes the buffers, and the first steps size those used only in decoding.
            let prompt: Vec<u32> = (0..context as u32 / 2).map(|i| i % 50).collect();
            assert!(step(&mut native, 0, &prompt, &mut logits) > 0, "the counter counts");
            let mut position = prompt.len();
            while position < context {
                let allocations = step(&mut native, position, &[7], &mut logits);
                if position >= prompt.len() + 2 {
                    assert_eq!(allocations, 0, "{name} at position {position}");
                }
                position += 1;
            }
        }
    }
}
