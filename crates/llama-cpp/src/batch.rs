//! [`Tokens`]: a batch in the arrays that llama.cpp takes.

/// A batch under construction; reused, so that decoding does not allocate.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    pub ids: Vec<i32>,
    pub positions: Vec<i32>,
    pub slots: Vec<i32>,
    pub wanted: Vec<i8>,
    /// The number of sequences that each token belongs to: one
    pub counts: Vec<i32>,
    /// Pointers to each token's list of sequences
    pub lists: Vec<*mut i32>,
}

impl Tokens {
    pub fn clear(&mut self) {
        self.ids.clear();
        self.positions.clear();
        self.slots.clear();
        self.wanted.clear();
    }

    /// Adds one token without requesting its logits. Numbers that don't fit llama.cpp's types become -1, which it refuses.
    pub fn push(&mut self, id: u32, position: usize, slot: usize) {
        self.ids.push(i32::try_from(id).unwrap_or(-1));
        self.positions.push(i32::try_from(position).unwrap_or(-1));
        self.slots.push(i32::try_from(slot).unwrap_or(-1));
        self.wanted.push(0);
    }

    /// Requests the logits of the `row`-th token.
    pub fn want(&mut self, row: usize) {
        self.wanted[row] = 1;
    }
}
