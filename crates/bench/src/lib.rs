//! The bench: plan, run in child processes, record, summarise, export.
