//! [`Status`]: whether a backend is in this build and usable on this machine, and on which devices.

use super::kind::BackendKind;
use serde::Serialize;
#[cfg(feature = "native")]
use zonda_kernels::Isa;

/// The state of a backend in this build and on this machine.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The name on the command line.
    pub name: &'static str,
    /// Whether this build has it.
    pub compiled_in: bool,
    /// Whether it could run a model now.
    pub usable: bool,
    /// Why it is not usable, or what is missing.
    pub reason: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// The instruction set that it uses or was compiled for.
    pub instruction_set: Option<String>,
    /// The model formats it reads.
    pub formats: Vec<&'static str>,
    /// The devices that it can compute on, if it has a choice.
    pub devices: Vec<DeviceStatus>,
}

/// A processor or GPU that a backend sees.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct DeviceStatus {
    /// The backend's short name for it.
    pub name: String,
    /// The product name.
    pub description: String,
    /// Whether `--device gpu` would use it.
    pub gpu: bool,
    /// Total memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Free memory, in bytes.
    pub free_bytes: Option<u64>,
}

impl BackendKind {
    /// Whether the backend is usable on this machine, and on which devices.
    pub fn status(self) -> Status {
        let mut status = Status {
            name: self.name(),
            compiled_in: Self::AVAILABLE.contains(&self),
            usable: Self::AVAILABLE.contains(&self),
            reason: None,
            version: None,
            instruction_set: None,
            formats: Vec::new(),
            devices: Vec::new(),
        };
        if !status.compiled_in {
            let mut why = "not compiled into this program".to_owned();
            if let Some(how) = self.how_to_build() {
                why = format!("{why}; {how}");
            }
            status.reason = Some(why);
            return status;
        }
        match self {
            #[cfg(feature = "native")]
            BackendKind::Native => {
                status.version = Some(env!("CARGO_PKG_VERSION").to_owned());
                status.instruction_set = Some(Isa::best().describe().to_owned());
                status.formats = vec!["gguf", "safetensors", "mlx"];
            }
            #[cfg(feature = "llama-cpp")]
            BackendKind::LlamaCpp => {
                status.version = Some(zonda_llama_cpp::version().to_owned());
                status.instruction_set = Some(zonda_llama_cpp::instruction_sets());
                status.formats = vec!["gguf"];
                status.reason = zonda_llama_cpp::no_gpu().map(|why| format!("no GPU: {why}"));
                let device = |d: zonda_llama_cpp::DeviceInfo| DeviceStatus {
                    name: d.name,
                    description: d.description.trim().to_owned(),
                    gpu: d.gpu,
                    memory_bytes: (d.memory_total > 0).then_some(d.memory_total),
                    free_bytes: (d.memory_total > 0).then_some(d.memory_free),
                };
                status.devices = zonda_llama_cpp::devices().into_iter().map(device).collect();
            }
            #[cfg(feature = "mlx")]
            BackendKind::Mlx => {
                let gpu = zonda_mlx::gpu();
                let device = |name: &str, description: String, gpu| DeviceStatus {
                    name: name.to_owned(),
                    description,
                    gpu,
                    memory_bytes: None,
                    free_bytes: None,
                };
                status.formats = vec!["gguf", "safetensors", "mlx"];
                status.devices = vec![device("CPU", "the processor".to_owned(), false)];
                match (zonda_mlx::version(), gpu) {
                    (Err(why), _) => {
                        status.usable = false;
                        status.reason = Some(why.to_string());
                    }
                    (Ok(version), None) => {
                        status.version = Some(version);
                        status.reason = Some(format!("no GPU: {}", zonda_mlx::no_gpu()));
                    }
                    (Ok(version), Some(name)) => {
                        status.version = Some(version);
                        status.devices.push(device("GPU", name, true));
                    }
                }
            }
            BackendKind::Mock => status.version = Some(env!("CARGO_PKG_VERSION").to_owned()),
            #[cfg(not(all(feature = "native", feature = "llama-cpp", feature = "mlx")))]
            _ => {}
        }
        status
    }
}
