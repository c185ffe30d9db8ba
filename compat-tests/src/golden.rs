//! Comparing what a daemon answers with what stock answered: golden files in `golden/`, recorded from the stock daemon by
//! `COMPAT_BLESS=1 cargo xtask compat --against stock` and held against every daemon since.
//!
//! Before comparing, what differs from run to run is replaced: ids, names, times by their names; see [`Golden`].

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};

use crate::case::Case;
use crate::expected::Expected;

/// Where an answer names the storage driver.
const STORAGE: [&str; 2] = ["Driver", "GraphDriver.Name"];
/// Storage drivers.
pub const DRIVERS: [&str; 5] = ["overlay2", "overlayfs", "erofs", "composefs", "vfs"];

/// How to make two runs comparable.
#[derive(Debug, Default)]
pub struct Golden<'a> {
    /// Texts and what stands for them, in this order: ids, names.
    pub replace: Vec<(String, &'a str)>,
    /// Paths whose value differs from run to run and machine to machine; only its type is compared.
    pub volatile: &'a [&'a str],
}

impl<'a> Golden<'a> {
    /// Replaces this test's names, its image, and all ids.
    pub fn new(case: &Case<'_>) -> Self {
        let replace = vec![(case.image().to_owned(), "<image>"), (case.prefix().to_owned(), "<test>")];
        Self { replace, volatile: &[] }
    }

    /// Replaces `from` too, before everything else.
    #[must_use]
    pub fn replacing(mut self, from: &str, to: &'a str) -> Self {
        self.replace.insert(0, (from.to_owned(), to));
        self
    }

    /// Compares only the types of what is at these paths.
    #[must_use]
    pub fn volatile(mut self, paths: &'a [&'a str]) -> Self {
        self.volatile = paths;
        self
    }

    /// Compares what CLI commands print and how they end with the golden file `name`. `{x}` in a command stands for this
    /// test's container `x`, `{image}` for its image, `{cgroup}` for a control group of its own.
    pub fn check_commands(&self, case: &Case<'_>, name: &str, commands: &[&str]) -> Result<()> {
        let mut all = Map::new();
        for command in commands {
            let words: Vec<String> = words(case, command);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let ran = case.docker(&words);
            let lines = |text: &str| Value::from_iter(text.lines().map(|line| line.trim_end().to_owned()));
            let value = json!({"out": lines(&ran.out), "err": lines(&ran.err), "code": ran.code});
            ensure!(all.insert((*command).to_owned(), value).is_none(), "{command:?} stands there twice");
        }
        self.check(case, name, &Value::Object(all))
    }

    /// Compares JSON with the golden file `name`.
    pub fn check(&self, case: &Case<'_>, name: &str, value: &Value) -> Result<()> {
        let value = self.normal("", value);
        let file = path(name, "json");
        if bless(case) {
            fs::write(file, serde_json::to_string_pretty(&value)? + "\n")?;
            return Ok(());
        }
        let golden: Value = serde_json::from_str(&read(&file, name)?)?;
        let mut differences = Vec::new();
        compare("", &golden, &value, &mut differences);
        report(case, name, differences)
    }

    /// Compares text, line by line, with the golden file `name`.
    pub fn check_text(&self, case: &Case<'_>, name: &str, text: &str) -> Result<()> {
        let text = self.replaced(text);
        let file = path(name, "txt");
        if bless(case) {
            fs::write(file, text + "\n")?;
            return Ok(());
        }
        let golden = read(&file, name)?;
        let (golden, text): (Vec<&str>, Vec<&str>) = (golden.lines().collect(), text.lines().collect());
        let missing = golden.iter().filter(|line| !text.contains(line));
        let more = text.iter().filter(|line| !golden.contains(line));
        let missing = missing.map(|line| (format!("- {line}"), "missing".to_owned()));
        let mut differences: Vec<_> = missing.chain(more.map(|line| (format!("+ {line}"), "new".to_owned()))).collect();
        if differences.is_empty() && golden != text {
            differences.push(("order".to_owned(), "lines are in another order".to_owned()));
        }
        report(case, name, differences)
    }

    fn replaced(&self, text: &str) -> String {
        let text = self.replace.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        without_ids(&text)
    }

    fn normal(&self, path: &str, value: &Value) -> Value {
        if self.volatile.contains(&path) {
            return Value::String(format!("<{}>", kind(value)));
        }
        match value {
            // Which driver keeps the layers is a daemon's own affair.
            Value::String(text) if STORAGE.contains(&path) && DRIVERS.contains(&text.as_str()) => {
                Value::String("<storage driver>".to_owned())
            }
            Value::String(text) => Value::String(self.replaced(text)),
            Value::Array(list) => list.iter().map(|item| self.normal(&format!("{path}[]"), item)).collect(),
            Value::Object(object) => {
                let entries = object.iter().map(|(key, value)| {
                    let key = self.replaced(key);
                    let value = self.normal(&join(path, &key), value);
                    (key, value)
                });
                Value::Object(entries.collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }
}

/// The words of a command: split at spaces, `'...'` kept together.
fn words(case: &Case<'_>, command: &str) -> Vec<String> {
    let quoted = command.split('\'').enumerate();
    let words = quoted.flat_map(|(index, part)| {
        let words: Vec<&str> = if index % 2 == 1 { vec![part] } else { part.split_whitespace().collect() };
        words
    });
    let named = |word: &str| {
        let word = word.replace("{image}", case.image());
        if word == "{cgroup}" {
            return case.cgroup("parent");
        }
        match (word.find('{'), word.find('}')) {
            // `{{...}}` is a format, not a name.
            (Some(open), Some(close)) if !word.contains("{{") && open < close => {
                let name = case.container(&word[open + 1..close]);
                format!("{}{name}{}", &word[..open], &word[close + 1..])
            }
            _ => word,
        }
    };
    words.map(named).collect()
}

/// Ids by `<id>`, short ids by `<short id>`.
fn without_ids(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphanumeric()) {
        let word = &rest[start..];
        let end = word.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(word.len());
        let (word, hex) = (&word[..end], word[..end].bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)));
        out.push_str(&rest[..start]);
        out.push_str(match word.len() {
            64 if hex => "<id>",
            // The first twelve digits of an id are never all decimal.
            12 if hex && word.bytes().any(|c| c.is_ascii_lowercase()) => "<short id>",
            _ => word,
        });
        rest = &rest[start + end..];
    }
    out + rest
}

/// Every path at which `ours` is not as `golden`.
pub fn compare(path: &str, golden: &Value, ours: &Value, out: &mut Vec<(String, String)>) {
    match (golden, ours) {
        (Value::Object(golden), Value::Object(ours)) => {
            for (key, value) in golden {
                match ours.get(key) {
                    Some(other) => compare(&join(path, key), value, other, out),
                    None => out.push((join(path, key), format!("missing, golden has {value}"))),
                }
            }
            for (key, value) in ours.iter().filter(|(key, _)| !golden.contains_key(*key)) {
                out.push((join(path, key), format!("golden has none, this has {value}")));
            }
        }
        (Value::Array(golden), Value::Array(ours)) if golden.len() == ours.len() => {
            for (index, (golden, ours)) in golden.iter().zip(ours).enumerate() {
                compare(&format!("{path}[{index}]"), golden, ours, out);
            }
        }
        (golden, ours) if golden == ours => {}
        (golden, ours) => out.push((path.to_owned(), format!("golden has {golden}, this has {ours}"))),
    }
}

fn report(case: &Case<'_>, name: &str, mut differences: Vec<(String, String)>) -> Result<()> {
    if case.is_ours() {
        let expected = Expected::load()?;
        differences.retain(|(path, _)| !expected.difference(name, path));
        let stale = expected.out_of_date(name).into_iter();
        differences.extend(stale.map(|path| (path, "expected to differ and does not".to_owned())));
    }
    let list: Vec<String> = differences.iter().map(|(path, what)| format!("{path}: {what}")).collect();
    ensure!(list.is_empty(), "golden/{name}:\n  {}", list.join("\n  "));
    Ok(())
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(text) if text.is_empty() => "empty string",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn bless(case: &Case<'_>) -> bool {
    !case.is_ours() && std::env::var_os("COMPAT_BLESS").is_some()
}

fn path(name: &str, extension: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.{extension}"))
}

fn read(file: &Path, name: &str) -> Result<String> {
    fs::read_to_string(file).map_err(|error| anyhow::anyhow!("golden/{name}: {error}; record it from the stock daemon"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finds_what_differs_and_nothing_else() {
        let mut out = Vec::new();
        let golden = json!({"a": 1, "b": [1, {"c": null}], "d": "x"});
        compare("", &golden, &golden, &mut out);
        assert!(out.is_empty());
        compare("", &golden, &json!({"a": 2, "b": [1, {"c": []}], "e": 1}), &mut out);
        let paths: Vec<&str> = out.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["a", "b[1].c", "d", "e"]);
    }

    #[test]
    fn ids_are_told_from_other_words() {
        let id = "0123456789abcdef".repeat(4);
        let text = format!("/x/{id}/y {} deadbeef 123456789012", &id[..12]);
        assert_eq!(without_ids(&text), "/x/<id>/y <short id> deadbeef 123456789012");
    }

    #[test]
    fn replaces_ids_and_hides_volatile_values() {
        let golden = Golden { replace: vec![("abc".to_owned(), "<id>")], volatile: &["t", "l[].t"] };
        let value = golden.normal("", &json!({"id": "/x/abc/y", "t": 5, "l": [{"t": ""}], "abc": null}));
        assert_eq!(value, json!({"id": "/x/<id>/y", "t": "<number>", "l": [{"t": "<empty string>"}], "<id>": null}));
    }
}
