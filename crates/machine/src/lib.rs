//! The computer: cores and affinity, memory and control groups, load, throttling, energy; it knows no models.

pub mod memory;
