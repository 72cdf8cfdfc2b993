//! Large zeroed buffers in anonymous memory with huge pages, for weights and the KV cache.

#[cfg(target_os = "linux")]
use crate::sys;
use memmap2::MmapMut;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};
#[cfg(target_os = "linux")]
use zonda_machine::memory::Available;

/// The alignment of buffers in an [`Arena`] in bytes: a cache line.
const LINE: usize = 64;
/// The size of an [`Arena`]'s mappings. Only pages that are written take memory.
const SLAB_BYTES: usize = 256 << 20;

/// Zeroed bytes, 64-byte-aligned, freed on drop. Pages take memory only when written.
#[derive(Debug)]
pub struct Buffer {
    /// Keeps the mapping alive; `None` for an empty buffer.
    _map: Option<Arc<MmapMut>>,
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: a buffer has its range of the mapping to itself; only `&mut self` writes it.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads, since only `&mut self` writes the range, which no other buffer has.
unsafe impl Sync for Buffer {}

/// The system refused memory.
#[derive(Debug, thiserror::Error)]
#[error("could not allocate {bytes} bytes: {source}")]
pub struct AllocError {
    /// The requested size.
    pub bytes: usize,
    /// The system's error.
    pub source: std::io::Error,
}

/// Maps memory.
fn map(bytes: usize) -> Result<MmapMut, AllocError> {
    let map = MmapMut::map_anon(bytes).map_err(|source| AllocError { bytes, source })?;
    #[cfg(target_os = "linux")]
    if bytes >= 1 << 20 {
        // This is a hint: without huge pages everything still works.
        let _ = map.advise(memmap2::Advice::HugePage);
    }
    Ok(map)
}

impl Buffer {
    /// `bytes` zero bytes in a separate mapping.
    ///
    /// # Errors
    /// If the system refuses the mapping.
    pub fn zeroed(bytes: usize) -> Result<Buffer, AllocError> {
        if bytes == 0 {
            return Ok(Buffer { _map: None, at: NonNull::dangling(), len: 0 });
        }
        let mut map = map(bytes)?;
        let at = NonNull::from(&mut map[..]).cast();
        Ok(Buffer { _map: Some(Arc::new(map)), at, len: bytes })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes at `at` are within the mapping that `_map` keeps alive, and no other buffer has them.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    /// The bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes at `at` are within the mapping that `_map` keeps alive, and no other buffer has them; it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }

    /// The address of the first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.at.as_ptr()
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Consecutive buffers in a few large mappings, so that huge pages cover them completely. With one mapping per buffer, up to
/// 2 MiB at the end of each would be on small pages: a tenth of a 7B's weights. A mapping is freed with its last buffer.
#[derive(Debug, Default)]
pub struct Arena {
    /// The mappings in use; new buffers are taken from the last.
    slabs: Mutex<Vec<Slab>>,
}

/// A mapping, which its buffers keep alive, and how much of it is taken.
#[derive(Debug)]
struct Slab {
    map: Weak<MmapMut>,
    len: usize,
    at: NonNull<u8>,
    taken: usize,
}

// SAFETY: an address and a count; the memory is accessed only through the buffers handed out.
unsafe impl Send for Slab {}

impl Arena {
    /// An empty arena.
    pub fn new() -> Arena {
        Arena::default()
    }

    /// `bytes` zero bytes.
    ///
    /// # Errors
    /// If the system refuses the memory.
    pub fn zeroed(&self, bytes: usize) -> Result<Buffer, AllocError> {
        if bytes == 0 {
            return Buffer::zeroed(0);
        }
        let mut slabs = self.slabs.lock().unwrap_or_else(PoisonError::into_inner);
        slabs.retain(|slab| slab.map.strong_count() > 0);
        let last = slabs.last().filter(|slab| slab.len - slab.taken >= bytes);
        let map = match last.and_then(|slab| slab.map.upgrade()) {
            Some(map) => map,
            None => {
                let mut map = map(SLAB_BYTES.max(bytes))?;
                let (at, len) = (NonNull::from(&mut map[..]).cast(), map.len());
                let map = Arc::new(map);
                slabs.push(Slab { map: Arc::downgrade(&map), len, at, taken: 0 });
                map
            }
        };
        let slab = slabs.last_mut().expect("the one with room");
        // SAFETY: `taken + bytes` is at most the mapping's length.
        let at = unsafe { slab.at.add(slab.taken) };
        slab.taken = (slab.taken + bytes).next_multiple_of(LINE).min(slab.len);
        Ok(Buffer { _map: Some(map), at, len: bytes })
    }

    /// Requests huge pages again for memory that got small ones when it was first written, as on a machine whose memory is full
    /// of cached files. Waits until it is done. If the system can't provide them, the small pages stay.
    pub fn collapse(&self) {
        #[cfg(target_os = "linux")]
        {
            let mut refused = 0;
            for slab in self.slabs.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let Some(_map) = slab.map.upgrade() else { continue };
                for from in (0..slab.taken).step_by(PIECE_BYTES) {
                    let bytes = PIECE_BYTES.min(slab.taken - from);
                    refused += usize::from(!collapse_piece(slab.at.as_ptr().wrapping_add(from), bytes));
                    if refused > MOST_REFUSED {
                        return;
                    }
                }
            }
        }
    }
}

/// Bytes per request of [`Arena::collapse`].
#[cfg(target_os = "linux")]
const PIECE_BYTES: usize = 64 << 20;

/// It gives up after this many refusals, since each takes a while.
#[cfg(target_os = "linux")]
const MOST_REFUSED: usize = 8;

/// Requests huge pages for a piece of memory, and once more after making room, unless the system doesn't know the request.
/// False if the request was refused.
#[cfg(target_os = "linux")]
fn collapse_piece(at: *const u8, bytes: usize) -> bool {
    use std::io::ErrorKind::InvalidInput;
    match sys::collapse(at, bytes) {
        Ok(()) => true,
        Err(error) if error.kind() == InvalidInput => false,
        Err(_) => make_room() && sys::collapse(at, bytes).is_ok(),
    }
}

/// Makes the system drop the least used cached files, as much as a piece needs, by allocating memory: it drops them for
/// memory but not for huge pages. False if there is too little memory for that.
#[cfg(target_os = "linux")]
fn make_room() -> bool {
    const SMALL_PAGE: usize = 4096;
    let room = 2 * PIECE_BYTES;
    if Available::now().bytes().is_none_or(|available| available < 8 * room as u64) {
        return false;
    }
    let Ok(mut map) = MmapMut::map_anon(room) else { return false };
    map.iter_mut().step_by(SMALL_PAGE).for_each(|byte| *byte = 1);
    true
}

/// A pointer that several threads may use. Each use is unsafe code that must ensure that no other thread touches the same place.
#[derive(Debug)]
pub struct SharedPtr<T>(*mut T);

impl<T> Clone for SharedPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for SharedPtr<T> {}

// SAFETY: a pointer is only an address; the user dereferences it in unsafe code.
unsafe impl<T> Send for SharedPtr<T> {}
// SAFETY: shared access gives no more than a copy of the address, which may be sent.
unsafe impl<T> Sync for SharedPtr<T> {}

impl<T> SharedPtr<T> {
    /// Shares the address of a slice.
    pub fn new(slice: &mut [T]) -> SharedPtr<T> {
        SharedPtr(slice.as_mut_ptr())
    }

    /// The address of element `i`.
    ///
    /// # Safety
    /// `i` is within the slice that this was made from, which is still alive when the address is used.
    pub unsafe fn at(self, i: usize) -> *mut T {
        // SAFETY: the caller guarantees that `i` is within the slice.
        unsafe { self.0.add(i) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_an_arena_are_zeroed_aligned_and_disjoint() {
        let arena = Arena::new();
        let mut buffers = Vec::new();
        for bytes in [1, 64, 1000, 0, 3 << 20, SLAB_BYTES - (1 << 20), 65] {
            let mut buffer = arena.zeroed(bytes).unwrap();
            assert_eq!((buffer.len(), buffer.is_empty()), (bytes, bytes == 0));
            assert!(bytes == 0 || buffer.as_ptr().addr().is_multiple_of(LINE));
            assert!(buffer.bytes().iter().take(4096).all(|&b| b == 0));
            if let [first, .., last] = buffer.bytes_mut() {
                (*first, *last) = (1, 2);
            }
            buffers.push(buffer);
        }
        let mut ranges: Vec<_> =
            buffers.iter().map(|b| b.bytes().as_ptr_range()).filter(|r| r.start != r.end).collect();
        ranges.sort_by_key(|r| r.start);
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
        // The buffers outlive the arena.
        drop(arena);
        assert!(
            buffers.iter().filter(|b| b.len() > 1).all(|b| (b.bytes()[0], b.bytes()[b.len() - 1]) == (1, 2))
        );
    }
    #[test]
    fn an_arena_keeps_no_unused_mapping() {
        let arena = Arena::new();
        for _ in 0..3 {
            let buffers = [arena.zeroed(SLAB_BYTES).unwrap(), arena.zeroed(1).unwrap()];
            assert_eq!(
                arena.slabs.lock().unwrap().iter().filter(|s| s.map.strong_count() > 0).count(),
                buffers.len()
            );
        }
        assert!(arena.slabs.lock().unwrap().iter().all(|s| s.map.strong_count() == 0));
    }
}
