//! Downloads one file: resumes where an earlier attempt stopped, retries as long as bytes arrive, verifies the result.

use super::checksum::{Expected, Partial};
use super::http::{Client, Continue, Failure};
use super::progress::{Piece, Progress, check};
use crate::error::{Detail, Error, Result};
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, Instant};
use ureq::http::{StatusCode, header};

/// Number of successive attempts without a single byte after which the download fails.
const TRIES: u32 = 5;

/// Counts attempts that bring no bytes, and waits longer after each.
#[derive(Default)]
pub struct Patience {
    fruitless: u32,
}

impl Patience {
    /// After a temporary failure: waits, or gives up. `progressed`: whether the attempt brought any bytes.
    ///
    /// # Errors
    /// The last error if there were too many; [`Error::Cancelled`].
    pub fn wait(
        &mut self,
        error: String,
        after: Option<Duration>,
        progressed: bool,
        progress: &dyn Progress,
    ) -> Result<()> {
        self.fruitless = if progressed { 0 } else { self.fruitless + 1 };
        if self.fruitless >= TRIES {
            let detail = Detail::new(format!("gave up after {TRIES} attempts: {error}"));
            return Err(Error::Download(
                detail.advise("try again later: a download continues where it stopped"),
            ));
        }
        tracing::warn!("{error}; trying again");
        let time = after.unwrap_or(Duration::from_secs(u64::from(self.fruitless.pow(2))));
        let until = Instant::now() + time;
        while Instant::now() < until {
            check(progress)?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Downloads `url` to `dest`. `expected` comes from a listing; what the server's headers add is also checked. `version`
/// identifies the version of the file if no checksum does. Returns size and SHA-256.
///
/// # Errors
/// If the server refuses, the connection keeps breaking, or the file differs from the published one.
pub fn fetch(
    client: &Client,
    url: &str,
    dest: &Path,
    expected: Expected,
    version: &str,
    progress: &dyn Progress,
) -> Result<(u64, String)> {
    let key = expected.sha256.as_deref().unwrap_or(version);
    let mut partial = Partial::open(dest, &key[..key.len().min(12)], progress)?;
    if expected.sha256.is_none() {
        partial.reset()?; // there is no way to check that the rest belongs to it
    }
    let name = dest.file_name().unwrap_or_default().to_string_lossy();
    let piece = Piece::begin(progress, &format!("downloading {name}"), expected.bytes.unwrap_or(0));
    let mut source = Source { url, listed: expected.clone(), expected, validator: None, ranges: true };
    let mut patience = Patience::default();
    let mut furthest = partial.len();
    while source.expected.bytes != Some(partial.len()) {
        let (error, after) = match attempt(client, &mut source, &mut partial, &piece) {
            Ok(()) => break,
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing { error, after }) => (error, after),
            Err(Failure::BadRange) if partial.len() == 0 => {
                return Err(Error::download(format!(
                    "{url}: the server refused a request for the whole file as a range"
                )));
            }
            Err(Failure::BadRange) => {
                let error = format!("{url}: the server did not continue at byte {}", partial.len());
                source.ranges = false;
                (error, Some(Duration::ZERO))
            }
        };
        let progressed = partial.len() > furthest;
        furthest = furthest.max(partial.len());
        if !source.resumes() {
            source.start_over(&mut partial)?;
        }
        if partial.restarts() >= TRIES {
            return Err(Error::download(format!("gave up after starting over {TRIES} times: {error}")));
        }
        patience.wait(error, after, progressed, progress)?;
    }
    let bytes = partial.len();
    let sha256 = partial.finish(&source.expected)?;
    piece.complete();
    Ok((bytes, sha256))
}

/// A file on a server, and what is known about it.
struct Source<'a> {
    url: &'a str,
    /// What the listing says.
    listed: Expected,
    /// What the listing and the server's headers say about the version that is being downloaded.
    expected: Expected,
    /// Identifies that version.
    validator: Option<String>,
    /// Whether the server supports ranges, as far as is known.
    ranges: bool,
}

impl Source<'_> {
    /// Whether the rest of this version can be requested, and a different version would be noticed.
    fn resumes(&self) -> bool {
        self.ranges && (self.validator.is_some() || self.expected.sha256.is_some())
    }

    /// Discards the bytes so far: the server may now send another version.
    fn start_over(&mut self, partial: &mut Partial) -> Result<()> {
        self.expected = self.listed.clone();
        self.validator = None;
        partial.reset()
    }
}

/// One request, whose bytes are appended. `Ok` means that the body was complete.
fn attempt(
    client: &Client,
    source: &mut Source<'_>,
    partial: &mut Partial,
    piece: &Piece<'_>,
) -> Result<(), Failure> {
    let url = source.url;
    let rest = Continue { from: partial.len(), validator: source.validator.as_deref() };
    let answer = client.get(url, Some(rest).filter(|rest| rest.from > 0))?;
    if answer.response.status() == StatusCode::OK && partial.len() > 0 {
        // The server has a different version by now, or does not support ranges.
        source.start_over(partial)?;
    }
    match (&source.validator, answer.validator) {
        (Some(ours), Some(theirs)) if *ours != theirs => return Err(Failure::BadRange),
        (None, theirs) => source.validator = theirs,
        _ => {}
    }
    let Source { expected, .. } = source;
    let total = total_size(&answer.response, partial.len())?;
    merge(expected, &answer.expected, total, url)?;
    let mut body = answer.response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 17];
    loop {
        piece.check()?;
        let n = body.read(&mut buffer).map_err(|e| Failure::Passing {
            error: format!("{url}: connection lost after {} bytes: {e}", partial.len()),
            after: None,
        })?;
        if n == 0 {
            break;
        }
        partial.append(&buffer[..n])?;
        if expected.bytes.is_some_and(|bytes| partial.len() > bytes) {
            partial.reset()?;
            return Err(Failure::Final(Error::download(format!(
                "{url}: expected {} bytes, but the server sends more",
                expected.bytes.unwrap_or(0)
            ))));
        }
        piece.advance(partial.len(), expected.bytes.unwrap_or(0));
    }
    match expected.bytes {
        Some(bytes) if partial.len() < bytes => Err(Failure::Passing {
            error: format!("{url}: the connection ended after {} of {bytes} bytes", partial.len()),
            after: None,
        }),
        _ => Ok(()),
    }
}

/// The size of the whole file according to the answer. A partial answer must begin at `from`.
fn total_size(response: &ureq::http::Response<ureq::Body>, from: u64) -> Result<Option<u64>, Failure> {
    let header = |name| response.headers().get(name)?.to_str().ok();
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(header(header::CONTENT_LENGTH).and_then(|l| l.parse().ok()));
    }
    let range = header(header::CONTENT_RANGE);
    let range = range.ok_or_else(|| Error::download("a partial answer without Content-Range"))?;
    let parsed = parse_content_range(range);
    let (start, total) =
        parsed.ok_or_else(|| Error::download(format!("a partial answer with Content-Range {range:?}")))?;
    if start != from {
        return Err(Failure::BadRange);
    }
    Ok(total)
}

/// `bytes 5-9/10` → start 5 and total 10 (`None` for `*`).
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.parse().ok()?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start, total))
}

/// Adds what this answer says about the file; contradictory values are an error.
fn merge(expected: &mut Expected, said: &Expected, total: Option<u64>, url: &str) -> Result<()> {
    for bytes in [said.bytes, total].into_iter().flatten() {
        let before = *expected.bytes.get_or_insert(bytes);
        if before != bytes {
            return Err(Error::download(format!(
                "{url}: expected {before} bytes, the server offers {bytes}"
            )));
        }
    }
    if let Some(sha256) = &said.sha256 {
        let before = expected.sha256.get_or_insert_with(|| sha256.clone());
        if before != sha256 {
            let message = format!("{url}: the listing says SHA-256 {before}, the server {sha256}");
            return Err(Error::download(message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes", "bytes */10", "bytes 5-9", "items 5-9/10", "bytes 5-9/x", "bytes -5-9/10"] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn contradictions_are_errors() {
        let mut expected = Expected { bytes: Some(10), sha256: None };
        let said = |bytes, sha256: Option<&str>| Expected { bytes, sha256: sha256.map(str::to_owned) };
        merge(&mut expected, &said(Some(10), Some("aa")), Some(10), "u").unwrap();
        assert_eq!(expected.sha256.as_deref(), Some("aa"));
        assert!(merge(&mut expected, &said(None, None), Some(11), "u").is_err());
        assert!(merge(&mut expected, &said(None, Some("bb")), None, "u").is_err());
    }
}
