//! Large zeroed buffers in anonymous memory with huge pages, for weights and the KV cache.

#[cfg(target_os = "linux")]
use crate::sys;
use memmap2::MmapMut;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};
#[cfg(target_os = "linux")]
use zonda_machine::memory::Available;

/// Bytes that buffers of an [`Arena`] start at multiples of: a cache line.
const LINE: usize = 64;
/// What an [`Arena`] asks the system for at a time. Only the pages that are written take memory.
const SLAB_BYTES: usize = 256 << 20;

/// Zeroed bytes, 64-byte-aligned, freed on drop. Pages are touched only when written.
#[derive(Debug)]
pub struct Buffer {
    /// Keeps the memory; `None` for no bytes.
    _map: Option<Arc<MmapMut>>,
    at: NonNull<u8>,
    len: usize,
}

// SAFETY: a buffer's range of its mapping is its own; only `&mut self` writes it.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads, since only `&mut self` writes the range, which is this buffer's own.
unsafe impl Sync for Buffer {}

/// The system refused memory.
#[derive(Debug, thiserror::Error)]
#[error("could not allocate {bytes} bytes: {source}")]
pub struct AllocError {
    /// How much was asked for.
    pub bytes: usize,
    /// What the system said.
    pub source: std::io::Error,
}

/// Asks the system for memory.
fn map(bytes: usize) -> Result<MmapMut, AllocError> {
    let map = MmapMut::map_anon(bytes).map_err(|source| AllocError { bytes, source })?;
    #[cfg(target_os = "linux")]
    if bytes >= 1 << 20 {
        // a hint: without huge pages everything still works
        let _ = map.advise(memmap2::Advice::HugePage);
    }
    Ok(map)
}

impl Buffer {
    /// `bytes` zero bytes in a mapping of their own.
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
        // SAFETY: `len` bytes at `at` lie in the mapping that `_map` keeps, and are this buffer's alone.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` bytes at `at` lie in the mapping that `_map` keeps, and are this buffer's alone; it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }

    /// The address of the first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.at.as_ptr()
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True for no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Buffers one behind the other in few large mappings, so that huge pages hold them whole: each in a mapping of its own leaves
/// an end of up to 2 MiB on small pages, a tenth of a 7B's weights. The memory is freed when the last buffer of a mapping is.
#[derive(Debug, Default)]
pub struct Arena {
    /// The mappings that buffers still lie in; new buffers are taken from the last.
    slabs: Mutex<Vec<Slab>>,
}

/// A mapping, which its buffers keep, and how much of it is taken.
#[derive(Debug)]
struct Slab {
    map: Weak<MmapMut>,
    len: usize,
    at: NonNull<u8>,
    taken: usize,
}

// SAFETY: an address and a count; what lies there is reached only through the buffers that were given out.
unsafe impl Send for Slab {}

impl Arena {
    /// Without any memory yet.
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

    /// Asks for huge pages again where there were none when the memory was first written, as on a machine whose memory is
    /// full of cached files. Waits until it is done. Where the system can't, small pages stay.
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

/// What [`Arena::collapse`] asks for at a time.
#[cfg(target_os = "linux")]
const PIECE_BYTES: usize = 64 << 20;

/// After so many refusals it stops: each costs a while.
#[cfg(target_os = "linux")]
const MOST_REFUSED: usize = 8;

/// Asks for huge pages for a piece of memory, and once more after making room, unless the system doesn't know the request.
/// False if it was refused.
#[cfg(target_os = "linux")]
fn collapse_piece(at: *const u8, bytes: usize) -> bool {
    use std::io::ErrorKind::InvalidInput;
    match sys::collapse(at, bytes) {
        Ok(()) => true,
        Err(error) if error.kind() == InvalidInput => false,
        Err(_) => make_room() && sys::collapse(at, bytes).is_ok(),
    }
}

/// Has the system drop the cached files that it used least, as much as a piece needs: it does so for memory, not for huge
/// pages. False if memory is too short for that.
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

/// A pointer that several threads may use. Each use is unsafe code that says why no other thread touches the same place.
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
// SAFETY: shared access gives no more than a copy of the address does, which may be sent.
unsafe impl<T> Sync for SharedPtr<T> {}

impl<T> SharedPtr<T> {
    /// Shares the address of a slice.
    pub fn new(slice: &mut [T]) -> SharedPtr<T> {
        SharedPtr(slice.as_mut_ptr())
    }

    /// The address of element `i`.
    ///
    /// # Safety
    /// `i` lies within the slice that this was made from, which still lives when the address is used.
    pub unsafe fn at(self, i: usize) -> *mut T {
        // SAFETY: the caller guarantees that `i` is within the slice.
        unsafe { self.0.add(i) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arenas_buffers_are_zeroed_aligned_and_apart() {
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
        // what was written last is still there after the arena is gone
        drop(arena);
        assert!(
            buffers.iter().filter(|b| b.len() > 1).all(|b| (b.bytes()[0], b.bytes()[b.len() - 1]) == (1, 2))
        );
    }
    #[test]
    fn an_arena_keeps_no_mapping_that_nobody_uses() {
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
