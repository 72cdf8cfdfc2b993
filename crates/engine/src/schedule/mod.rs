//! Which tokens of which sequences go into the next step. Pure: no I/O, no clock, no async.
//!
//! In each step the worker calls a [`Scheduler`] in this order:
//!
//! 1. [`Scheduler::submit`], [`Scheduler::finish`]: sequences begin and end;
//! 2. [`Scheduler::draft`]: drafts for sequences that decode;
//! 3. [`Scheduler::next_op`] until `None`: slots to empty, shorten or share in the backend, each confirmed with
//!    [`Scheduler::op_done`]; this admits waiting sequences;
//! 4. [`Scheduler::plan`], [`Scheduler::batch`]: the spans of one forward call;
//! 5. [`Scheduler::commit`] after the call, then [`Scheduler::push`] a sampled token where a span wanted logits: for each of
//!    its rows in turn, as long as the answer is [`Pushed::Drafted`]. Where the context is full ([`Pushed::Full`]),
//!    [`Scheduler::shift`] makes room, or the sequence ends. If the call failed, [`Scheduler::isolate`] instead.
//!
//! # Guarantees
//! * **Order.** Sequences are admitted first come, first served; every running sequence is older than every waiting one.
//! * **Nothing twice.** If a running sequence is computing the prefix of a waiting one, that one waits for it, if the backend
//!   shares prefixes.
//! * **Memory.** A running sequence holds KV pages for all of its tokens, so a planned batch always fits.
//! * **No deadlock.** When a running sequence grows past the free pages, cached prefixes are dropped (least recently
//!   used first); if there are none left, the *youngest* running sequence is preempted: put back at the head of the queue and
//!   computed again later. So the oldest is never preempted, may fill the whole KV cache alone, and always finishes.
//! * **Drafts come last.** They use only what a batch and the KV cache have left: they never delay or preempt another sequence.
//!   Rejected drafts are cut from the slot before the next step.
//! * **A failed call ends no other sequence.** The sequences of a failed call are computed again one at a time, so that only the
//!   one at fault fails. Meanwhile the others wait.
//! * **No starvation.** At most as many sequences run as a batch has tokens, so each decode gets its token in every step and at
//!   least one token is left for prefill; prefills take turns at being served first.

mod isolate;
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
