//! [`Rows`]: a matrix that several threads write.

use zonda_kernels::memory::SharedPtr;

/// A matrix of `f32` whose rows several threads write, each its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    base: SharedPtr<f32>,
    cols: usize,
}

impl Rows {
    pub fn new(data: &mut [f32], cols: usize) -> Rows {
        Rows { base: SharedPtr::new(data), cols }
    }

    /// Columns `from..from + len` of row `t`, to write.
    ///
    /// # Safety
    /// The slice given to [`Rows::new`] has that row and still lives, and nothing else touches these columns while the part is
    /// in use.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part<'a>(&self, t: usize, from: usize, len: usize) -> &'a mut [f32] {
        assert!(from + len <= self.cols, "columns of a row");
        // SAFETY: the caller guarantees the row, and that the part is used by nothing else.
        unsafe { std::slice::from_raw_parts_mut(self.base.at(t * self.cols + from), len) }
    }

    /// Columns `from..from + len` of row `t`, to read.
    ///
    /// # Safety
    /// As [`Rows::part`], but others may read.
    pub unsafe fn read<'a>(&self, t: usize, from: usize, len: usize) -> &'a [f32] {
        assert!(from + len <= self.cols, "columns of a row");
        // SAFETY: the caller guarantees the row, and that nothing writes to the part.
        unsafe { std::slice::from_raw_parts(self.base.at(t * self.cols + from), len) }
    }
}
