//! The last bench report: its file and its form.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Where to look for bench reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reports {
    /// Nowhere.
    #[default]
    None,
    /// This file, with its content at the time of the request.
    File(PathBuf),
    /// The newest of the folders in this one, as `zonda bench` creates them.
    Newest(PathBuf),
}

/// A report's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A separate page.
    Html,
    /// Text with tables.
    Markdown,
    /// The record alone.
    Json,
}

impl Kind {
    fn of(path: &Path) -> Option<Kind> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "html" | "htm" => Some(Kind::Html),
            "md" => Some(Kind::Markdown),
            "json" => Some(Kind::Json),
            _ => None,
        }
    }
}

/// The files of one bench run, the best to show first.
const FILES: [&str; 3] = ["report.html", "report.md", "results.json"];

/// A report that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// Its form.
    pub kind: Kind,
    /// When it was written.
    pub modified: SystemTime,
}

impl Reports {
    /// The report, if there is one.
    ///
    /// # Errors
    /// A sentence that says where the report was searched for and what is missing.
    pub fn find(&self) -> Result<Found, String> {
        match self {
            Reports::None => Err("This server was not told where bench reports are.".to_owned()),
            Reports::File(path) => {
                let kind = Kind::of(path).ok_or_else(|| {
                    format!("{}: expected a report ending in .html, .md or .json.", path.display())
                })?;
                let modified = path.metadata().and_then(|m| m.modified());
                let modified = modified.map_err(|e| format!("{}: {e}.", path.display()))?;
                Ok(Found { path: path.clone(), kind, modified })
            }
            Reports::Newest(folder) => newest(folder).ok_or_else(|| {
                format!(
                    "There is no report in {} yet: `zonda bench` writes one, `--report FILE` names another.",
                    folder.display()
                )
            }),
        }
    }
}

/// The best file of the newest run. A run is as new as the last file it wrote.
fn newest(folder: &Path) -> Option<Found> {
    let runs = std::fs::read_dir(folder).ok()?.flatten().filter_map(|run| {
        let files = FILES.map(|name| run.path().join(name));
        files.into_iter().find_map(|path| {
            let modified = path.metadata().ok().filter(std::fs::Metadata::is_file)?.modified().ok()?;
            Some(Found { kind: Kind::of(&path)?, path, modified })
        })
    });
    runs.max_by_key(|found| found.modified)
}

#[cfg(test)]
mod tests {
    use super::{Kind, Reports};
    use std::time::{Duration, SystemTime};

    #[test]
    fn the_newest_run_is_found_in_its_best_form() {
        let folder = tempfile::tempdir().unwrap();
        let reports = Reports::Newest(folder.path().to_owned());
        assert!(reports.find().unwrap_err().contains("zonda bench"));
        let write = |name: &str, age: u64| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = std::fs::File::create(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            path
        };
        write("a/results.json", 5);
        assert_eq!(reports.find().unwrap().kind, Kind::Json);
        let page = write("b/report.html", 3);
        write("b/results.json", 1);
        write("notes.txt", 0);
        let found = reports.find().unwrap();
        assert_eq!((found.path, found.kind), (page, Kind::Html));
    }

    #[test]
    fn a_named_file_is_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.md");
        assert!(Reports::File(path.clone()).find().unwrap_err().contains("report.md"));
        std::fs::write(&path, "# r").unwrap();
        assert_eq!(Reports::File(path).find().unwrap().kind, Kind::Markdown);
        assert!(Reports::File("x.exe".into()).find().unwrap_err().contains("expected"));
        assert!(Reports::None.find().is_err());
    }
}
