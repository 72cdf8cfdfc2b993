//! A stub of the Hub: one thread, one connection at a time, with the faults that a test requests.

use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// The commit of the stub's repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How a file request fails; each fault happens once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection closes after this many bytes of the body.
    CutAfter(usize),
    /// The response has this status.
    Status(u16),
    /// The body differs from the file.
    Corrupt,
    /// The range is ignored: the response is the whole file with status 200.
    NoRanges,
    /// The response has a range that starts elsewhere.
    WrongRange,
    /// The body is longer than the file and has no `Content-Length`.
    Endless,
    /// From now on the file is another one, of the same size.
    Replaced,
}

/// The stub's files and the requests it received.
#[derive(Default)]
struct State {
    files: HashMap<String, Vec<u8>>,
    faults: Vec<Fault>,
    token: Option<String>,
    redirect: Option<String>,
    listed: Vec<String>,
    log: Vec<Asked>,
    plain_listing: bool,
    /// Answers have an ETag, the file's SHA-256, and follow `If-Range`.
    etags: bool,
    /// The fault of every range that is asked for, and where whole answers are cut.
    never_continues: Option<(Fault, usize)>,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub path: String,
    pub range: Option<String>,
    pub token: Option<String>,
}

/// A running stub. It ends with the test process.
#[derive(Clone)]
pub struct Hub {
    pub address: String,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn start(files: &[(&str, &[u8])]) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files: HashMap<_, _> = files.iter().map(|(n, b)| ((*n).to_owned(), b.to_vec())).collect();
        let state = Arc::new(Mutex::new(State { files, ..State::default() }));
        let hub = Hub { address, state: state.clone() };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Some tests make the client disconnect early.
                let _ = serve(stream, &state);
            }
        });
        hub
    }

    /// Faults of the next file requests, in order.
    pub fn faults(self, faults: &[Fault]) -> Hub {
        self.state.lock().unwrap().faults = faults.to_vec();
        self
    }

    /// Only this token grants access.
    pub fn needs_token(self, token: &str) -> Hub {
        self.state.lock().unwrap().token = Some(token.to_owned());
        self
    }

    /// Redirects files to another stub, as the Hub redirects to its CDN.
    pub fn redirects_to(self, other: &Hub) -> Hub {
        self.state.lock().unwrap().redirect = Some(other.address.clone());
        self
    }

    /// The listing also names these files, which don't exist.
    pub fn also_lists(self, names: &[&str]) -> Hub {
        self.state.lock().unwrap().listed = names.iter().map(|n| (*n).to_owned()).collect();
        self
    }

    /// The listing has names only, no sizes or checksums.
    pub fn lists_plainly(self) -> Hub {
        self.state.lock().unwrap().plain_listing = true;
        self
    }

    /// Whole answers are cut, each a little later than the last, and every range has this fault.
    pub fn never_continues(self, fault: Fault) -> Hub {
        self.state.lock().unwrap().never_continues = Some((fault, 0));
        self
    }

    /// Answers name their version.
    pub fn has_etags(self) -> Hub {
        self.state.lock().unwrap().etags = true;
        self
    }

    /// All file requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().log.clone()
    }

    /// The requested ranges of files, without those of the listing.
    pub fn ranges(&self) -> Vec<Option<String>> {
        self.asked().into_iter().map(|a| a.range).collect()
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let target = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let mut state = state.lock().unwrap();
    let token = headers.get("authorization").cloned();
    if state.token.as_ref().is_some_and(|t| token != Some(format!("Bearer {t}"))) {
        return respond(&mut out, 401, &[], b"");
    }
    if target.starts_with("/api/models/org/name/") {
        return respond(&mut out, 200, &[], listing(&state).to_string().as_bytes());
    }
    let Some(name) =
        target.strip_prefix(&format!("/org/name/resolve/{COMMIT}/")).map(|n| n.replace("%20", " "))
    else {
        return respond(&mut out, 404, &[], b"");
    };
    let range = headers.get("range").cloned();
    state.log.push(Asked { path: name.clone(), range: range.clone(), token });
    let Some(mut body) = state.files.get(&name).cloned() else { return respond(&mut out, 404, &[], b"") };
    if let Some(other) = &state.redirect {
        let linked = [
            format!("Location: {other}{target}"),
            format!("X-Linked-Etag: \"{}\"", sha256(&body)),
            format!("X-Linked-Size: {}", body.len()),
        ];
        return respond(&mut out, 302, &linked, b"");
    }
    let fault = match state.never_continues {
        Some((fault, _)) if range.is_some() => Some(fault),
        Some((fault, cut)) => {
            state.never_continues = Some((fault, cut + 1000));
            Some(Fault::CutAfter(cut + 1000))
        }
        None if state.faults.is_empty() => None,
        None => Some(state.faults.remove(0)),
    };
    if fault == Some(Fault::Replaced) {
        body.iter_mut().for_each(|b| *b ^= 0x55);
        state.files.insert(name, body.clone());
    }
    let etag = state.etags.then(|| format!("\"{}\"", sha256(&body)));
    drop(state);
    let changed = headers.get("if-range").is_some_and(|version| etag.as_ref() != Some(version));
    let range = range.filter(|_| !changed);
    let from =
        range.as_deref().and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match fault {
        Some(Fault::Status(status)) => return respond(&mut out, status, &["Retry-After: 0".into()], b""),
        Some(Fault::Corrupt) => body.iter_mut().for_each(|b| *b ^= 1),
        Some(Fault::Endless) => {
            out.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            return out.write_all(&[body.clone(), body].concat());
        }
        Some(Fault::NoRanges) => return respond(&mut out, 200, &[], &body),
        _ => {}
    }
    let total = body.len();
    let (status, mut extra, body) = match from {
        Some(from) if from >= total => return respond(&mut out, 416, &[], b""),
        Some(from) => {
            let shown = if fault == Some(Fault::WrongRange) { 0 } else { from };
            (206, vec![format!("Content-Range: bytes {shown}-{}/{total}", total - 1)], body[from..].to_vec())
        }
        None => (200, Vec::new(), body),
    };
    extra.extend(etag.map(|etag| format!("ETag: {etag}")));
    match fault {
        Some(Fault::CutAfter(n)) => {
            let head = head(status, body.len(), &extra);
            out.write_all(head.as_bytes())?;
            out.write_all(&body[..n.min(body.len())])
        }
        _ => respond(&mut out, status, &extra, &body),
    }
}

fn listing(state: &State) -> serde_json::Value {
    let mut names: Vec<_> = state.files.keys().chain(&state.listed).collect();
    names.sort();
    let siblings: Vec<_> = names
        .into_iter()
        .map(|name| match state.files.get(name) {
            Some(body) if !state.plain_listing => {
                let mut entry = serde_json::json!({ "rfilename": name, "size": body.len() });
                if name.ends_with(".gguf") || name.ends_with(".safetensors") {
                    entry["lfs"] = serde_json::json!({ "sha256": sha256(body), "size": body.len() });
                }
                entry
            }
            _ => serde_json::json!({ "rfilename": name }),
        })
        .collect();
    serde_json::json!({ "sha": COMMIT, "siblings": siblings })
}

fn head(status: u16, length: usize, extra: &[String]) -> String {
    let extra: String = extra.iter().map(|line| format!("{line}\r\n")).collect();
    format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n{extra}\r\n")
}

fn respond(out: &mut TcpStream, status: u16, extra: &[String], body: &[u8]) -> std::io::Result<()> {
    out.write_all(head(status, body.len(), extra).as_bytes())?;
    out.write_all(body)
}
