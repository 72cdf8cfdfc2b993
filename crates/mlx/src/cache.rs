//! The KV cache: one array of keys and one of values per slot and layer, which grow in steps.
//!
//! Arrays are values, so sharing a prefix shares them; MLX copies when one of the owners writes.

use crate::options::KV_STEP;
use crate::safe::{Array, Dtype, List, Ops, Result};
use zonda_engine::forward::{Batch, BatchError, Limits, Slot};
use zonda_engine::load::ModelSpec;

/// Keys and values of all slots.
#[derive(Debug)]
pub(crate) struct Cache {
    slots: Vec<KvSlot>,
    limits: Limits,
    kv_heads: usize,
    head_dim: usize,
    layers: usize,
    dtype: Dtype,
}

/// The contents of one slot.
#[derive(Debug, Default)]
struct KvSlot {
    /// Valid tokens; the arrays may hold more, which will be overwritten.
    len: usize,
    /// Per layer `[1, kv_heads, a multiple of KV_STEP, head_dim]`; empty before the first token.
    layers: Vec<Option<KeysValues>>,
}

/// One layer's keys and values.
#[derive(Clone, Debug)]
pub(crate) struct KeysValues {
    pub keys: Array,
    pub values: Array,
}

impl Cache {
    pub fn new(spec: &ModelSpec, limits: Limits, dtype: Dtype) -> Cache {
        let mut slots = Vec::new();
        slots.resize_with(limits.slots, KvSlot::default);
        let (layers, kv_heads, head_dim) = (spec.layers, spec.kv_heads, spec.head_dim);
        Cache { slots, limits, kv_heads, head_dim, layers, dtype }
    }

    /// How many tokens a slot holds.
    pub fn len(&self, slot: Slot) -> usize {
        self.slots[slot].len
    }

    /// Refuses a batch that does not fit into the cache.
    pub fn check_room(&self, batch: &Batch<'_>) -> std::result::Result<(), BatchError> {
        let pages = |tokens: usize| tokens.div_ceil(KV_STEP);
        let used: usize = self.slots.iter().map(|slot| pages(slot.len)).sum();
        let needed = batch.spans.iter().map(|s| pages(s.start + s.tokens.len()) - pages(s.start)).sum();
        let free = (self.limits.kv_tokens / KV_STEP).saturating_sub(used);
        if needed > free { Err(BatchError::KvFull { needed, free }) } else { Ok(()) }
    }

    /// Writes new keys and values, `[1, kv_heads, tokens, head_dim]`, at `start`; returns the layer's arrays with them.
    pub fn write(
        &mut self,
        ops: &Ops,
        slot: Slot,
        layer: usize,
        start: usize,
        new: &KeysValues,
    ) -> Result<KeysValues> {
        let tokens = new.keys.shape()[2];
        let slot = &mut self.slots[slot];
        slot.layers.resize(self.layers, None);
        // Taken out, so that the update is the only owner of the old arrays and can overwrite them.
        let old = slot.layers[layer].take();
        let (heads, width) = (self.kv_heads, self.head_dim);
        let (from, to) = ([0, 0, start, 0], [1, heads, start + tokens, width]);
        let write = |old: Option<Array>, new: &Array| {
            let new = ops.as_type(new, self.dtype)?;
            let grown = grown(ops, old, start + tokens, heads, width, self.dtype)?;
            ops.slice_update(grown, &new, &from, &to)
        };
        let (keys, values) = old.map_or((None, None), |old| (Some(old.keys), Some(old.values)));
        let written = KeysValues { keys: write(keys, &new.keys)?, values: write(values, &new.values)? };
        slot.layers[layer] = Some(written.clone());
        Ok(written)
    }

    /// All arrays written by a batch, to be evaluated together with its logits.
    pub fn written<'a>(&'a self, batch: &'a Batch<'_>) -> impl Iterator<Item = &'a Array> {
        let layers = batch.spans.iter().flat_map(|span| self.slots[span.slot].layers.iter().flatten());
        layers.flat_map(|layer| [&layer.keys, &layer.values])
    }

    /// Adds a batch's tokens to the lengths once they are computed.
    pub fn commit(&mut self, batch: &Batch<'_>) {
        for span in &batch.spans {
            self.slots[span.slot].len = span.start + span.tokens.len();
        }
    }

    /// Keeps at most `len` tokens; an emptied slot frees its memory.
    pub fn truncate(&mut self, slot: Slot, len: usize) -> usize {
        let slot = &mut self.slots[slot];
        slot.len = slot.len.min(len);
        if slot.len == 0 {
            slot.layers.clear();
        }
        slot.len
    }

    /// Shares the first `len` tokens of `from` with the empty slot `to`; fewer if there is no room.
    pub fn share(&mut self, from: Slot, to: Slot, len: usize) -> usize {
        let used: usize = self.slots.iter().map(|slot| slot.len.div_ceil(KV_STEP)).sum();
        let room = (self.limits.kv_tokens / KV_STEP).saturating_sub(used) * KV_STEP;
        let len = len.min(self.len(from)).min(room);
        if len > 0 {
            self.slots[to] = KvSlot { len, layers: self.slots[from].layers.clone() };
        }
        len
    }
}

/// `old` with room for `tokens` tokens: unchanged, or extended with zeros.
fn grown(
    ops: &Ops,
    old: Option<Array>,
    tokens: usize,
    heads: usize,
    width: usize,
    dtype: Dtype,
) -> Result<Array> {
    let capacity = tokens.next_multiple_of(KV_STEP);
    let held = old.as_ref().map_or(0, |old| old.shape()[2]);
    match old {
        Some(old) if held >= capacity => Ok(old),
        old => {
            let more = ops.zeros(&[1, heads, capacity - held, width], dtype)?;
            match old {
                None => Ok(more),
                Some(old) => ops.concatenate(&List::from_iter([&old, &more]), 2),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use zonda_engine::forward::{Span, Want};
    use zonda_engine::load::Model;

    fn cache(slots: usize) -> Cache {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf/llama");
        let spec = Model::open(&folder).unwrap().spec;
        let room = slots * 2 * KV_STEP;
        let limits =
            Limits { slots, batch_tokens: 512, context: 2 * KV_STEP, kv_tokens: room, kv_page: KV_STEP };
        Cache::new(&spec, limits, Dtype::F32)
    }

    /// Writes `tokens` tokens of ones to a slot's layers and computes them; returns the address of the first layer's keys.
    fn write(cache: &mut Cache, ops: &Ops, slot: Slot, tokens: usize) -> usize {
        let start = cache.len(slot);
        let shape = [1, cache.kv_heads, tokens, cache.head_dim];
        let ones = ops.floats(&vec![1.0; shape.iter().product()], &shape).unwrap();
        for layer in 0..cache.layers {
            let new = KeysValues { keys: ones.clone(), values: ones.clone() };
            cache.write(ops, slot, layer, start, &new).unwrap();
        }
        let ids = vec![0; tokens];
        let batch = Batch { spans: vec![Span { slot, start, tokens: &ids, want: Want::None }] };
        ops.eval(&cache.written(&batch).collect()).unwrap();
        cache.commit(&batch);
        cache.slots[slot].layers[0].as_ref().unwrap().keys.address().unwrap()
    }

    #[test]
    fn steps_write_in_place_until_the_page_is_full() {
        let (mut cache, ops) = (cache(1), Ops::new(false).unwrap());
        let at = write(&mut cache, &ops, 0, 20);
        for _ in 20..KV_STEP {
            assert_eq!(write(&mut cache, &ops, 0, 1), at, "the step after token {}", cache.len(0) - 1);
        }
        let grown = write(&mut cache, &ops, 0, 1);
        assert_ne!(grown, at, "a second page");
        assert_eq!(write(&mut cache, &ops, 0, 1), grown);
        assert_eq!(cache.truncate(0, 7), 7);
        assert_eq!(write(&mut cache, &ops, 0, 1), grown, "truncated tokens are overwritten");
    }

    #[test]
    fn the_first_write_to_a_shared_prefix_copies() {
        let (mut cache, ops) = (cache(2), Ops::new(false).unwrap());
        let donor = write(&mut cache, &ops, 0, 20);
        assert_eq!(cache.share(0, 1, 12), 12);
        let copy = write(&mut cache, &ops, 1, 1);
        assert_ne!(copy, donor);
        assert_eq!(write(&mut cache, &ops, 0, 1), donor, "the donor owns its array alone again");
        assert_eq!(write(&mut cache, &ops, 1, 1), copy);
    }
}
