//! `zonda doctor`: the machine, its measured limits, and which backends are usable.

use crate::args::JsonArg;
use crate::context::Context;
use crate::error::Usage;
use crate::output::{self, Spinner, human_bytes};
use anyhow::Context as _;
use clap::Args;
use serde_json::{Value as Json, json};
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use zonda::{BackendKind, DeviceStatus, Status};
use zonda_bench::machine::{self, Machine};
use zonda_bench::record::{Noted, Warning};
use zonda_kernels::Isa;
use zonda_kernels::probe::{self, EACH, LARGE_BYTES};
use zonda_machine::{Peaks, Rate, cpus};

/// Show this machine, its limits, and which backends are usable
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda doctor\n  zonda doctor --json | jq .machine.peaks\n\n\
    Memory bandwidth and arithmetic throughput are measured with one core and with all threads, for 0.3 seconds each: the \
    upper limits of every speed. Other work on the machine lowers the figures.")]
pub struct Doctor {
    /// Skip the measurements.
    #[arg(long)]
    quick: bool,
    /// Threads to measure with [default: one per physical core].
    #[arg(short, long, value_name = "N", value_parser = crate::args::values::threads)]
    threads: Option<NonZeroUsize>,
    /// Instruction set to measure [default: the best].
    #[arg(long, value_parser = zonda::ISAS)]
    isa: Option<String>,
    #[command(flatten)]
    json: JsonArg,
}

/// The result.
struct Found {
    machine: Machine,
    isas: Vec<Isa>,
    threads: usize,
    /// `None`: no backend in this build uses GPUs.
    gpus: Option<Vec<DeviceStatus>>,
    peaks: Option<Peaks>,
    warnings: Vec<Warning>,
    backends: Vec<Status>,
}

impl Doctor {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let found = self.look(context.quiet)?;
        if self.json.json { output::json(&document(&found)) } else { output::print(&text(&found)) }
    }

    fn look(&self, quiet: bool) -> anyhow::Result<Found> {
        let isa = self.isa.as_deref().map_or_else(|| Ok(Isa::best()), Isa::named);
        let isa = isa.map_err(|e| Usage(e.to_string()))?;
        let threads = self.threads.map_or_else(cpus::default_threads, NonZeroUsize::get);
        let machine = Machine::probe();
        let mut warnings = Vec::new();
        let mut peaks = None;
        // Before the backends, whose libraries start threads.
        if !self.quick {
            warnings = machine::check(&machine);
            let _spinner = Spinner::start("measuring", quiet);
            let large = machine.room().0 > 2 * LARGE_BYTES as u64;
            let measured = probe::measure(isa, threads, EACH, large);
            peaks = Some(measured.context("measuring the memory's speed")?);
        }
        let backends: Vec<_> = BackendKind::ALL.iter().map(|kind| kind.status()).collect();
        let lists = backends.iter().any(|status| !status.devices.is_empty());
        let gpus = backends.iter().flat_map(|status| &status.devices).filter(|d| d.gpu).cloned();
        let gpus = lists.then(|| gpus.collect());
        Ok(Found { machine, isas: Isa::all(), threads, gpus, peaks, warnings, backends })
    }
}

fn document(found: &Found) -> Json {
    let mut machine = json!(found.machine);
    machine["instruction_sets"] = found.isas.iter().map(|isa| isa.describe()).collect();
    machine["gpus"] = json!(found.gpus);
    machine["threads"] = json!({
        "count": found.threads,
        "pinned_to": cpus::pins(found.threads),
        "allowed_cpus": cpus::allowed_cpus(),
        "allowed_cores": cpus::allowed_cores(),
        "quota_cpus": cpus::quota(),
        "why": placement(found.threads),
    });
    machine["peaks"] = json!(found.peaks);
    let warnings: Vec<Noted> = found.warnings.iter().cloned().map(Noted::from).collect();
    json!({ "machine": machine, "backends": found.backends, "warnings": warnings })
}

fn text(found: &Found) -> String {
    let machine = &found.machine;
    let mut out = String::new();
    let mut line = |label: &str, text: String| {
        let _ = writeln!(out, "{label:<13} {text}");
    };
    let known = |what: &Option<String>| what.clone().unwrap_or_else(|| "unknown".to_owned());
    let cores = machine.physical_cores.map_or(String::new(), |n| format!("{n} cores, "));
    line(
        "processor",
        format!("{} ({}), {cores}{} threads", known(&machine.cpu), machine.arch, machine.logical_cores),
    );
    line("system", [known(&machine.os), machine.kernel.clone().unwrap_or_default()].join(", "));
    line("caches", machine.caches.join(", "));
    line("instructions", found.isas.iter().map(|isa| isa.describe()).collect::<Vec<_>>().join("; "));
    let limit = |bytes| format!(", the control group allows {}", human_bytes(bytes));
    line(
        "memory",
        format!(
            "{}, {} available{}",
            human_bytes(machine.memory_bytes),
            human_bytes(machine.room().0),
            machine.cgroup_memory_bytes.map_or(String::new(), limit)
        ),
    );
    line("threads", placement(found.threads));
    match &found.gpus {
        None => line("gpus", "not searched: no backend in this build uses one".to_owned()),
        Some(gpus) if gpus.is_empty() => line("gpus", "none".to_owned()),
        Some(gpus) => gpus.iter().for_each(|gpu| line("gpu", device(gpu))),
    }
    if let Some(peaks) = &found.peaks {
        let figure = |rate: Rate, unit: f64, name: &str| {
            let one = format!("{:.2} {name} with one core", rate.one_core / unit);
            if peaks.threads == 1 {
                one
            } else {
                format!("{one}, {:.2} with {}", rate.all_threads / unit, peaks.threads)
            }
        };
        line("read", figure(peaks.read_bytes_per_s, 1e9, "GB/s"));
        if let Some(large) = peaks.read_large_bytes_per_s {
            line("read 4 GiB", figure(large, 1e9, "GB/s"));
        }
        line("int8", figure(peaks.int8_ops_per_s, 1e12, "TOPS"));
        let by_f32 = || "no instruction for it: computed as f32".to_owned();
        line("bf16", peaks.bf16_ops_per_s.map_or_else(by_f32, |rate| figure(rate, 1e12, "TFLOPS")));
        line("f32", figure(peaks.f32_ops_per_s, 1e12, "TFLOPS"));
    }
    for warning in &found.warnings {
        line("warning", warning.to_string());
    }
    out.push('\n');
    for status in &found.backends {
        let _ = writeln!(out, "{:<13} {}", status.name, describe(status));
    }
    out
}

/// A backend in one line.
fn describe(status: &Status) -> String {
    let mut parts = vec![if status.usable { "usable".to_owned() } else { "not usable".to_owned() }];
    parts.extend(status.version.as_ref().map(|v| format!("version {v}")));
    parts.extend(status.instruction_set.clone());
    if !status.formats.is_empty() {
        parts.push(format!("reads {}", status.formats.join(", ")));
    }
    parts.extend(status.devices.iter().filter(|d| d.gpu).map(device));
    parts.extend(status.reason.clone());
    parts.join("; ")
}

fn device(device: &DeviceStatus) -> String {
    let memory = match (device.memory_bytes, device.free_bytes) {
        (Some(all), Some(free)) => format!(", {}, {} free", human_bytes(all), human_bytes(free)),
        _ => String::new(),
    };
    format!("{}: {}{memory}", device.name, device.description)
}

/// How many threads, on which CPUs, and why.
fn placement(threads: usize) -> String {
    let (allowed, cores, pins) = (cpus::allowed_cpus(), cpus::allowed_cores(), cpus::pins(threads));
    let count = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    if allowed.is_empty() {
        return format!("{count}, placed by the system, which does not report the allowed CPUs");
    }
    let place = match pins.len() {
        0 if threads == 1 => "placed by the system".to_owned(),
        0 => format!("placed by the system, since there are {} cores", cores.len()),
        _ => format!("pinned to CPUs {}", list(&pins)),
    };
    let siblings = match allowed.len() - cores.len() {
        0 => "each on its own core".to_owned(),
        n => format!("{n} of them share a core with another and are not used"),
    };
    let quota = match cpus::quota() {
        quota if quota < allowed.len() => format!("a CPU quota allows {quota}"),
        _ => "no CPU quota".to_owned(),
    };
    format!("{count}, {place}: the affinity mask allows {}, {siblings}; {quota}", list(&allowed))
}

/// `0-3,8`
fn list(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let range = |(first, last): (usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.into_iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn cpus_as_ranges() {
        assert_eq!(list(&[0, 1, 2, 3, 8]), "0-3,8");
        assert_eq!(list(&[5]), "5");
        assert_eq!(list(&[]), "");
    }
}
