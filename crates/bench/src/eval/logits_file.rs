//! Rows of logits in a file (`f32`, little-endian, one row after the other), and the comparison of a backend with them.

use super::comparison::LogitsComparison;
use crate::record::comparison::LogitsSummary;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};

/// Buffer size in bytes: a row of a large vocabulary takes half a MiB.
const BUFFER: usize = 1 << 20;

/// Writes rows of logits.
pub(crate) struct LogitsWriter(BufWriter<File>);

impl LogitsWriter {
    /// Writes from the file's current position on.
    pub fn new(file: File) -> LogitsWriter {
        LogitsWriter(BufWriter::with_capacity(BUFFER, file))
    }

    /// Writes a row, `[vocab]`.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn write(&mut self, row: &[f32]) -> Result<(), String> {
        let bytes: Vec<u8> = row.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        self.0.write_all(&bytes).map_err(|e| format!("can't write logits: {e}"))
    }

    /// Flushes the buffer; returns the file.
    ///
    /// # Errors
    /// If the file can't be written.
    pub fn finish(self) -> Result<File, String> {
        self.0.into_inner().map_err(|e| format!("can't write logits: {}", e.error()))
    }
}

/// Compares rows with the rows of a file, in order.
pub(crate) struct FileComparison {
    reference: BufReader<File>,
    comparison: LogitsComparison,
    bytes: Vec<u8>,
    /// The last row read. `[vocab]`
    row: Vec<f32>,
}

impl FileComparison {
    /// Reads from the file's current position on.
    pub fn new(file: File) -> FileComparison {
        FileComparison {
            reference: BufReader::with_capacity(BUFFER, file),
            comparison: LogitsComparison::default(),
            bytes: Vec::new(),
            row: Vec::new(),
        }
    }

    /// Skips a row of `vocab` logits.
    ///
    /// # Errors
    /// If the file can't be read or ends.
    pub fn skip(&mut self, vocab: usize) -> Result<(), String> {
        self.read(vocab)
    }

    /// Compares `row`, `[vocab]`, with the file's next row, which is the reference.
    ///
    /// # Errors
    /// If the file can't be read or ends, or the rows can't be compared.
    pub fn add(&mut self, row: &[f32]) -> Result<(), String> {
        self.read(row.len())?;
        self.comparison.add(&self.row, row).map_err(|e| e.to_string())
    }

    /// Compares the file's next row with `reference`, `[vocab]`.
    ///
    /// # Errors
    /// As [`FileComparison::add`].
    pub fn add_reference(&mut self, reference: &[f32]) -> Result<(), String> {
        self.read(reference.len())?;
        self.comparison.add(reference, &self.row).map_err(|e| e.to_string())
    }

    /// The comparison of all rows so far; `None` if there are none.
    pub fn summary(&self) -> Option<LogitsSummary> {
        self.comparison.summary()
    }

    fn read(&mut self, vocab: usize) -> Result<(), String> {
        self.bytes.resize(vocab * 4, 0);
        self.reference.read_exact(&mut self.bytes).map_err(|e| format!("can't read logits: {e}"))?;
        self.row.clear();
        self.row.extend(self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)));
        Ok(())
    }
}
