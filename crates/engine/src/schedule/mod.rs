//! Which tokens of which sequences go into the next step. Pure: no I/O, no clock, no async.
//!
//! The worker drives a [`Scheduler`] like this, once a step:
//!
//! 1. [`Scheduler::submit`], [`Scheduler::finish`]: sequences come and go;
//! 2. [`Scheduler::draft`]: tokens that are expected next, for sequences that decode;
//! 3. [`Scheduler::next_op`] until `None`: slots to empty, shorten or share in the backend, each answered with
//!    [`Scheduler::op_done`]; this is where waiting sequences are admitted;
//! 4. [`Scheduler::plan`], [`Scheduler::batch`]: the spans of one forward call;
//! 5. [`Scheduler::commit`] after the call, then [`Scheduler::push`] a sampled token where a span wanted logits: for each of
//!    its rows in turn, as long as the answer is [`Pushed::Drafted`]. Where the context is full ([`Pushed::Full`]),
//!    [`Scheduler::shift`] makes room, or the sequence ends.
//!
//! # What it promises
//! * **Order.** Sequences are admitted first come, first served, and the running ones are always older than every
//!   waiting one.
//! * **Nothing twice.** A sequence whose beginning a running one is computing waits for it, where the backend can
//!   share it.
//! * **Room.** A running sequence holds KV pages for all of its tokens, so a planned batch always fits.
//! * **No deadlock.** When a running sequence grows past the free pages, cached prefixes are dropped (least recently
//!   used first); if there are none left, the *youngest* running sequence is put back at the head of the queue and
//!   computed again later. The oldest is thus never put back, and alone it may fill the whole KV room: it always
//!   finishes.
//! * **Drafts are guests.** They get what a batch and the KV room have left: none takes a token from another sequence's
//!   turn or puts one back. Those that turn out wrong are cut from the slot before the next step.
//! * **No starvation.** At most as many sequences run as a batch has tokens, so each decode gets its token in every
//!   step and a prefill always finds at least one left; prefills take turns at being served first.

mod plan;
mod prefix;
mod scheduler;
mod sequence;
mod shift;
mod slots;

pub use plan::{Occupancy, PlannedSpan, Pushed, ScheduleError, SlotOp, StepPlan, capacity};
pub(crate) use prefix::common_prefix;
pub use scheduler::Scheduler;
pub use sequence::SeqId;
pub use shift::{LEAST_BEHIND, cut};
