//! `--backend`, and how a backend is opened.

use super::values::{backend, device, kv_type, quantization};
use clap::Args;
use std::num::NonZeroUsize;
use zonda::{BackendKind, Device, ISAS, KvType, OpenOptions, Quantization};

/// Which backend runs the model, and how it is opened.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Backend")]
pub struct BackendArgs {
    /// The backend; by default the best that can load the model.
    #[arg(long, value_parser = backend())]
    pub backend: Option<BackendKind>,
    #[command(flatten)]
    pub open: OpenArgs,
}

/// How a backend is opened.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Backend")]
pub struct OpenArgs {
    /// What to compute on.
    #[arg(long, default_value = "auto", value_parser = device())]
    pub device: Device,

    /// Layers on the GPU, counting the output head as one; the rest stay on the processor (llama-cpp only) [default: all].
    #[arg(long, value_name = "N")]
    pub gpu_layers: Option<NonZeroUsize>,

    /// Threads [default: one per physical core].
    #[arg(short, long, value_name = "N", value_parser = crate::args::values::threads)]
    pub threads: Option<NonZeroUsize>,

    /// Context length in tokens [default: the model's, at most 4096].
    #[arg(long, value_name = "N")]
    pub ctx: Option<NonZeroUsize>,

    /// Instruction set, for tests and comparisons (native only) [default: the best].
    #[arg(long, value_parser = ISAS)]
    pub isa: Option<String>,

    /// Quantise a SafeTensors model's matrices when loading it.
    #[arg(long, value_name = "TYPE", value_parser = quantization())]
    pub quantize: Option<Quantization>,

    /// Type of the KV cache [default: f16].
    #[arg(long, value_name = "TYPE", value_parser = kv_type())]
    pub kv_type: Option<KvType>,

    /// Load the model even if its weights, KV cache and activations don't seem to fit into the available memory.
    #[arg(long)]
    pub no_memory_check: bool,

    /// Copy all weights into memory, so that the model runs on if its file is cut or changed (native, llama-cpp; mlx always does).
    #[arg(long)]
    pub no_mmap: bool,
}

impl OpenArgs {
    /// The options that a backend is opened with. `seed` is the mock's.
    pub fn options(&self, seed: Option<u64>) -> OpenOptions {
        OpenOptions {
            device: self.device,
            gpu_layers: self.gpu_layers.map(NonZeroUsize::get),
            threads: self.threads.map(NonZeroUsize::get),
            ctx: self.ctx.map(NonZeroUsize::get),
            isa: self.isa.clone(),
            quantize: self.quantize,
            kv_type: self.kv_type,
            no_memory_check: self.no_memory_check,
            no_mmap: self.no_mmap,
            seed,
            ..OpenOptions::default()
        }
    }
}
