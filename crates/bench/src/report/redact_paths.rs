//! Prepares a record for others: replaces personal folders, such as the home folder by `~`, and escapes control characters in
//! names.

use crate::record::results::Record;
use serde_json::Value;
use std::path::{Path, PathBuf};
use zonda_engine::printable_lines;

/// Keys of text from elsewhere, which is not changed.
const VERBATIM: [&str; 3] = ["text", "prompt", "timeline"];

/// Folders with their replacements, such as `~`; earlier ones take precedence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathRedactor(Vec<(String, String)>);

impl PathRedactor {
    /// Folders that are `/`, relative or not UTF-8 are ignored.
    pub fn new(folders: impl IntoIterator<Item = (PathBuf, &'static str)>) -> PathRedactor {
        let usable = |(folder, short): (PathBuf, &'static str)| {
            let long = folder.to_str()?.trim_end_matches(['/', '\\']).to_owned();
            (folder.is_absolute() && folder != Path::new("/") && !long.is_empty())
                .then(|| (long, short.to_owned()))
        };
        PathRedactor(folders.into_iter().filter_map(usable).collect())
    }

    /// Replaces every such folder in a text, but only at the start of a path and as a whole name.
    pub fn redact(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (long, short) in &self.0 {
            let mut done = String::new();
            let mut rest = out.as_str();
            while let Some(at) = rest.find(long) {
                let (before, after) = (&rest[..at], &rest[at + long.len()..]);
                let inside = |c: char| c.is_alphanumeric() || "._-/\\".contains(c);
                let starts = !before.chars().next_back().or(done.chars().next_back()).is_some_and(inside);
                let ends = !after.starts_with(|c: char| c.is_alphanumeric() || "._-".contains(c));
                done.push_str(before);
                done.push_str(if starts && ends { short } else { long });
                rest = after;
            }
            done.push_str(rest);
            out = done;
        }
        out
    }

    /// Replaces these folders in all paths of a record and escapes control characters in its names.
    pub fn redact_record(&self, record: Record) -> Record {
        let Ok(mut value) = serde_json::to_value(&record) else { return record };
        self.redact_value(&mut value);
        serde_json::from_value(value).unwrap_or(record)
    }

    /// The same for a record as JSON.
    pub fn redact_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = printable_lines(&self.redact(text)).into_owned(),
            Value::Array(list) => list.iter_mut().for_each(|v| self.redact_value(v)),
            Value::Object(keys) => {
                let ours = keys.iter_mut().filter(|(key, _)| !VERBATIM.contains(&key.as_str()));
                ours.for_each(|(_, v)| self.redact_value(v));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn homes() -> PathRedactor {
        PathRedactor::new([
            ("/data/models".into(), "$ZONDA_HOME"),
            ("/home/ada/".into(), "~"),
            ("/".into(), "root"),
        ])
    }

    #[test]
    fn folders_become_short_and_others_stay() {
        let short = |text: &str| homes().redact(text);
        assert_eq!(short("/home/ada/m.gguf"), "~/m.gguf");
        assert_eq!(short("/home/ada"), "~");
        assert_eq!(short("/data/models/hub/x"), "$ZONDA_HOME/hub/x");
        assert_eq!(short("can't read `/home/ada/a` and /home/ada/b: gone"), "can't read `~/a` and ~/b: gone");
        for other in ["/home/adam/x", "/mnt/home/ada/x", "/home/ada.old", "x/home/ada/y", "/tmp/m.gguf", ""] {
            assert_eq!(short(other), other);
        }
        assert_eq!(PathRedactor::default().redact("/home/ada"), "/home/ada");
    }
}
