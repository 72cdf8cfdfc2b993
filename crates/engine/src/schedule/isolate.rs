//! Finds the sequence that makes a forward call fail: those of the failed call are computed anew, one at a time.
//!
//! After an error a backend's slots are undefined until they are emptied, so every sequence of the call starts over in an empty
//! slot, up to where the call failed. Its tokens do not change, and nothing was sampled from the failed call, so a sequence that
//! is not at fault continues as if nothing had happened. One that fails alone is at fault.

use super::plan::StepPlan;
use super::scheduler::Scheduler;
use super::sequence::Sequence;

/// After so many failed calls in a row for which no single sequence was at fault, the backend itself is.
const ATTEMPTS: usize = 3;

impl Scheduler {
    /// After a forward call failed: has its sequences computed again, each alone in its steps. False if that does not help, and they
    /// have to end: there was one sequence only, or calls of several sequences failed again and again.
    pub fn isolate(&mut self, plan: &StepPlan) -> bool {
        if plan.spans.len() < 2 {
            self.failed_calls = 0;
            return false;
        }
        if self.failed_calls == ATTEMPTS {
            return false;
        }
        self.failed_calls += 1;
        for span in &plan.spans {
            let Some(i) = self.index(span.id) else { continue };
            let seq = &mut self.running[i];
            seq.reject();
            seq.computed = 0;
            seq.alone_until = (span.start + span.len).min(seq.tokens.len());
            self.cut_slot(i);
        }
        true
    }

    /// Whether the next step computes one sequence alone, because a call failed.
    pub fn is_isolating(&self) -> bool {
        self.isolated().is_some()
    }

    /// The sequence that the next step computes alone.
    pub(super) fn isolated(&self) -> Option<&Sequence> {
        self.running.iter().find(|s| !s.held && s.computed < s.alone_until)
    }
}
