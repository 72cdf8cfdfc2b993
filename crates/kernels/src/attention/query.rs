//! [`Query`]: one head of one token, as raw addresses.

/// One query of [`Attend`](super::Attend): a head of a token. It borrows nothing, so a thread can reuse its list of queries.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// `[head_dim]`, RoPE applied
    pub(super) q: *const f32,
    /// `[head_dim]`, or `[head_dim + 2]` for one split; written
    pub(super) out: *mut f32,
    /// The number of values at `q` and at `out`.
    pub(super) lens: (usize, usize),
    /// First position it sees.
    pub(super) from: usize,
    /// One past the last position it sees; more than `from`.
    pub(super) to: usize,
    /// See [`Query::with_sink`].
    pub(super) sink: Option<f32>,
}

impl Query {
    /// A query that sees positions `from..to`. `q` is `[head_dim]`, RoPE applied; `out` is `[head_dim]`, or `[head_dim + 2]` for
    /// `Attend::split`.
    ///
    /// # Safety
    /// The caller guarantees that until the last [`Attend::on`](super::Attend::on) that is given this query or a copy of it has
    /// returned, both slices stay valid, nothing writes to `q`, and nothing else reads or writes `out`.
    /// [`Attend`](super::Attend) checks the lengths.
    pub unsafe fn new(q: &[f32], out: &mut [f32], from: usize, to: usize) -> Query {
        Query { q: q.as_ptr(), out: out.as_mut_ptr(), lens: (q.len(), out.len()), from, to, sink: None }
    }

    /// The query with an attention sink: a score that takes a share of the softmax and gives nothing (gpt-oss). With
    /// `Attend::split` it is [`Merge`](super::Merge) that needs the sink.
    pub fn with_sink(self, sink: Option<f32>) -> Query {
        Query { sink, ..self }
    }
}
