//! Load on a server of OpenAI's API: requests that arrive at random times (open loop) or one after another from so many
//! clients (closed loop), each answer with the time of every delivery.
//!
//! * [`plan`]: what is asked, when, of whom;
//! * [`request`]: one streamed answer, from the request's time to the last delivery;
//! * [`drive`]: threads that send in time;
//! * [`report`]: percentiles, rates, goodput; the files.
//!
//! HTTP itself is the caller's: a [`Transport`] sends a body and gives the answer's bytes. Times are taken where a
//! delivery arrives, so every figure is `http`: it holds the network and the server's queue, and is never mixed with
//! figures taken in the process.
//!
//! In the open loop a request's clock starts when it was **due**, not when a thread came to send it: a client that falls
//! behind would otherwise hide the very delays that it measures.

pub mod drive;
pub mod plan;
pub mod report;
pub mod request;

pub use drive::run;
pub use plan::{Api, Arrivals, End, LatencyBounds, LoadPlan, PlanError};
pub use report::LoadgenReport;
pub use request::{Asked, Outcome, Refusal, Transport};
