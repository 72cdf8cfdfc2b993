//! Scenarios: prompts and lengths of answers, as data (`data/scenarios/*.toml`).

use crate::error::BenchError;
use crate::record::config::Scenario;
use std::path::Path;

/// The built-in scenarios in the order of listings: the default ones, then the others.
const BUILTIN: [(&str, &str); 5] = [
    ("short", include_str!("../../data/scenarios/short.toml")),
    ("medium", include_str!("../../data/scenarios/medium.toml")),
    ("code", include_str!("../../data/scenarios/code.toml")),
    ("long", include_str!("../../data/scenarios/long.toml")),
    ("edit", include_str!("../../data/scenarios/edit.toml")),
];

/// The number of default scenarios.
const DEFAULTS: usize = 4;

/// Maximum size of a scenario file in bytes.
const MAX_FILE: u64 = 8 << 20;
/// Maximum output tokens of a scenario.
const MAX_TOKENS: usize = 1 << 20;

impl Scenario {
    /// The four scenarios that are run by default: short, medium, code, long.
    ///
    /// # Panics
    /// Never in a released build: a test parses the embedded files.
    pub fn builtin() -> Vec<Scenario> {
        BUILTIN
            .iter()
            .take(DEFAULTS)
            .map(|(name, text)| Scenario::parse(text, name).expect("an embedded scenario parses"))
            .collect()
    }

    /// Finds a scenario: a built-in one by name, otherwise a path to a `.toml` file.
    ///
    /// # Errors
    /// If it is neither, or the file is refused.
    pub fn find(name_or_path: &str) -> Result<Scenario, BenchError> {
        if let Some((name, text)) = BUILTIN.iter().find(|(name, _)| *name == name_or_path) {
            return Scenario::parse(text, name);
        }
        let path = Path::new(name_or_path);
        if path.extension().is_some_and(|e| e == "toml") || path.is_file() {
            return Scenario::load(path);
        }
        let known = BUILTIN.map(|(name, _)| name).join(", ");
        Err(BenchError::Scenario {
            name: name_or_path.into(),
            why: format!("there is no such scenario; expected one of {known}, or a path to a .toml file"),
        })
    }

    /// Reads a scenario file.
    ///
    /// # Errors
    /// If it can't be read, is too large, isn't TOML, has unknown or missing keys, or invalid values.
    pub fn load(path: &Path) -> Result<Scenario, BenchError> {
        let refuse = |why: String| BenchError::Scenario { name: path.display().to_string(), why };
        let size = std::fs::metadata(path).map_err(|e| refuse(e.to_string()))?.len();
        if size > MAX_FILE {
            return Err(refuse(format!("{size} bytes; a scenario file has at most {MAX_FILE}")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
        Scenario::parse(&text, &path.display().to_string())
    }

    /// Parses a scenario; `source` names it in errors.
    ///
    /// # Errors
    /// As [`Scenario::load`].
    pub fn parse(text: &str, source: &str) -> Result<Scenario, BenchError> {
        let refuse = |why: String| BenchError::Scenario { name: source.into(), why };
        let scenario: Scenario = toml::from_str(text).map_err(|e| refuse(e.to_string().trim().to_owned()))?;
        scenario.check().map_err(refuse)?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if self.name.is_empty() || self.name.len() > 32 || !self.name.chars().all(plain) {
            return Err(format!(
                "name {:?}: expected 1 to 32 lower-case letters, digits, - or _",
                self.name.chars().take(40).collect::<String>()
            ));
        }
        for (key, text, most) in [("title", &self.title, 200), ("description", &self.description, 2000)] {
            if text.trim().is_empty() || text.len() > most {
                return Err(format!("{key}: expected 1 to {most} bytes of text, found {}", text.len()));
            }
        }
        if self.prompt.trim().is_empty() {
            return Err("prompt: expected some text, found none".into());
        }
        for (key, n) in
            [("max_tokens", self.max_tokens), ("nominal_prompt_tokens", self.nominal_prompt_tokens)]
        {
            if !(1..=MAX_TOKENS).contains(&n) {
                return Err(format!("{key}: expected 1 to {MAX_TOKENS}, found {n}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "name='a'\ntitle='A'\ndescription='B'\nprompt='C'\nmax_tokens=3\nnominal_prompt_tokens=5\n";

    #[test]
    fn the_built_in_scenarios_have_the_specified_sizes() {
        let found: Vec<_> = Scenario::builtin().into_iter().map(|s| (s.name, s.max_tokens)).collect();
        let expected = [("short", 20), ("medium", 100), ("code", 150), ("long", 200)];
        assert_eq!(found, expected.map(|(n, t)| (n.to_owned(), t)));
        let edit = Scenario::find("edit").unwrap();
        assert_eq!((edit.name.as_str(), edit.max_tokens), ("edit", 600));
    }

    #[test]
    fn each_error_is_named() {
        let fault = |text: &str| Scenario::parse(text, "x.toml").unwrap_err().to_string();
        assert!(Scenario::parse(GOOD, "x.toml").is_ok());
        for (text, part) in [
            (format!("{GOOD}temperature=1\n"), "unknown field `temperature`"),
            (GOOD.replace("prompt='C'\n", ""), "missing field `prompt`"),
            (GOOD.replace("'C'", "'  '"), "prompt: expected some text"),
            (GOOD.replace("=3", "=0"), "max_tokens: expected 1 to 1048576, found 0"),
            (GOOD.replace("=3", "=99999999"), "found 99999999"),
            (GOOD.replace("=3", "=-4"), "max_tokens"),
            (GOOD.replace("=5", "='five'"), "nominal_prompt_tokens"),
            (GOOD.replace("'a'", "'A b'"), "name \"A b\""),
            (GOOD.replace("'A'", "''"), "title: expected"),
            ("name = ".into(), "line 1"),
        ] {
            let message = fault(&text);
            assert!(message.starts_with("scenario x.toml: "), "{message}");
            assert!(message.contains(part), "{text}\n→ {message}, expected {part}");
        }
    }

    #[test]
    fn an_unknown_name_lists_the_available_ones() {
        let message = Scenario::find("huge").unwrap_err().to_string();
        assert!(message.contains("short, medium, code, long"), "{message}");
        let message = Scenario::find("no/such.toml").unwrap_err().to_string();
        assert!(message.contains("no/such.toml"), "{message}");
    }

    #[test]
    fn a_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        std::fs::write(&path, GOOD).unwrap();
        assert_eq!(Scenario::find(path.to_str().unwrap()).unwrap().name, "a");
    }
}
