//! Reports of a record, one file per format.

use crate::error::BenchError;
use crate::record::results::Record;

pub mod comparison;
pub mod csv;
pub mod figures;
pub mod findings;
pub mod html;
pub mod json;
pub mod markdown;
pub mod redact_paths;
pub mod table;

pub use table::render_table;

use std::fs;
use std::path::{Path, PathBuf};
use time::{OffsetDateTime, macros::format_description};
use zonda_engine::files;

/// The default output folder: `results/2026-11-23T18-05-09Z`.
pub fn default_out() -> PathBuf {
    let form = format_description!("[year]-[month]-[day]T[hour]-[minute]-[second]Z");
    Path::new("results").join(OffsetDateTime::now_utc().format(form).unwrap_or_else(|_| "latest".into()))
}

/// Creates the folder for results if needed and checks that files can be written into it, before anything is measured.
///
/// # Errors
/// If it can't be made or written to.
pub fn prepare(dir: &Path) -> Result<(), BenchError> {
    files::prepare_folder(dir).map_err(|e| BenchError::Write { path: dir.into(), why: e.to_string() })
}

/// Writes `results.csv`, `results.json`, `report.md` and `report.html` into a folder, which is created if needed; returns their
/// paths.
///
/// # Errors
/// If the folder or a file can't be written.
pub fn write_all(dir: &Path, record: &Record) -> Result<Vec<PathBuf>, BenchError> {
    let mut files = vec![("results.csv", csv::to_string(record)), ("results.json", json::to_string(record))];
    files.extend(reports(record).map(|(name, text)| (name, Ok(text))));
    write_files(dir, files)
}

/// Writes only `report.md` and `report.html`, from an existing record.
///
/// # Errors
/// As [`write_all`].
pub fn write_reports(dir: &Path, record: &Record) -> Result<Vec<PathBuf>, BenchError> {
    write_files(dir, reports(record).map(|(name, text)| (name, Ok(text))).into())
}

fn reports(record: &Record) -> [(&'static str, String); 2] {
    [("report.md", markdown::to_string(record)), ("report.html", html::to_string(record))]
}

fn write_files(dir: &Path, files: Vec<(&str, std::io::Result<String>)>) -> Result<Vec<PathBuf>, BenchError> {
    fs::create_dir_all(dir).map_err(|e| BenchError::Write { path: dir.into(), why: e.to_string() })?;
    let mut written = Vec::new();
    for (name, text) in files {
        let path = dir.join(name);
        text.and_then(|text| files::write(&path, text.as_bytes()))
            .map_err(|e| BenchError::Write { path: path.clone(), why: e.to_string() })?;
        written.push(path);
    }
    Ok(written)
}
