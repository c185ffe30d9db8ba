//! The `filters` query parameter: a JSON object of lists, in both shapes clients send (Docker API, "filters").

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// What is wrong with a filters text; wording as the stock daemon's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// Not JSON, or not one of the two shapes.
    #[error("invalid filter")]
    Syntax,
    /// A key this list does not know.
    #[error("invalid filter '{0}'")]
    UnknownKey(String),
    /// A value the key does not take, and why.
    #[error("invalid filter '{key}={value}': {why}")]
    Explained {
        /// The filter's name.
        key: String,
        /// What the client gave.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A value the key does not take.
    #[error("invalid filter '{key}={value}'")]
    Value {
        /// The filter's name.
        key: String,
        /// What the client gave.
        value: String,
    },
}

/// Parsed filters: values of one key are alternatives, keys must all hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    /// As [`Filters::parse`], with keys nobody knows passed over: where the stock daemon does not look.
    pub fn parse_any(text: &str) -> Result<Self, InvalidFilter> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Ok(Value::Object(object)) = serde_json::from_str(text) else { return Err(InvalidFilter::Syntax) };
        object.into_iter().map(|(key, values)| Ok((key, values_of(values)?))).collect::<Result<_, _>>().map(Self)
    }

    /// Parses `{"key":["value"]}` or `{"key":{"value":true}}`; the empty text is no filter. Keys outside `known` are refused.
    pub fn parse(text: &str, known: &[&str]) -> Result<Self, InvalidFilter> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let value: Value = serde_json::from_str(text).map_err(|_| InvalidFilter::Syntax)?;
        let Value::Object(object) = value else { return Err(InvalidFilter::Syntax) };
        let mut out = BTreeMap::new();
        for (key, values) in object {
            if !known.contains(&&*key) {
                return Err(InvalidFilter::UnknownKey(key));
            }
            out.insert(key, values_of(values)?);
        }
        Ok(Self(out))
    }

    /// Whether nothing is filtered.
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }

    /// The values given for `key`, possibly none.
    pub fn values(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Whether `key` was given with at least one value.
    pub fn has(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// True when `key` is absent or one of its values satisfies `matches`.
    pub fn any(&self, key: &str, matches: impl FnMut(&str) -> bool) -> bool {
        !self.has(key) || self.values(key).any(matches)
    }

    /// True when every value of `key` satisfies `matches` (the rule for labels).
    pub fn all(&self, key: &str, matches: impl FnMut(&str) -> bool) -> bool {
        self.values(key).all(matches)
    }

    /// True when every `label` value, `k` or `k=v`, holds for `labels` and no `label!` value does.
    pub fn labels_match(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds = |wanted: &str| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        };
        self.all("label", holds) && self.all("label!", |wanted| !holds(wanted))
    }

    /// A key that takes one boolean: `None` when absent.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>, InvalidFilter> {
        let Some(value) = self.values(key).next() else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            "1" | "t" | "true" => Ok(Some(true)),
            "0" | "f" | "false" => Ok(Some(false)),
            _ => {
                // Stock shows all values, the way Go prints a list.
                let all: Vec<&str> = self.values(key).collect();
                Err(InvalidFilter::Value { key: key.to_owned(), value: format!("[{}]", all.join(" ")) })
            }
        }
    }

    /// Adds a value, for callers that build filters themselves.
    pub fn insert(&mut self, key: &str, value: &str) {
        self.0.entry(key.to_owned()).or_default().insert(value.to_owned());
    }
}

fn values_of(values: Value) -> Result<BTreeSet<String>, InvalidFilter> {
    match values {
        Value::Array(list) => {
            list.into_iter().map(|v| v.as_str().map(str::to_owned).ok_or(InvalidFilter::Syntax)).collect()
        }
        Value::Object(set) => set
            .into_iter()
            .filter_map(|(value, on)| match on {
                Value::Bool(true) => Some(Ok(value)),
                Value::Bool(false) => None,
                _ => Some(Err(InvalidFilter::Syntax)),
            })
            .collect(),
        Value::Null => Ok(BTreeSet::new()),
        _ => Err(InvalidFilter::Syntax),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes() {
        for text in [r#"{"label":["a=b","c"]}"#, r#"{"label":{"a=b":true,"c":true,"d":false}}"#] {
            let filters = Filters::parse(text, &["label"]).expect(text);
            assert_eq!(filters.values("label").collect::<Vec<_>>(), ["a=b", "c"]);
        }
        assert_eq!(Filters::parse(r#"{"x":["y"]}"#, &["label"]), Err(InvalidFilter::UnknownKey("x".to_owned())));
        for bad in ["[]", "{", r#"{"label":1}"#, r#"{"label":[1]}"#] {
            assert_eq!(Filters::parse(bad, &["label"]), Err(InvalidFilter::Syntax), "{bad}");
        }
    }

    #[test]
    fn labels_are_anded() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let check = |text: &str| Filters::parse(text, &["label", "label!"]).expect(text).labels_match(&labels);
        assert!(check(r#"{"label":["a"]}"#) && check(r#"{"label":["a=b"]}"#) && check("{}"));
        assert!(!check(r#"{"label":["a","z"]}"#) && !check(r#"{"label!":["a"]}"#));
    }
}
