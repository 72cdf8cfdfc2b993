//! The paged KV cache: pages of [`PAGE`] positions, handed to slots as they grow, shared between slots by reference count.
//!
//! Pages lie in chunks of [`CHUNK`], a chunk of all layers and heads together, and the lowest free page is handed out first:
//! memory is committed chunk by chunk as sequences grow, in huge pages too. Within a chunk each layer and head has its pages side by
//! side, as attention reads them.
//!
//! Invariants: a page belongs to the free list or has `refs ≥ 1`, never both; a page that a slot is about to write has
//! `refs == 1` ([`KvCache::reserve`] copies it if not).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use zonda_engine::forward::{BackendError, Batch, BatchError, Limits, Slot, Span};
use zonda_engine::load::{ModelSpec, RopeScaling};
use zonda_kernels::attention::{Holds, KvType, PAGE, SPLIT};
use zonda_kernels::memory::{Buffer, SharedPtr};

/// Version of the layout of exports and of the pages in them. After a change of either, older files are refused.
const EXPORT_VERSION: u32 = 2;

/// Pages in a chunk: a split of positions.
const CHUNK: usize = SPLIT / PAGE;

/// Keys and values of every slot.
#[derive(Debug)]
pub(crate) struct KvCache {
    kv_type: KvType,
    holds: Holds,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Bytes of one page of one KV head of one layer.
    page_bytes: usize,
    /// Keys turned by LongRoPE's long factors, which the context decides.
    long_rope: bool,
    /// Pages in a chunk: [`CHUNK`], or all of them if they are fewer.
    chunk: usize,
    /// `[chunks, layers, kv_heads, chunk, page_bytes]`; touched only when written
    data: Buffer,
    /// The lowest first.
    free: BinaryHeap<Reverse<u32>>,
    /// Slots that hold each page, `[pages]`
    refs: Vec<u32>,
    slots: Vec<Table>,
}

/// One slot's pages, in order of position.
#[derive(Clone, Debug, Default)]
struct Table {
    len: usize,
    pages: Vec<u32>,
}

impl KvCache {
    pub fn new(spec: &ModelSpec, limits: &Limits, kv_type: KvType) -> Result<KvCache, BackendError> {
        let holds = Holds::if_values_are_keys(spec.values_are_keys());
        let page_bytes = kv_type.page_bytes_of(holds, spec.head_dim);
        let pages = limits.kv_tokens / PAGE;
        let chunk = pages.clamp(1, CHUNK);
        let bytes = [spec.layers, pages.next_multiple_of(chunk), spec.kv_heads]
            .into_iter()
            .try_fold(page_bytes, usize::checked_mul);
        let data =
            bytes.ok_or_else(|| BackendError::Failed("the KV cache's size overflows".to_owned())).and_then(
                |bytes| Buffer::zeroed(bytes).map_err(|e| BackendError::Failed(format!("KV cache: {e}"))),
            )?;
        Ok(KvCache {
            kv_type,
            holds,
            layers: spec.layers,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            page_bytes,
            long_rope: matches!(&spec.rope.scaling, RopeScaling::Long(long) if long.is_long(limits.context)),
            chunk,
            data,
            free: (0..pages as u32).map(Reverse).collect(),
            refs: vec![0; pages],
            slots: (0..limits.slots)
                .map(|_| Table { len: 0, pages: Vec::with_capacity(limits.context.div_ceil(PAGE)) })
                .collect(),
        })
    }

    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Tokens in a slot.
    pub fn len(&self, slot: Slot) -> usize {
        self.slots.get(slot).map_or(0, |t| t.len)
    }

    /// Makes room for every span of a checked batch: new pages, and copies of shared ones that will be written.
    ///
    /// # Errors
    /// If there are too few free pages; nothing is changed then.
    pub fn reserve(&mut self, batch: &Batch<'_>) -> Result<(), BatchError> {
        let shared_tail = |kv: &KvCache, table: &Table| {
            !table.len.is_multiple_of(PAGE) && kv.refs[table.pages[table.len / PAGE] as usize] > 1
        };
        // A slot that copies a page leaves the original to the others: the last one to write has it alone and copies nothing.
        let copies = |kv: &KvCache, before: &[Span<'_>], table: &Table| {
            let Some(&tail) = table.pages.get(table.len / PAGE).filter(|_| shared_tail(kv, table)) else {
                return false;
            };
            let holds =
                |s: &&Span<'_>| kv.slots[s.slot].pages.get(kv.slots[s.slot].len / PAGE) == Some(&tail);
            kv.refs[tail as usize] as usize > before.iter().filter(holds).count() + 1
        };
        let needed = batch.spans.iter().enumerate().map(|(i, span)| {
            let table = &self.slots[span.slot];
            let end = (span.start + span.tokens.len()).div_ceil(PAGE);
            end.saturating_sub(table.pages.len()) + usize::from(copies(self, &batch.spans[..i], table))
        });
        let (needed, free) = (needed.sum(), self.free.len());
        if needed > free {
            return Err(BatchError::KvFull { needed, free });
        }
        for span in &batch.spans {
            let mut table = std::mem::take(&mut self.slots[span.slot]);
            if shared_tail(self, &table) {
                let tail = &mut table.pages[span.start / PAGE];
                let copy = self.take_page();
                self.copy_page(*tail, copy);
                self.release(*tail);
                *tail = copy;
            }
            while table.pages.len() * PAGE < span.start + span.tokens.len() {
                table.pages.push(self.take_page());
            }
            self.slots[span.slot] = table;
        }
        Ok(())
    }

    /// Records that the batch's tokens are written: slots get their new lengths.
    pub fn commit(&mut self, batch: &Batch<'_>) {
        for span in &batch.spans {
            self.slots[span.slot].len = span.start + span.tokens.len();
        }
    }

    /// Keeps at most `len` tokens; returns how many remain.
    pub fn truncate(&mut self, slot: Slot, len: usize) -> usize {
        let mut table = std::mem::take(&mut self.slots[slot]);
        table.len = table.len.min(len);
        for page in table.pages.drain(table.len.div_ceil(PAGE)..) {
            self.release(page);
        }
        let len = table.len;
        self.slots[slot] = table;
        len
    }

    /// Gives the empty slot `to` the first `len` tokens of `from`, without copying.
    pub fn share(&mut self, from: Slot, to: Slot, len: usize) -> usize {
        let len = len.min(self.slots[from].len);
        let pages = self.slots[from].pages[..len.div_ceil(PAGE)].to_vec();
        for &page in &pages {
            self.refs[page as usize] += 1;
        }
        self.truncate(to, 0);
        self.slots[to] = Table { len, pages };
        len
    }

    /// The first line of an export, which describes its bytes.
    fn layout(&self) -> String {
        let KvCache { kv_type, layers, kv_heads, page_bytes, long_rope, .. } = self;
        let kv_type = kv_type.name();
        format!(
            "zonda KV version {EXPORT_VERSION}: {layers} layers, {kv_heads} KV heads, {kv_type}, {page_bytes} bytes for {PAGE} tokens{}\n",
            if *long_rope { ", long RoPE factors" } else { "" }
        )
    }

    /// Appends the pages of a slot's first `len` tokens as `[layers, kv_heads, pages, page_bytes]` after
    /// [`KvCache::layout`]; returns the number of these tokens. The rest of the last page is undefined.
    pub fn export(&self, slot: Slot, len: usize, out: &mut Vec<u8>) -> usize {
        let len = len.min(self.slots[slot].len);
        let pages = &self.slots[slot].pages[..len.div_ceil(PAGE)];
        let layout = self.layout();
        out.reserve_exact(layout.len() + self.layers * self.kv_heads * pages.len() * self.page_bytes);
        out.extend(layout.bytes());
        for (layer, head) in (0..self.layers).flat_map(|l| (0..self.kv_heads).map(move |h| (l, h))) {
            for &page in pages {
                out.extend(&self.data.bytes()[self.offset(layer, page, head)..][..self.page_bytes]);
            }
        }
        len
    }

    /// Fills an empty slot with the first `len` tokens of an export; returns how many it then holds.
    pub fn import(&mut self, slot: Slot, len: usize, from: &[u8]) -> Result<usize, String> {
        let rows = self.layers * self.kv_heads;
        let layout = self.layout();
        let data = from.strip_prefix(layout.as_bytes()).ok_or_else(|| {
            let line = from.split(|&b| b == b'\n').next().unwrap_or_default();
            let found = String::from_utf8_lossy(&line[..line.len().min(100)]);
            format!("keys and values in another layout: {found:?}; expected {:?}", layout.trim_end())
        })?;
        let (stored, pages) = (data.len() / self.page_bytes / rows, len.div_ceil(PAGE));
        if data.len() != stored * rows * self.page_bytes || pages > stored {
            let expected = rows * self.page_bytes;
            return Err(format!(
                "{} bytes of keys and values; expected {expected} for every {PAGE} tokens",
                data.len()
            ));
        }
        if pages > self.free.len() {
            return Err(format!("no KV room: {pages} pages needed, {} free", self.free.len()));
        }
        let rows = data.chunks_exact((stored * self.page_bytes).max(1));
        for (row, bytes) in rows.clone().enumerate() {
            for (page, bytes) in bytes.chunks_exact(self.page_bytes).take(pages).enumerate() {
                if !self.kv_type.finite(self.holds, bytes, self.head_dim, len - page * PAGE) {
                    let (layer, head, from) = (row / self.kv_heads, row % self.kv_heads, page * PAGE);
                    return Err(format!(
                        "keys and values of layer {layer}, KV head {head}, from token {from} on contain NaN or infinity"
                    ));
                }
            }
        }
        let mut table = std::mem::take(&mut self.slots[slot]);
        table.pages.extend((0..pages).map(|_| self.take_page()));
        let places = (0..self.layers).flat_map(|l| (0..self.kv_heads).map(move |h| (l, h)));
        for ((layer, head), row) in places.zip(rows) {
            for (&page, bytes) in table.pages.iter().zip(row.chunks_exact(self.page_bytes)) {
                let at = self.offset(layer, page, head);
                self.data.bytes_mut()[at..at + self.page_bytes].copy_from_slice(bytes);
            }
        }
        table.len = len;
        self.slots[slot] = table;
        Ok(len)
    }

    /// The offset in the cache, in bytes, of a page of one layer and KV head.
    fn offset(&self, layer: usize, page: u32, head: usize) -> usize {
        let (chunk, page) = (page as usize / self.chunk, page as usize % self.chunk);
        (((chunk * self.layers + layer) * self.kv_heads + head) * self.chunk + page) * self.page_bytes
    }

    /// A view through which several threads write new positions, each thread its own KV heads.
    pub fn writer(&mut self) -> KvWriter<'_> {
        let data = SharedPtr::new(self.data.bytes_mut());
        KvWriter { kv: self, data }
    }

    fn take_page(&mut self) -> u32 {
        let Reverse(page) = self.free.pop().expect("reserve counted the free pages");
        self.refs[page as usize] = 1;
        page
    }

    fn release(&mut self, page: u32) {
        let refs = &mut self.refs[page as usize];
        *refs -= 1;
        if *refs == 0 {
            self.free.push(Reverse(page));
        }
    }

    fn copy_page(&mut self, from: u32, to: u32) {
        for (layer, head) in (0..self.layers).flat_map(|l| (0..self.kv_heads).map(move |h| (l, h))) {
            let (from, to) = (self.offset(layer, from, head), self.offset(layer, to, head));
            self.data.bytes_mut().copy_within(from..from + self.page_bytes, to);
        }
    }
}

/// Shared access to the cache while a layer's keys and values are written and read, one KV head per thread at a time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvWriter<'a> {
    kv: &'a KvCache,
    data: SharedPtr<u8>,
}

impl<'a> KvWriter<'a> {
    pub fn kv_type(&self) -> KvType {
        self.kv.kv_type
    }

    /// What a page holds of each position.
    pub fn holds(&self) -> Holds {
        self.kv.holds
    }

    /// The page that holds `position`, to write.
    ///
    /// # Safety
    /// Nothing else reads or writes this page of this layer and KV head while the slice is in use.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn page_mut(&self, slot: Slot, position: usize, layer: usize, head: usize) -> &'a mut [u8] {
        let page = self.kv.slots[slot].pages[position / PAGE];
        assert_eq!(self.kv.refs[page as usize], 1, "a shared page is copied before it is written");
        let at = self.kv.offset(layer, page, head);
        // SAFETY: offsets of pages lie within the cache, which is borrowed; the caller guarantees that nothing else touches it.
        unsafe { std::slice::from_raw_parts_mut(self.data.at(at), self.kv.page_bytes) }
    }

    /// The page that begins at position `index · PAGE`, to read.
    ///
    /// # Safety
    /// Nothing writes to this page of this layer and KV head while the slice is in use.
    pub unsafe fn page(&self, slot: Slot, index: usize, layer: usize, head: usize) -> &'a [u8] {
        let at = self.kv.offset(layer, self.kv.slots[slot].pages[index], head);
        // SAFETY: offsets of pages lie within the cache, which is borrowed; the caller guarantees that nothing writes there.
        unsafe { std::slice::from_raw_parts(self.data.at(at), self.kv.page_bytes) }
    }
}
