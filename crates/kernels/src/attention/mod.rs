//! Attention over a paged KV cache with an online softmax (FlashAttention, arXiv 2205.14135): scores of one page at a
//! time, running maximum, sum and weighted values per query.
//!
//! A page holds [`PAGE`] positions of one KV head: keys transposed, `[head_dim, PAGE]`, so that the scores of 16 positions are
//! one vector; values `[PAGE, head_dim]`, unless the keys are the values, too. Pages are visited in order of position, [`SPLIT`] positions at a time: each split has
//! its own softmax, which is merged with those before it. So the splits of a long context can be computed in parallel
//! (FlashDecoding) with the same bits as on one thread. Each query's arithmetic is independent of the others', so results do not
//! depend on how a prompt is divided into batches.

mod attend;
mod codes;
mod finite;
mod form;
mod hadamard;
mod kv_type;
mod layout;
mod page;
mod query;
mod store;

pub use attend::{Attend, Merge, Scratch};
pub use hadamard::Hadamard;
pub use kv_type::{Holds, KvType};
pub use layout::{PAGE, SPLIT};
pub use query::Query;
pub use store::StoreKv;
