//! Load generation for a server with the OpenAI API. Requests arrive at random times (open loop), or each client sends its
//! next request after the answer to the last one (closed loop). The time of every delivery is recorded.
//!
//! * [`plan`]: which requests are sent, when, and to which server;
//! * [`request`]: one request and its streamed answer;
//! * [`drive`]: the threads that send requests on time;
//! * [`figures`]: percentiles, rates, goodput;
//! * [`report`]: text and files.
//!
//! The caller brings the HTTP client: a [`Transport`] posts a body and returns the bytes of the answer. Times are taken when
//! a delivery arrives at the client. So every figure is marked `http`: it includes the network and the server's queue, and
//! is never mixed with figures measured inside a process.
//!
//! In the open loop a request's clock starts when the request was **due**, not when a thread sent it. Otherwise a client
//! that falls behind would hide the delays that it measures.

pub mod drive;
pub mod figures;
pub mod plan;
pub mod report;
pub mod request;

pub use drive::run;
pub use plan::{Api, Arrivals, End, LatencyBounds, LoadPlan, PlanError};
pub use report::LoadgenReport;
pub use request::{Asked, Outcome, Refusal, Transport};
