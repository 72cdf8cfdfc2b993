//! Files on disk: inputs that have to be regular files, and outputs. An output appears whole or not at all where it replaces a
//! regular file, and is written through to anything else (a device, a FIFO).

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Opens a regular file for reading. Symbolic links are followed.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] for anything else: opening a FIFO would wait for its other end, and a device may never end; else
/// what the file system says.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Asked of the path, since opening a FIFO would wait; then of the file, since the path may lead elsewhere by then.
    regular(fs::metadata(path)?.file_type())?;
    let file = File::open(path)?;
    regular(file.metadata()?.file_type())?;
    Ok(file)
}

fn regular(kind: FileType) -> io::Result<()> {
    if kind.is_file() { Ok(()) } else { Err(not_regular(kind)) }
}

fn not_regular(kind: FileType) -> io::Error {
    let found = match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_symlink() => "a symbolic link",
        _ => "a device, FIFO or socket",
    };
    io::Error::new(ErrorKind::InvalidInput, format!("expected a regular file, found {found}"))
}

/// The regular file that an output of this path replaces or makes, symbolic links followed; `None`: the path leads to something
/// that has to be written through, such as a device, or to a link whose target does not exist.
///
/// # Errors
/// [`ErrorKind::IsADirectory`] for a folder; what the file system says.
pub fn replaced(path: &Path) -> io::Result<Option<PathBuf>> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(path.to_owned())),
        found => found?.file_type(),
    };
    let target = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        target => target?.file_type(),
    };
    match target {
        target if target.is_dir() => {
            Err(io::Error::new(ErrorKind::IsADirectory, "expected the name of a file, found a folder"))
        }
        target if !target.is_file() => Ok(None),
        _ if found.is_symlink() => path.canonicalize().map(Some),
        _ => Ok(Some(path.to_owned())),
    }
}

/// An output that is being written. Dropped before [`Output::finish`], it leaves a regular file as it was.
#[derive(Debug)]
pub struct Output {
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Beside the file that it replaces in the end.
    Beside {
        temporary: NamedTempFile,
        target: PathBuf,
    },
    Through(File),
}

impl Output {
    /// Begins to write. A new file gets the mode that the umask gives, a replaced one keeps its own.
    ///
    /// # Errors
    /// If the path is a folder, or can't be written to.
    pub fn create(path: &Path) -> io::Result<Output> {
        let Some(target) = replaced(path)? else {
            return Ok(Output { place: Place::Through(File::create(path)?) });
        };
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = temporary().tempfile_in(folder)?;
        if let Ok(old) = fs::metadata(&target) {
            temporary.as_file().set_permissions(old.permissions())?;
        }
        Ok(Output { place: Place::Beside { temporary, target } })
    }

    /// Moves the whole file into its place.
    ///
    /// # Errors
    /// What the file system says.
    pub fn finish(self) -> io::Result<()> {
        match self.place {
            Place::Beside { temporary, target } => {
                temporary.as_file().sync_all()?;
                temporary.persist(target).map(drop).map_err(|error| error.error)
            }
            Place::Through(mut file) => file.flush(),
        }
    }

    fn file(&mut self) -> &mut File {
        match &mut self.place {
            Place::Beside { temporary, .. } => temporary.as_file_mut(),
            Place::Through(file) => file,
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

/// Writes a whole file, as [`Output`] does.
///
/// # Errors
/// As [`Output::create`] and [`Output::finish`].
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut output = Output::create(path)?;
    output.write_all(bytes)?;
    output.finish()
}

/// Makes a folder if it is missing, and checks that files can be made in it.
///
/// # Errors
/// What the file system says.
pub fn prepare_folder(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    temporary().tempfile_in(folder).map(drop)
}

/// Temporary files with the mode that the umask gives to any new file. Without it they would be their owner's alone.
pub fn temporary() -> tempfile::Builder<'static, 'static> {
    #[allow(unused_mut)] // changed where files have modes
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_replaces_a_file_whole_or_leaves_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, b"old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(Output::create(dir.path()).unwrap_err().kind(), ErrorKind::IsADirectory);
        assert!(Output::create(&dir.path().join("none/a")).is_err());
    }

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let error = open_regular(dir.path()).unwrap_err().to_string();
        assert!(error.contains("found a folder"), "{error}");
        assert_eq!(open_regular(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_written_through() {
        use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // The mode that this process gives to a new file.
        fs::write(at("plain"), "").unwrap();
        let usual = fs::metadata(at("plain")).unwrap().mode();
        write(&at("new"), b"x").unwrap();
        assert_eq!(fs::metadata(at("new")).unwrap().mode(), usual);
        fs::set_permissions(at("new"), fs::Permissions::from_mode(0o640)).unwrap();
        write(&at("new"), b"y").unwrap();
        assert_eq!(fs::metadata(at("new")).unwrap().mode() & 0o777, 0o640);

        symlink("new", at("link")).unwrap();
        write(&at("link"), b"through").unwrap();
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());
        assert_eq!(fs::read(at("new")).unwrap(), b"through");
        symlink("later", at("dangling")).unwrap();
        write(&at("dangling"), b"made").unwrap();
        assert_eq!(fs::read(at("later")).unwrap(), b"made");

        assert_eq!(replaced(Path::new("/dev/null")).unwrap(), None);
        write(Path::new("/dev/null"), b"gone").unwrap();
        assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        assert!(open_regular(Path::new("/dev/null")).unwrap_err().to_string().contains("a device"));
    }

    #[cfg(unix)]
    #[test]
    fn a_fifo_is_written_through_and_never_read() {
        use std::os::unix::fs::FileTypeExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(open_regular(&path).unwrap_err().to_string().contains("FIFO"));
        let reader = std::thread::spawn({
            let path = path.clone();
            move || fs::read(path).unwrap()
        });
        write(&path, b"passed on").unwrap();
        assert_eq!(reader.join().unwrap(), b"passed on");
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    }
}
