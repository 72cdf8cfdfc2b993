//! The merge loop of byte-pair encoding: the best-ranked pair of neighbours becomes one symbol, until no pair can be
//! merged. A heap of candidate pairs makes it O(n log n) in the length of the text.

use super::bounds::Watch;
use super::error::TokenizeError;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A symbol's number in the rules.
pub(crate) type SymbolId = u32;

/// What two neighbouring symbols merge into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Merge {
    /// The lowest rank merges first; of equals, the leftmost.
    pub rank: u32,
    /// The symbol they become.
    pub into: SymbolId,
}

/// Which pairs merge.
pub(crate) trait Rules {
    /// The merge of two neighbours, whose bytes together are `bytes`.
    fn merge(&self, left: SymbolId, right: SymbolId, bytes: &[u8]) -> Option<Merge>;
}

/// A symbol of the text being merged: a node of a doubly linked list in text order.
struct Node {
    id: SymbolId,
    /// Where its bytes begin in the text.
    start: u32,
    /// Length in bytes; 0 once it was merged into its left neighbour.
    len: u32,
    prev: u32,
    next: u32,
}

const NONE: u32 = u32::MAX;

/// A pair that can be merged. Ordered by rank, then by position.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    /// Length of the pair in bytes: if it has changed, the candidate is outdated.
    len: u32,
    into: SymbolId,
}

/// Buffers of the merge loop, reused from word to word.
#[derive(Default)]
pub(crate) struct Merger {
    nodes: Vec<Node>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Merges `text`, given as its initial symbols and their lengths in bytes, and passes each final symbol and its
    /// bytes to `emit`, from left to right. `text` is under 4 GiB ([`super::MAX_TEXT`]).
    ///
    /// # Errors
    /// If `watch` ends it, before anything is emitted.
    pub fn run(
        &mut self,
        text: &[u8],
        initial: impl Iterator<Item = (SymbolId, usize)>,
        rules: &impl Rules,
        watch: &Watch<'_>,
        mut emit: impl FnMut(SymbolId, &[u8]),
    ) -> Result<(), TokenizeError> {
        self.nodes.clear();
        self.heap.clear();
        let mut start = 0;
        for (id, len) in initial {
            let at = self.nodes.len() as u32;
            let prev = at.checked_sub(1).unwrap_or(NONE);
            self.nodes.push(Node { id, start, len: len as u32, prev, next: at + 1 });
            start += len as u32;
        }
        debug_assert_eq!(start as usize, text.len());
        let Some(last) = self.nodes.last_mut() else { return Ok(()) };
        last.next = NONE;

        for right in 1..self.nodes.len() as u32 {
            watch.step()?;
            self.consider(right - 1, right, text, rules);
        }
        while let Some(Reverse(best)) = self.heap.pop() {
            watch.step()?;
            let (left, right) = (&self.nodes[best.left as usize], &self.nodes[best.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != best.len {
                continue;
            }
            let next = right.next;
            self.nodes[best.right as usize].len = 0;
            let left = &mut self.nodes[best.left as usize];
            left.id = best.into;
            left.len = best.len;
            left.next = next;
            let prev = left.prev;
            if next != NONE {
                self.nodes[next as usize].prev = best.left;
                self.consider(best.left, next, text, rules);
            }
            if prev != NONE {
                self.consider(prev, best.left, text, rules);
            }
        }
        let mut at = 0;
        while at != NONE {
            let node = &self.nodes[at as usize];
            emit(node.id, &text[node.start as usize..][..node.len as usize]);
            at = node.next;
        }
        Ok(())
    }

    fn consider(&mut self, left: u32, right: u32, text: &[u8], rules: &impl Rules) {
        let (a, b) = (&self.nodes[left as usize], &self.nodes[right as usize]);
        let len = a.len + b.len;
        let bytes = &text[a.start as usize..][..len as usize];
        if let Some(Merge { rank, into }) = rules.merge(a.id, b.id, bytes) {
            self.heap.push(Reverse(Candidate { rank, left, right, len, into }));
        }
    }
}
