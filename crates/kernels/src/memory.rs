//! Large zeroed buffers in anonymous memory, advised to huge pages: weights and the KV cache live here.

use memmap2::MmapMut;

/// Zeroed bytes, page-aligned (so 64-byte-aligned), freed on drop. Pages are touched only when written.
#[derive(Debug)]
pub struct Buffer {
    map: Option<MmapMut>,
}

/// Anonymous memory could not be had.
#[derive(Debug, thiserror::Error)]
#[error("could not allocate {bytes} bytes: {source}")]
pub struct AllocError {
    /// How much was asked for.
    pub bytes: usize,
    /// What the system said.
    pub source: std::io::Error,
}

impl Buffer {
    /// `bytes` zero bytes.
    ///
    /// # Errors
    /// If the system refuses the mapping.
    pub fn zeroed(bytes: usize) -> Result<Buffer, AllocError> {
        if bytes == 0 {
            return Ok(Buffer { map: None });
        }
        let map = MmapMut::map_anon(bytes).map_err(|source| AllocError { bytes, source })?;
        #[cfg(target_os = "linux")]
        if bytes >= 1 << 20 {
            // a hint: without huge pages everything still works
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        Ok(Buffer { map: Some(map) })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or(&[])
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.map.as_deref_mut().unwrap_or(&mut [])
    }

    /// The address of the first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// True for no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A pointer that may cross threads. Whoever makes one guarantees that its users write disjoint places.
#[derive(Debug)]
pub struct SharedPtr<T>(*mut T);

impl<T> Clone for SharedPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for SharedPtr<T> {}

// SAFETY: a pointer is only an address; dereferencing it is the user's own unsafe code.
unsafe impl<T> Send for SharedPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SharedPtr<T> {}

impl<T> SharedPtr<T> {
    /// Shares the address of a slice that outlives its users.
    pub fn new(slice: &mut [T]) -> SharedPtr<T> {
        SharedPtr(slice.as_mut_ptr())
    }

    /// The address of element `i`.
    ///
    /// # Safety
    /// `i` lies within the slice this was made from.
    pub unsafe fn at(self, i: usize) -> *mut T {
        // SAFETY: the caller vouches for `i`.
        unsafe { self.0.add(i) }
    }
}
