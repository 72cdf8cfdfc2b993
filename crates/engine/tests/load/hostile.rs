//! Random damage: opening a file and reading all of it gives a model or an error, never a panic, whatever its content, and
//! takes memory in proportion to its size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use zonda_engine::load::{LoadError, Model, first_non_finite, gguf};

use crate::build::{array, string, tiny, tiny_moe};
use crate::folder;

/// The memory that a load may use at once: a multiple of the file's size, plus some for errors and names.
const PER_BYTE: usize = 48;
const SLACK: usize = 256 << 10;

thread_local! {
    static USED: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The system allocator, which also counts each thread's memory in use.
struct Counting;

impl Counting {
    fn count(bytes: isize) {
        // The counter is gone while a thread ends; nothing is measured then.
        let _ = USED.try_with(|used| {
            used.set(used.get() + bytes);
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(used.get())));
        });
    }
}

// SAFETY: every request goes to the system allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count(layout.size() as isize);
        // SAFETY: the caller upholds `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        Counting::count(-(layout.size() as isize));
        // SAFETY: the pointer came from `alloc` above, hence from the system allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `f` and returns its peak memory.
fn peak(f: impl FnOnce()) -> usize {
    let before = USED.get();
    PEAK.set(before);
    f();
    usize::try_from(PEAK.get() - before).unwrap_or(0)
}

/// Opens a model and reads every byte of it.
fn read_all(path: &Path) -> Result<(), LoadError> {
    let model = Model::open(path)?;
    let _ = (model.tensors(), model.weight_bytes(), model.parameters(), model.types(), model.type_label());
    let _ = model.memory(model.spec.context_length, 2);
    for role in model.spec.roles() {
        let tensor = model.tensor(role)?;
        first_non_finite(&tensor);
        tensor.to_f32();
    }
    Ok(())
}

/// Writes the files of a model, opens it and checks its peak memory against their size.
fn survive(files: &[(&str, &[u8])], open: &str) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).expect("a file");
    }
    let size: usize = files.iter().map(|f| f.1.len()).sum();
    let used = peak(|| {
        if let Err(error) = read_all(&folder.path().join(open)) {
            assert!(!error.to_string().is_empty());
        }
    });
    let allowed = PER_BYTE * size + SLACK;
    prop_assert!(used <= allowed, "{used} bytes in use for {size} bytes of files");
    Ok(())
}

/// One piece of damage.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Byte(Index, u8),
    /// Eight bytes become a number that may cause overflow.
    Number(Index, u64),
    Cut(Index),
    Remove(Index, u8),
    Repeat(Index, u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    let numbers = prop::sample::select(vec![
        0,
        1,
        0x7fff_ffff,
        0xffff_ffff,
        1 << 32,
        1 << 60,
        i64::MAX as u64,
        u64::MAX - 7,
        u64::MAX,
    ]);
    prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(i, bit)| Damage::Flip(i, bit)),
        2 => (at(), any::<u8>()).prop_map(|(i, byte)| Damage::Byte(i, byte)),
        3 => (at(), numbers).prop_map(|(i, n)| Damage::Number(i, n)),
        1 => at().prop_map(Damage::Cut),
        1 => (at(), any::<u8>()).prop_map(|(i, n)| Damage::Remove(i, n)),
        1 => (at(), any::<u8>()).prop_map(|(i, n)| Damage::Repeat(i, n)),
    ]
}

/// Applies damage to the first `reach` bytes, where every byte matters.
fn apply(bytes: &mut Vec<u8>, reach: usize, damage: &[Damage]) {
    for one in damage {
        let reach = reach.min(bytes.len());
        if reach == 0 {
            return;
        }
        let piece = |i: &Index, n: usize| {
            let at = i.index(reach);
            at..reach.min(at + n)
        };
        match one {
            Damage::Flip(i, bit) => bytes[i.index(reach)] ^= 1 << bit,
            Damage::Byte(i, byte) => bytes[i.index(reach)] = *byte,
            Damage::Number(i, number) => {
                let range = piece(i, 8);
                let n = range.len();
                bytes[range].copy_from_slice(&number.to_le_bytes()[..n]);
            }
            Damage::Cut(i) => bytes.truncate(i.index(bytes.len())),
            Damage::Remove(i, n) => drop(bytes.drain(piece(i, *n as usize))),
            Damage::Repeat(i, n) => {
                let range = piece(i, *n as usize);
                let copy = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, copy);
            }
        }
    }
}

/// A GGUF file with every kind of content, and the length of its header.
fn rich_gguf() -> (Vec<u8>, usize) {
    let words: Vec<_> = ["<s>", "a", "b", "ab"].iter().map(|s| string(s)).collect();
    let scores: Vec<_> = (0..4).map(|i| (-i as f32).to_le_bytes().to_vec()).collect();
    let g = tiny_moe("llama", 2, 1)
        .set("tokenizer.ggml.tokens", 9, array(8, &words))
        .set("tokenizer.ggml.scores", 9, array(6, &scores))
        .set("nested", 9, array(9, &[array(0, &[vec![1], vec![2]])]))
        .u32("general.alignment", 32)
        .str("llama.rope.scaling.type", "yarn")
        .f32("llama.rope.scaling.factor", 2.0)
        .u32("llama.attention.sliding_window", 16)
        .tensor("blk.0.attn_q.weight", &[64, 64], 8, 64 * 68)
        .ones("output.weight", &[8, 64]);
    (g.bytes(), g.header().len())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_gguf(damage in prop::collection::vec(damage(), 1..6)) {
        let (mut bytes, header) = rich_gguf();
        apply(&mut bytes, header, &damage);
        survive(&[("m.gguf", &bytes)], "m.gguf")?;
    }

    #[test]
    fn damaged_weights(damage in prop::collection::vec(damage(), 1..6)) {
        let mut bytes = rich_gguf().0;
        let all = bytes.len();
        apply(&mut bytes, all, &damage);
        survive(&[("m.gguf", &bytes)], "m.gguf")?;
    }

    #[test]
    fn random_gguf(body in prop::collection::vec(any::<u8>(), 0..600), pairs in 0u64..40, tensors in 0u64..40) {
        let counts = [tensors.to_le_bytes(), pairs.to_le_bytes()].concat();
        let bytes = [b"GGUF\x03\0\0\0".as_slice(), &counts, &body].concat();
        let used = peak(|| drop(gguf::parse(&bytes)));
        prop_assert!(used <= PER_BYTE * bytes.len() + SLACK, "{used} bytes for {}", bytes.len());
    }

    #[test]
    fn damaged_safetensors(damage in prop::collection::vec(damage(), 1..6)) {
        let model = folder::tiny("mixtral", "MixtralForCausalLM");
        let config = serde_json::to_vec(&model.config).expect("json");
        let mut bytes = folder::safetensors(&model.tensors);
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8")) as usize;
        apply(&mut bytes, header, &damage);
        survive(&[("config.json", &config), ("model.safetensors", &bytes)], ".")?;
    }

    #[test]
    fn damaged_config(damage in prop::collection::vec(damage(), 1..6)) {
        let model = folder::tiny("qwen3_moe", "Qwen3MoeForCausalLM");
        let mut config = serde_json::to_vec(&model.config).expect("json");
        let all = config.len();
        apply(&mut config, all, &damage);
        survive(&[("config.json", &config), ("model.safetensors", &folder::safetensors(&model.tensors))], ".")?;
    }

    #[test]
    fn damaged_index(damage in prop::collection::vec(damage(), 1..4)) {
        let model = folder::tiny("llama", "LlamaForCausalLM");
        let config = serde_json::to_vec(&model.config).expect("json");
        let map: serde_json::Map<_, _> =
            model.tensors.iter().map(|t| (t.0.clone(), "model-00001-of-00001.safetensors".into())).collect();
        let mut index = serde_json::to_vec(&serde_json::json!({ "weight_map": map })).expect("json");
        let all = index.len();
        apply(&mut index, all, &damage);
        survive(
            &[
                ("config.json", &config),
                ("model.safetensors.index.json", &index),
                ("model-00001-of-00001.safetensors", &folder::safetensors(&model.tensors)),
            ],
            ".",
        )?;
    }
}

#[test]
fn undamaged_files_are_read_to_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, rich_gguf().0).expect("a file");
    read_all(&path).expect("a whole model");
    read_all(&tiny("llama").write(folder.path(), "llama.gguf")).expect("a whole model");
}

#[test]
fn a_small_file_with_large_counts_takes_little_memory() {
    // The highest allowed expert and layer counts: nothing is listed before the first tensor is compared.
    let mut g = tiny_moe("llama", 2, 1).u32("llama.expert_count", 1024).u32("llama.block_count", 1024);
    g.tensors.truncate(6);
    survive(&[("m.gguf", &g.bytes())], "m.gguf").expect("in proportion");

    // Many tiny strings and tagged values take the most memory for their bytes.
    let strings = array(8, &vec![string(""); 100_000]);
    let bytes = array(0, &vec![vec![7]; 100_000]);
    let g = tiny("llama").set("strings", 9, strings).set("bytes", 9, bytes);
    survive(&[("m.gguf", &g.bytes())], "m.gguf").expect("in proportion");
}

#[test]
fn an_array_as_large_as_the_file_takes_little_memory() {
    // Found by random damage: a list that grew while it was read briefly took three times its size.
    let (mut bytes, _) = rich_gguf();
    let key = bytes.windows(6).position(|w| w == b"nested").expect("the key");
    let list = key + 6 + 4; // after the name and the type
    bytes[list..list + 4].copy_from_slice(&0u32.to_le_bytes());
    let count = (bytes.len() - list - 12) as u64;
    bytes[list + 4..list + 12].copy_from_slice(&count.to_le_bytes());
    survive(&[("m.gguf", &bytes)], "m.gguf").expect("in proportion");
}
