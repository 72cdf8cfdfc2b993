//! The messages between parent and child: JSON in length-prefixed frames over the child's stdin and stdout.
//!
//! A frame is a little-endian `u32` length and that many bytes of JSON. The child sends first ([`FromChild::Hello`]); after
//! that every command of the parent is answered, in order. [`FromChild::Progress`] may come in between.

use crate::eval::perplexity::Perplexity;
use crate::eval::prompts::EvalPrompt;
use crate::eval::quality::QualitySpec;
use crate::eval::reference::{CompareSpec, ReferenceSpec};
use crate::host::ChildSpec;
use crate::record::comparison::LogitsSummary;
use crate::record::config::Work;
use crate::record::peaks::Peaks;
use crate::record::process::{LoadReport, RunReport};
use crate::record::subject::Subject;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{Read, Write};
use zonda_engine::forward::BackendInfo;

/// The protocol's version; parent and child must be of the same build.
pub const VERSION: u32 = 4;
/// Longest frame, in bytes. A run of a million tokens fits.
pub const MAX_FRAME: usize = 64 << 20;

/// Commands of the parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToChild {
    /// Open the engine; answered by [`FromChild::Opened`] or [`FromChild::Failed`].
    Open(ChildSpec),
    /// Run one request; answered by [`FromChild::Done`] or [`FromChild::Failed`].
    Run(RunSpec),
    /// Measure the machine's peaks; answered by [`FromChild::Peaks`] or [`FromChild::Failed`].
    Peaks {
        /// Its options give the number of threads.
        subject: Subject,
        /// Also measure reads of a large memory region.
        large: bool,
    },
    /// Measure the read bandwidth now, with this subject's number of threads; answered by [`FromChild::Read`] or
    /// [`FromChild::Failed`]. The process keeps the memory for the next measurement.
    Read(Subject),
    /// Compute the reference logits of a subject's weights; answered by [`FromChild::Reference`] or [`FromChild::Failed`].
    Reference(ReferenceSpec),
    /// Compare a backend with those logits; answered by [`FromChild::Compared`] or [`FromChild::Failed`].
    Compare(CompareSpec),
    /// Compute the reference logits of a text; answered by [`FromChild::QualityReference`] or [`FromChild::Failed`].
    QualityReference(QualitySpec),
    /// Measure a backend's quality on a text; answered by [`FromChild::Quality`] or [`FromChild::Failed`].
    Quality(QualitySpec),
    /// End the process.
    Quit,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    /// What to do.
    pub work: Work,
    /// Maximum tokens to generate; fewer in a warm-up than in a measured run.
    pub max_tokens: usize,
    /// Whether the model may end the answer.
    pub natural: bool,
    /// Whether the prefix cache is on.
    pub cached: bool,
    /// Seed of random prompt ids.
    pub seed: u64,
}

/// Messages of the child.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromChild {
    /// The child has started.
    Hello {
        /// Its [`VERSION`].
        protocol: u32,
    },
    /// The engine is open.
    Opened(Box<LoadReport>),
    /// Tokens have arrived; sent about twice a second while a request runs.
    Progress {
        /// Tokens so far.
        tokens: usize,
    },
    /// The request is done.
    Done(Box<RunReport>),
    /// The machine's peaks.
    Peaks(Box<Peaks>),
    /// The read bandwidth of all threads together, measured just now.
    Read {
        /// Bytes per second.
        bytes_per_s: f64,
    },
    /// The reference logits are in the file.
    Reference {
        /// What the highest-precision form is.
        form: String,
        /// The tokens that were read: each prompt in batches, each answer token by token.
        prompts: Vec<EvalPrompt>,
    },
    /// A backend was compared with those logits.
    Compared {
        /// The distances found.
        found: Box<LogitsSummary>,
        /// The backend.
        backend: Box<BackendInfo>,
    },
    /// The reference logits of the text's first windows are in the file.
    QualityReference {
        /// What the highest-precision form is.
        form: String,
    },
    /// A backend's quality on the text.
    Quality {
        /// How well the backend predicted the text.
        found: Perplexity,
        /// Its distance from the reference logits; `None` without them.
        compared: Option<Box<LogitsSummary>>,
    },
    /// The engine could not be opened, or the request could not be run. The child continues.
    Failed {
        /// The reason, in one sentence.
        why: String,
    },
}

/// A frame that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed the pipe between frames.
    #[error("the pipe was closed")]
    Closed,
    /// The other side closed the pipe within a frame, or the system failed.
    #[error("a frame broke off: {0}")]
    Io(#[from] std::io::Error),
    /// The length is too large: the stream is not made of frames.
    #[error("a frame of {0} bytes; at most {MAX_FRAME} are allowed")]
    TooLong(usize),
    /// The frame does not hold the expected message.
    #[error("a frame is not a message of protocol version {VERSION}: {0}")]
    Message(#[from] serde_json::Error),
}

/// Writes one message and flushes it.
///
/// # Errors
/// If the message is longer than [`MAX_FRAME`] or the pipe is broken.
pub fn write(to: &mut impl Write, message: &impl Serialize) -> Result<(), FrameError> {
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len()).ok().filter(|&n| n as usize <= MAX_FRAME);
    let length = length.ok_or(FrameError::TooLong(body.len()))?;
    // One write for the whole frame, so that no frame stays half written while the process computes.
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&body);
    to.write_all(&frame)?;
    Ok(to.flush()?)
}

/// Reads one message. Allocates no more than has arrived.
///
/// # Errors
/// [`FrameError::Closed`] at the end of the stream; otherwise what is wrong with the frame.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, FrameError> {
    let mut length = [0u8; 4];
    let mut got = 0;
    while got < 4 {
        match from.read(&mut length[got..]) {
            Ok(0) if got == 0 => return Err(FrameError::Closed),
            Ok(0) => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => got += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let mut body = Vec::new();
    from.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
    }
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(message: &FromChild) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, message).unwrap();
        bytes
    }

    #[test]
    fn messages_round_trip() {
        let sent = [
            FromChild::Hello { protocol: VERSION },
            FromChild::Progress { tokens: 7 },
            FromChild::Failed { why: "out of 記憶".into() },
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(frame).collect();
        let mut from = bytes.as_slice();
        for message in sent {
            assert_eq!(read::<FromChild>(&mut from).unwrap(), message);
        }
        assert!(matches!(read::<FromChild>(&mut from), Err(FrameError::Closed)));
    }

    #[test]
    fn a_truncated_frame_is_an_error_at_every_length() {
        let bytes = frame(&FromChild::Hello { protocol: 1 });
        for cut in 1..bytes.len() {
            assert!(matches!(read::<FromChild>(&mut &bytes[..cut]), Err(FrameError::Io(_))), "cut at {cut}");
        }
    }

    #[test]
    fn a_wrong_length_is_refused_without_allocating() {
        let text = b"llama_model_loader: loaded"; // a library that prints to stdout
        assert!(matches!(read::<FromChild>(&mut &text[..]), Err(FrameError::TooLong(_))));
        let mut bytes = (MAX_FRAME as u32).to_le_bytes().to_vec();
        bytes.extend(b"{}");
        assert!(matches!(read::<FromChild>(&mut bytes.as_slice()), Err(FrameError::Io(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut from = bytes.as_slice();
            while read::<FromChild>(&mut from).is_ok() {}
            let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
            framed.extend(&bytes);
            prop_assert!(read::<ToChild>(&mut framed.as_slice()).is_err());
        }

        #[test]
        fn a_flipped_byte_never_panics(at in 0usize..60, byte: u8) {
            let mut bytes = frame(&FromChild::Failed { why: "something went wrong in there, badly".into() });
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = read::<FromChild>(&mut bytes.as_slice());
        }
    }
}
