//! [`Written`]: an answer of one choice in progress, in the form of an API that streams items or blocks with named events.

use super::chunks::{self, Chunks};
use super::turn::{End, Part, Turn};
use crate::error::ApiError;
use crate::generate::Running;
use axum::response::sse::Event;

/// Writes an answer while it is made, and the events that stream it.
pub(crate) trait Writer: Send + 'static {
    /// Begins the stream.
    fn begin(&mut self);

    /// Adds a part.
    fn add(&mut self, part: Part);

    /// Ends the answer, with the counts of its turn.
    fn end(&mut self, end: &End, turn: &Turn);

    /// Ends an answer that can't be completed.
    fn fail(&mut self, error: &ApiError);

    /// The text so far.
    fn text(&self) -> String;

    /// The events since the last call.
    fn take_events(&mut self) -> Vec<Event>;

    /// What is sent while there are no events; `None`: a comment.
    fn alive(&self) -> Option<Event> {
        None
    }
}

/// An answer in progress.
pub(crate) struct Written<W> {
    turn: Turn,
    running: Running,
    writer: W,
    begun: bool,
}

impl<W: Writer> Written<W> {
    /// An answer to what runs.
    pub fn new(turn: Turn, running: Running, writer: W) -> Written<W> {
        Written { turn, running, writer, begun: false }
    }

    /// Takes the next event of the engine; false: there is none.
    async fn step(&mut self) -> Result<bool, ApiError> {
        let Some(event) = self.running.next().await else { return Ok(false) };
        let (index, event) = event?;
        let step = self.turn.take(index, event, self.running.loaded());
        step.parts.into_iter().for_each(|part| self.writer.add(part));
        if let Some(end) = step.end {
            self.writer.end(&end, &self.turn);
            self.turn.log(index, &self.writer.text());
        }
        Ok(true)
    }

    /// Waits for the complete answer.
    pub async fn whole(mut self) -> Result<W, ApiError> {
        while self.step().await? {}
        Ok(self.writer)
    }
}

impl<W: Writer> Chunks for Written<W> {
    async fn next(&mut self) -> Result<Option<Vec<Event>>, ApiError> {
        if !std::mem::replace(&mut self.begun, true) {
            self.writer.begin();
            return Ok(Some(self.writer.take_events()));
        }
        let more = self.step().await?;
        Ok(more.then(|| self.writer.take_events()))
    }

    fn done(&mut self) -> Vec<Event> {
        Vec::new()
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Event> {
        self.writer.fail(error);
        self.writer.take_events()
    }

    fn alive(&self) -> Event {
        self.writer.alive().unwrap_or_else(chunks::alive)
    }
}
