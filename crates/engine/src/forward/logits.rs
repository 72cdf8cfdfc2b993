//! The logits matrix that a forward call fills: one row per wanted position.

/// Rows of logits, `[rows, vocab]`, row-major. Reused between steps: the buffer only grows.
#[derive(Debug, Default)]
pub struct Logits {
    data: Vec<f32>,
    rows: usize,
    vocab: usize,
}

impl Logits {
    /// An empty matrix.
    pub fn new() -> Logits {
        Logits::default()
    }

    /// Makes room for `rows` rows of `vocab` logits; what they hold is unspecified. Called by backends only.
    ///
    /// Does not allocate if the buffer was that large before.
    pub fn reset(&mut self, rows: usize, vocab: usize) {
        self.rows = rows;
        self.vocab = vocab;
        if self.data.len() < rows * vocab {
            self.data.resize(rows * vocab, 0.0);
        }
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The vocabulary's size: the length of a row.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// One row, `[vocab]`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.data[row * self.vocab..(row + 1) * self.vocab]
    }

    /// One row to change, `[vocab]`: bias and penalties are applied in place.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &mut self.data[row * self.vocab..(row + 1) * self.vocab]
    }

    /// Every row, `[rows * vocab]`.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.vocab]
    }
}
