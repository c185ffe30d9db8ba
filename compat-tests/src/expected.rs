//! What is known not to be right yet: `expected-failures.toml`. A test listed there must fail, and a difference listed
//! there must be found; otherwise the entry is out of date, and that fails too.

use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    #[serde(default)]
    failure: Vec<Failure>,
    #[serde(default)]
    difference: Vec<Difference>,
    /// Differences that were found in this run.
    #[serde(skip)]
    found: Mutex<Vec<(String, String)>>,
}

/// A test that fails against our daemon.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Failure {
    /// `suite::test`.
    test: String,
    /// Why, and what has to happen.
    reason: String,
}

/// A place where our answer differs from the golden one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    /// The golden file.
    golden: String,
    /// Path of the field.
    path: String,
    /// Why, and what has to happen; for the reader.
    #[allow(dead_code, reason = "every entry must have one")]
    reason: String,
}

impl Expected {
    /// Reads the file.
    pub fn load() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("expected-failures.toml");
        let text = std::fs::read_to_string(&path)?;
        toml::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Why `test` is expected to fail, if it is.
    pub fn failure(&self, test: &str) -> Option<&str> {
        self.failure.iter().find(|entry| entry.test == test).map(|entry| entry.reason.as_str())
    }

    /// Whether a difference is known; remembers that it was found.
    pub fn difference(&self, golden: &str, path: &str) -> bool {
        let known = self.difference.iter().any(|entry| entry.golden == golden && entry.path == path);
        if known {
            let mut found = self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            found.push((golden.to_owned(), path.to_owned()));
        }
        known
    }

    /// Paths listed for `golden` that did not differ.
    pub fn out_of_date(&self, golden: &str) -> Vec<String> {
        let found = self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let of_golden = self.difference.iter().filter(|entry| entry.golden == golden);
        let stale = of_golden.filter(|entry| !found.iter().any(|(g, path)| *g == entry.golden && *path == entry.path));
        stale.map(|entry| entry.path.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_listed_and_what_was_not_found() {
        let text = "[[failure]]\ntest = \"a::b\"\nreason = \"r\"\n\
                    [[difference]]\ngolden = \"g\"\npath = \"p\"\nreason = \"r\"\n";
        let expected: Expected = toml::from_str(text).unwrap();
        assert_eq!((expected.failure("a::b"), expected.failure("a::c")), (Some("r"), None));
        assert_eq!(expected.out_of_date("g"), ["p"]);
        assert!(expected.difference("g", "p") && !expected.difference("g", "q"));
        assert!(expected.out_of_date("g").is_empty());
        assert!(toml::from_str::<Expected>("[[failure]]\ntest = \"a\"\n").is_err(), "a reason is required");
    }

    #[test]
    fn the_file_can_be_read() {
        Expected::load().unwrap();
    }
}
