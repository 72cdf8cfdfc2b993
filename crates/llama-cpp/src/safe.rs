//! The only file that calls llama.cpp. It wraps model, context and thread pool as owned values that are freed when dropped, and
//! turns null pointers and status codes into errors. All other files are safe code.
//!
//! A [`Context`] owns its [`Weights`], so neither borrows the other. Batch sizes, sequence numbers and thread counts are checked
//! here, because llama.cpp checks them with assertions that end the process.

use crate::batch::Tokens;
use crate::log::{self, Level};
use crate::options::KvType;
use llama_cpp_sys_2 as sys;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

/// Maximum number of threads in a pool, `GGML_MAX_N_THREADS`: the number of one-byte entries in its CPU mask, its first field.
const MAX_THREADS: usize = std::mem::offset_of!(sys::ggml_threadpool_params, n_threads);

/// llama.cpp's information about itself.
#[derive(Debug)]
pub(crate) struct Library {
    /// `0.6.0 (ggml 0.26.0)`
    pub version: String,
    /// Instruction sets and switches of each device library, as llama.cpp prints them.
    pub system: String,
    /// Maximum number of slots per context: one fewer than its sequences, since exports use one.
    pub max_slots: usize,
}

/// Initialises the library on first use: its log and its devices.
pub(crate) fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        // SAFETY: called once, before any other call; the callbacks are functions and need no data. The strings are
        // static, or copied before another call could change them.
        unsafe {
            sys::llama_log_set(Some(on_log), ptr::null_mut());
            sys::ggml_set_abort_callback(Some(on_abort));
            sys::llama_backend_init();
            Library {
                version: format!("{} (ggml {})", text(sys::llama_version()), text(sys::ggml_version())),
                system: text(sys::llama_print_system_info()),
                max_slots: sys::llama_max_parallel_sequences() - 1,
            }
        }
    })
}

/// A device of llama.cpp.
#[derive(Debug)]
pub(crate) struct RawDevice {
    pub name: String,
    pub description: String,
    pub gpu: bool,
    pub memory_total: usize,
    pub memory_free: usize,
}

/// The devices of this build that are present.
pub(crate) fn devices() -> Vec<RawDevice> {
    library();
    // SAFETY: indices are below the count; a device lives as long as the process; the strings are copied.
    unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|index| {
                let device = sys::ggml_backend_dev_get(index);
                let (mut memory_free, mut memory_total) = (0, 0);
                sys::ggml_backend_dev_memory(device, &mut memory_free, &mut memory_total);
                let kind = sys::ggml_backend_dev_type(device);
                RawDevice {
                    name: text(sys::ggml_backend_dev_name(device)),
                    description: text(sys::ggml_backend_dev_description(device)),
                    gpu: kind == sys::GGML_BACKEND_DEVICE_TYPE_GPU
                        || kind == sys::GGML_BACKEND_DEVICE_TYPE_IGPU,
                    memory_total,
                    memory_free,
                }
            })
            .collect()
    }
}

/// How weights are loaded.
#[derive(Debug)]
pub(crate) struct LoadOptions {
    /// Layers on GPUs: 0 means CPU only, negative means all.
    pub gpu_layers: i32,
    pub mmap: bool,
    /// For a file without a tokenizer, which llama.cpp would otherwise refuse: the key of the vocabulary size, and the size.
    pub no_tokenizer: Option<(String, usize)>,
    /// Reads the vocabulary and no weights.
    pub only_vocabulary: bool,
}

/// A loaded model.
#[derive(Debug)]
pub(crate) struct Weights(NonNull<sys::llama_model>);

impl Weights {
    /// Loads a model from one file, or from the parts of a split one in order.
    pub fn load(files: &[&Path], options: &LoadOptions) -> Result<Weights, String> {
        library();
        let paths = files.iter().map(|path| {
            CString::new(path.as_os_str().as_encoded_bytes())
                .map_err(|_| format!("the path {} has a zero byte in it", path.display()))
        });
        let paths: Vec<CString> = paths.collect::<Result<_, _>>()?;
        let mut pointers: Vec<*const c_char> = paths.iter().map(|path| path.as_ptr()).collect();

        let mut no_devices = [ptr::null_mut()];
        let overrides = options
            .no_tokenizer
            .as_ref()
            .map(|(key, size)| [no_vocabulary(), integer(key, *size as i64), empty()]);
        log::forget();
        // SAFETY: paths, device list and overrides outlive the call; the lists end with a null pointer and an empty key,
        // as the header requires.
        let model = unsafe {
            let mut params = sys::llama_model_default_params();
            params.n_gpu_layers = options.gpu_layers;
            params.vocab_only = options.only_vocabulary;
            params.load_mode =
                if options.mmap { sys::LLAMA_LOAD_MODE_MMAP } else { sys::LLAMA_LOAD_MODE_NONE };
            if options.gpu_layers == 0 {
                params.devices = no_devices.as_mut_ptr();
            }
            if let Some(overrides) = &overrides {
                params.kv_overrides = overrides.as_ptr();
            }
            match pointers.len() {
                1 => sys::llama_model_load_from_file(pointers[0], params),
                parts => sys::llama_model_load_from_splits(pointers.as_mut_ptr(), parts, params),
            }
        };
        NonNull::new(model).map(Weights).ok_or_else(|| log::explain("could not load the model"))
    }

    /// Rows of the output head.
    pub fn vocab_size(&self) -> usize {
        // SAFETY: the model is loaded, and its vocabulary lives as long as the model.
        let tokens = unsafe { sys::llama_vocab_n_tokens(sys::llama_model_get_vocab(self.0.as_ptr())) };
        tokens.max(0) as usize
    }

    /// What the model keeps of a sequence, which decides how it can be run.
    pub fn memory(&self) -> Memory {
        let model = self.0.as_ptr();
        // SAFETY: the model is loaded.
        unsafe {
            if sys::llama_model_has_encoder(model) || !sys::llama_model_has_decoder(model) {
                Memory::Encoder
            } else if sys::llama_model_is_diffusion(model) {
                Memory::Diffusion
            } else if sys::llama_model_is_recurrent(model) || sys::llama_model_is_hybrid(model) {
                Memory::State
            } else {
                Memory::KeysAndValues
            }
        }
    }

    /// The attention window in use; `None`: every position sees all positions before it.
    pub fn window(&self) -> Option<usize> {
        // SAFETY: the model is loaded.
        let window = unsafe { sys::llama_model_n_swa(self.0.as_ptr()) };
        usize::try_from(window).ok().filter(|&w| w > 0)
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        // SAFETY: loaded by `load` and freed once; the context that used it is already freed (`Context` drops it last).
        unsafe { sys::llama_model_free(self.0.as_ptr()) }
    }
}

/// What a model keeps of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Keys and values of every token.
    KeysAndValues,
    /// A state that includes all tokens so far, possibly beside keys and values: it can't be shortened.
    State,
    /// It has an encoder: its decoder does not run alone, or it has none.
    Encoder,
    /// It fills in masked tokens in any order.
    Diffusion,
}

/// A loaded vocabulary without weights.
#[derive(Debug)]
pub(crate) struct Vocabulary(Weights);

// SAFETY: after loading, llama.cpp only reads a vocabulary: the calls below take it as constant, and it has no cache that they
// fill. It is freed by one thread, after all others have dropped their reference.
unsafe impl Send for Vocabulary {}
// SAFETY: as above.
unsafe impl Sync for Vocabulary {}

impl Vocabulary {
    /// Reads the vocabulary of a model's files.
    pub fn load(files: &[&Path]) -> Result<Vocabulary, String> {
        let load = LoadOptions { gpu_layers: 0, mmap: true, no_tokenizer: None, only_vocabulary: true };
        Weights::load(files, &load).map(Vocabulary)
    }

    fn pointer(&self) -> *const sys::llama_vocab {
        // SAFETY: the model is loaded, and its vocabulary lives as long as the model.
        unsafe { sys::llama_model_get_vocab(self.0.0.as_ptr()) }
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.0.vocab_size()
    }

    /// A token's bytes, control tokens by name; empty outside the vocabulary.
    pub fn piece(&self, id: usize) -> Vec<u8> {
        if id >= self.len() {
            return Vec::new();
        }
        let mut piece = vec![0u8; 64];
        loop {
            let room = piece.len() as i32;
            // SAFETY: the id is in the vocabulary, and llama.cpp writes at most `room` bytes.
            let n = unsafe {
                let to = piece.as_mut_ptr().cast();
                sys::llama_token_to_piece(self.pointer(), id as i32, to, room, 0, true)
            };
            match usize::try_from(n) {
                Ok(n) => {
                    piece.truncate(n);
                    return piece;
                }
                // The number of bytes that are needed, negated
                Err(_) => piece.resize(n.unsigned_abs() as usize, 0),
            }
        }
    }

    /// The ids of a text without special tokens; -1 where it has no token.
    pub fn tokenize(&self, text: &str) -> Result<Vec<i32>, String> {
        let bytes = i32::try_from(text.len()).map_err(|_| format!("a text of {} bytes", text.len()))?;
        let mut ids = vec![0; text.len() + 1];
        loop {
            let room = ids.len().min(i32::MAX as usize) as i32;
            // SAFETY: the text has `bytes` bytes, and llama.cpp writes at most `room` ids.
            let n = unsafe {
                let (from, to) = (text.as_ptr().cast(), ids.as_mut_ptr());
                sys::llama_tokenize(self.pointer(), from, bytes, to, room, false, false)
            };
            match (usize::try_from(n), n) {
                (Ok(n), _) => {
                    ids.truncate(n);
                    return Ok(ids);
                }
                (Err(_), i32::MIN) => return Err("the text has too many tokens".to_owned()),
                // The number of ids that are needed, negated
                (Err(_), n) => ids.resize(n.unsigned_abs() as usize, 0),
            }
        }
    }
}

/// The size of a context, and the threads that run it.
#[derive(Debug)]
pub(crate) struct ContextOptions<'a> {
    pub slots: usize,
    pub batch_tokens: usize,
    pub kv_tokens: usize,
    pub kv_type: KvType,
    pub threads: usize,
    /// CPUs to pin the threads to, one each; empty: threads are not pinned.
    pub cpus: &'a [usize],
    pub flash_attention: bool,
    /// YaRN's `(beta_fast, beta_slow)`, which llama.cpp reads from files of some architectures only.
    pub yarn_betas: Option<(f32, f32)>,
}

/// Why a batch failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// The KV cache has no room for the batch; nothing was changed.
    KvFull,
    Failed(String),
}

/// A model with its KV cache and its threads.
#[derive(Debug)]
pub(crate) struct Context {
    context: NonNull<sys::llama_context>,
    /// Freed after the context (in [`Context::drop`]) and before the weights (by the order of fields).
    _pool: Pool,
    weights: Weights,
    slots: usize,
    batch_tokens: usize,
    /// Logits rows of the last batch.
    rows: usize,
}

impl Context {
    /// Sets up the KV cache and starts the threads; the calling thread is one of them and is pinned like the others.
    pub fn new(weights: Weights, options: &ContextOptions<'_>) -> Result<Context, String> {
        let slots = options.slots;
        if slots == 0 || slots > library().max_slots {
            return Err(format!("{slots} slots; expected 1 to {}", library().max_slots));
        }
        let narrow = |n: usize| u32::try_from(n).map_err(|_| format!("{n} is more than llama.cpp counts to"));
        let threads = options.threads;
        if threads == 0 || threads > MAX_THREADS {
            return Err(format!("{threads} threads; llama.cpp takes 1 to {MAX_THREADS}"));
        }
        log::forget();
        // SAFETY: the model is loaded; the parameters are plain values.
        let context = unsafe {
            let mut params = sys::llama_context_default_params();
            // With fewer cells or tokens a batch than sequences, it would end the process.
            let sequences = slots + 1;
            params.n_ctx = narrow(options.kv_tokens.max(sequences))?;
            params.n_batch = narrow(options.batch_tokens.max(sequences))?;
            params.n_ubatch = params.n_batch.min(params.n_ubatch);
            // One more for exports; it has no cells of its own.
            params.n_seq_max = narrow(sequences)?;
            params.n_threads = threads as i32;
            params.n_threads_batch = threads as i32;
            params.flash_attn_type = match options.flash_attention {
                true => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
                false => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
            };
            if let Some((fast, slow)) = options.yarn_betas {
                (params.yarn_beta_fast, params.yarn_beta_slow) = (fast, slow);
            }
            params.type_k = ggml_type(options.kv_type);
            params.type_v = params.type_k;
            // With one buffer for all sequences they can share a prefix's cells, and each can grow to its limit; with a full
            // window cache they can be truncated to any length.
            params.kv_unified = true;
            params.swa_full = true;
            sys::llama_init_from_model(weights.0.as_ptr(), params)
        };
        let Some(context) = NonNull::new(context) else {
            return Err(log::explain("could not make a context"));
        };
        // SAFETY: the context is alive.
        if unsafe { sys::llama_get_memory(context.as_ptr()) }.is_null() {
            // SAFETY: made above, and not used after this.
            unsafe { sys::llama_free(context.as_ptr()) };
            return Err("the model keeps nothing of a sequence, so it can't generate text".to_owned());
        }
        let pool = Pool::new(threads, options.cpus);
        // SAFETY: both are alive, and the pool is freed after the context.
        unsafe { sys::llama_attach_threadpool(context.as_ptr(), pool.0, pool.0) };
        let batch_tokens = options.batch_tokens;
        Ok(Context { context, _pool: pool, weights, slots, batch_tokens, rows: 0 })
    }

    /// Extends sequences by the tokens of a batch; [`Context::logits`] then has the wanted rows.
    pub fn decode(&mut self, tokens: &mut Tokens) -> Result<(), DecodeError> {
        let n = tokens.ids.len();
        self.rows = 0;
        if n == 0 {
            return Ok(());
        }
        let whole = [tokens.positions.len(), tokens.slots.len(), tokens.wanted.len()] == [n; 3];
        let known = tokens.slots.iter().all(|&slot| (slot as usize) < self.slots);
        if n > self.batch_tokens || !whole || !known {
            return Err(DecodeError::Failed("the batch does not fit the context".to_owned()));
        }
        tokens.counts.resize(n, 1);
        tokens.lists.clear();
        let slots = tokens.slots.as_mut_ptr();
        // SAFETY: `i` is within `slots`.
        tokens.lists.extend((0..n).map(|i| unsafe { slots.add(i) }));
        let batch = sys::llama_batch {
            n_tokens: n as i32,
            token: tokens.ids.as_mut_ptr(),
            embd: ptr::null_mut(),
            pos: tokens.positions.as_mut_ptr(),
            n_seq_id: tokens.counts.as_mut_ptr(),
            seq_id: tokens.lists.as_mut_ptr(),
            logits: tokens.wanted.as_mut_ptr(),
        };
        log::forget();
        // SAFETY: every array has `n` entries, lives until the call returns and is not kept. llama.cpp checks ids, positions
        // and sequence numbers; the sizes are checked above.
        match unsafe { sys::llama_decode(self.context.as_ptr(), batch) } {
            0 => {
                self.rows = tokens.wanted.iter().filter(|&&wanted| wanted != 0).count();
                Ok(())
            }
            1 => Err(DecodeError::KvFull),
            code => Err(DecodeError::Failed(log::explain(&format!("failed to decode (code {code})")))),
        }
    }

    /// The wanted rows of the last batch, `[rows, vocab]`, in the batch's order. Waits for the device.
    pub fn logits(&mut self) -> Result<&[f32], String> {
        if self.rows == 0 {
            return Ok(&[]);
        }
        // SAFETY: the context is alive.
        let data = unsafe { sys::llama_get_logits(self.context.as_ptr()) };
        if data.is_null() {
            return Err(log::explain("gave no logits"));
        }
        // SAFETY: after a batch with `rows` wanted positions the buffer holds that many rows of the vocabulary's size.
        // It does not change until the next call, which the borrow of `self` prevents.
        Ok(unsafe { std::slice::from_raw_parts(data, self.rows * self.weights.vocab_size()) })
    }

    /// Removes a sequence's positions from `start` on; `false` if its memory can't be truncated there.
    pub fn forget(&mut self, slot: usize, start: usize) -> bool {
        let (Ok(slot), Ok(start)) = (i32::try_from(slot), i32::try_from(start)) else { return false };
        if slot as usize >= self.slots {
            return false;
        }
        // SAFETY: the context is alive and has this sequence.
        unsafe { sys::llama_memory_seq_rm(sys::llama_get_memory(self.context.as_ptr()), slot, start, -1) }
    }

    /// Appends the first `len` positions of a sequence to `out`, in llama.cpp's format.
    pub fn export(&mut self, slot: usize, len: usize, out: &mut Vec<u8>) -> Result<(), String> {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        // llama.cpp exports only whole sequences, so the spare one shares the first cells during the export.
        let (start, spare) = (out.len(), self.slots as i32);
        log::forget();
        // SAFETY: the context is alive and has both sequences, whose small numbers fit. The buffer has the size that llama.cpp
        // requires.
        let written = unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            sys::llama_memory_seq_cp(memory, slot as i32, spare, 0, len as i32);
            let size = sys::llama_state_seq_get_size(self.context.as_ptr(), spare);
            out.resize(start + size, 0);
            let into = out[start..].as_mut_ptr();
            let written = sys::llama_state_seq_get_data(self.context.as_ptr(), into, size, spare);
            sys::llama_memory_seq_rm(memory, spare, -1, -1);
            written
        };
        out.truncate(start + written);
        if written == 0 { Err(log::explain("could not hand out keys and values")) } else { Ok(()) }
    }

    /// Fills the empty sequence `slot` with the first `len` positions of an export; if it fails, the sequence is empty.
    pub fn import(&mut self, slot: usize, len: usize, from: &[u8]) -> Result<(), String> {
        assert!(slot < self.slots, "slot {slot} of {}", self.slots);
        log::forget();
        // SAFETY: the context is alive and has this sequence, whose number fits; llama.cpp reads only within the slice and
        // compares its content with its own types and shapes.
        let (read, positions) = unsafe {
            let (context, seq) = (self.context.as_ptr(), slot as i32);
            let read = sys::llama_state_seq_set_data(context, from.as_ptr(), from.len(), seq);
            let memory = sys::llama_get_memory(context);
            let (first, last) =
                (sys::llama_memory_seq_pos_min(memory, seq), sys::llama_memory_seq_pos_max(memory, seq));
            (read, (first == 0).then(|| last as usize + 1))
        };
        let whole = read == from.len() && positions.is_some_and(|held| held >= len);
        // The export may have more positions than `len`.
        if whole && self.forget(slot, len) {
            return Ok(());
        }
        self.forget(slot, 0);
        Err(log::explain("could not take keys and values in"))
    }

    /// Lets the empty sequence `to` share the first `len` positions of `from`.
    pub fn share(&mut self, from: usize, to: usize, len: usize) {
        assert!(
            from < self.slots && to < self.slots && from != to,
            "slots {from} and {to} of {}",
            self.slots
        );
        // SAFETY: the context is alive and has both sequences, whose small numbers fit.
        unsafe {
            let memory = sys::llama_get_memory(self.context.as_ptr());
            sys::llama_memory_seq_cp(memory, from as i32, to as i32, 0, len as i32);
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `new` and freed once. The pool and the weights are dropped after this, in that order.
        unsafe { sys::llama_free(self.context.as_ptr()) }
    }
}

/// llama.cpp's worker threads: they spin for a while between graphs, then sleep.
#[derive(Debug)]
struct Pool(*mut sys::ggml_threadpool);

impl Pool {
    fn new(threads: usize, cpus: &[usize]) -> Pool {
        // SAFETY: the struct has only plain numbers, for which all zeros are valid, and `init` fills it.
        let mut params: sys::ggml_threadpool_params = unsafe { std::mem::zeroed() };
        // SAFETY: the pointer is to a complete value.
        unsafe { sys::ggml_threadpool_params_init(&mut params, threads as i32) };
        if cpus.len() >= threads && cpus.iter().all(|&cpu| cpu < params.cpumask.len()) {
            for &cpu in &cpus[..threads] {
                params.cpumask[cpu] = true;
            }
            params.strict_cpu = true;
        }
        // SAFETY: the parameters are read only during the call; the number of threads is within ggml's limit.
        Pool(unsafe { sys::ggml_threadpool_new(&mut params) })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: made by `new`, freed once, after the context that used it.
        unsafe { sys::ggml_threadpool_free(self.0) }
    }
}

fn ggml_type(kv_type: KvType) -> sys::ggml_type {
    match kv_type {
        KvType::F32 => sys::GGML_TYPE_F32,
        KvType::F16 => sys::GGML_TYPE_F16,
        KvType::Q8_0 => sys::GGML_TYPE_Q8_0,
        KvType::Q4_0 => sys::GGML_TYPE_Q4_0,
    }
}

/// An override without a key, which ends a list of overrides.
fn empty() -> sys::llama_model_kv_override {
    // SAFETY: all zeros is an empty key and the integer 0.
    unsafe { std::mem::zeroed() }
}

/// The override that declares a file without a tokenizer.
fn no_vocabulary() -> sys::llama_model_kv_override {
    let mut entry = empty();
    entry.tag = sys::LLAMA_KV_OVERRIDE_TYPE_STR;
    copy(&mut entry.key, "tokenizer.ggml.model");
    let mut value = [0; 128];
    copy(&mut value, "no_vocab");
    entry.__bindgen_anon_1.val_str = value;
    entry
}

fn integer(key: &str, value: i64) -> sys::llama_model_kv_override {
    let mut entry = empty();
    entry.tag = sys::LLAMA_KV_OVERRIDE_TYPE_INT;
    copy(&mut entry.key, key);
    entry.__bindgen_anon_1.val_i64 = value;
    entry
}

/// Copies as much as fits before the terminating zero.
fn copy(to: &mut [c_char; 128], from: &str) {
    for (to, from) in to[..127].iter_mut().zip(from.bytes()) {
        *to = from as c_char;
    }
}

/// A copy of a C string; empty for a null pointer.
///
/// # Safety
/// `string` is null or ends with a zero.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller guarantees that the string ends with a zero.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}

/// llama.cpp's log callback. A panic must not unwind into C++, so it ends here.
unsafe extern "C" fn on_log(level: sys::ggml_log_level, string: *const c_char, _: *mut c_void) {
    let level = match level {
        sys::GGML_LOG_LEVEL_CONT => None,
        sys::GGML_LOG_LEVEL_ERROR => Some(Level::Error),
        sys::GGML_LOG_LEVEL_WARN => Some(Level::Warn),
        sys::GGML_LOG_LEVEL_DEBUG => Some(Level::Debug),
        _ => Some(Level::Info),
    };
    // SAFETY: llama.cpp passes a string that lives until this returns.
    let string = unsafe { text(string) };
    let _ = catch_unwind(AssertUnwindSafe(|| log::fragment(level, &string)));
}

/// Called before llama.cpp ends the process after a failed assertion. Prints the reason as the last line on stderr, where the
/// parent process finds it; without this callback a backtrace would follow.
unsafe extern "C" fn on_abort(message: *const c_char) {
    // SAFETY: llama.cpp passes a string that lives until this returns.
    let message = unsafe { text(message) };
    let _ =
        catch_unwind(AssertUnwindSafe(|| eprintln!("llama.cpp gave up: {}", log::without_folders(&message))));
}
