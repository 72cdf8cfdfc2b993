//! Warnings about possible disturbances of a measurement on this machine.

use crate::record::Warning;
pub use zonda_machine::Machine;
use zonda_machine::load;

/// A process that uses more of a core than this, in percent, causes a warning.
const BUSY_PCT: f32 = 20.0;

/// Warnings for a measurement that begins now. Watches the other processes for a fifth of a second.
pub fn check(machine: &Machine) -> Vec<Warning> {
    let mut warnings = of_figures(machine);
    let busy = load::busy_processes(BUSY_PCT).into_iter();
    warnings.extend(busy.map(|p| Warning::BusyProcess { name: p.name, pid: p.pid, cpu_pct: p.cpu_pct }));
    warnings
}

/// Warnings that follow from the machine's own figures.
fn of_figures(machine: &Machine) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let cores = machine.physical_cores.unwrap_or(machine.logical_cores).max(1);
    if let Some(load1) = machine.load1.filter(|&l| l > 0.5 * cores as f64) {
        warnings.push(Warning::HighLoad { load1, cores });
    }
    if let Some(governor) = machine.governor.clone().filter(|g| g != "performance") {
        warnings.push(Warning::Governor { governor });
    }
    if cfg!(debug_assertions) {
        warnings.push(Warning::DebugBuild);
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_follow_from_the_figures() {
        let busy = Machine { load1: Some(3.0), physical_cores: Some(4), ..Machine::default() };
        assert!(of_figures(&busy).contains(&Warning::HighLoad { load1: 3.0, cores: 4 }));
        let governed = |by: &str| Machine {
            load1: Some(0.1),
            physical_cores: Some(4),
            governor: Some(by.into()),
            ..Machine::default()
        };
        let of_power = |w: &Warning| matches!(w, Warning::HighLoad { .. } | Warning::Governor { .. });
        assert!(!of_figures(&governed("performance")).iter().any(of_power));
        let powersave = of_figures(&governed("powersave"));
        assert!(powersave.contains(&Warning::Governor { governor: "powersave".into() }));
    }
}
