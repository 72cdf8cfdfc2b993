//! Errors of the bench.

/// Why there is no record. Failures of single runs are rows of the record, not errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// A scenario was refused.
    #[error("scenario {name}: {why}")]
    Scenario {
        /// Its name or path.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The plan is invalid.
    #[error("{0}")]
    Plan(String),
    /// No child process could be started at all.
    #[error("can't start {program}: {source}")]
    Launch {
        /// The program.
        program: std::path::PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A result could not be written.
    #[error("can't write {path}: {why}")]
    Write {
        /// The path.
        path: std::path::PathBuf,
        /// The error.
        why: String,
    },
}
