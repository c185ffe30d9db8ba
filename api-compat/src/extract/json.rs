//! JSON bodies as Go's decoder reads them: member names in any case, `null` for everything, unknown members ignored,
//! the last of equal members counts, whole numbers only.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// One JSON object of a request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Object(Map<String, Value>);

type Result<T> = std::result::Result<T, ApiError>;

fn wrong(name: &str, want: &str) -> ApiError {
    ApiError::bad_request(format!("invalid JSON: cannot unmarshal field {name} into {want}"))
}

impl Object {
    /// Parses a body; an empty one and `null` are the empty object. Data after the value is refused.
    pub(crate) fn parse(body: &[u8]) -> Result<Self> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        let value: Value =
            serde_json::from_slice(body).map_err(|error| ApiError::bad_request(format!("invalid JSON: {error}")))?;
        Self::of("body", value)
    }

    fn of(name: &str, value: Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(Self(map)),
            Value::Null => Ok(Self::default()),
            _ => Err(wrong(name, "object")),
        }
    }

    /// The member of that name, in any case; `null` counts as missing.
    fn get(&self, name: &str) -> Option<&Value> {
        let exact = self.0.get(name);
        let found = exact.or_else(|| self.0.iter().rev().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v));
        found.filter(|value| !value.is_null())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn text(&self, name: &str) -> Result<String> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(wrong(name, "string")),
        }
    }

    /// A text that may be missing.
    pub(crate) fn optional_text(&self, name: &str) -> Result<Option<String>> {
        if self.has(name) { self.text(name).map(Some) } else { Ok(None) }
    }

    pub(crate) fn flag(&self, name: &str) -> Result<bool> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    pub(crate) fn optional_flag(&self, name: &str) -> Result<Option<bool>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(wrong(name, "bool")),
        }
    }

    pub(crate) fn number<T: TryFrom<i64> + Default>(&self, name: &str) -> Result<T> {
        Ok(self.optional_number(name)?.unwrap_or_default())
    }

    pub(crate) fn optional_number<T: TryFrom<i64>>(&self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_i64().ok_or_else(|| wrong(name, "int64"))?;
        T::try_from(number).map(Some).map_err(|_| wrong(name, "int64"))
    }

    /// A list of texts; missing is empty.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.optional_texts(name)?.unwrap_or_default())
    }

    /// A list of texts; `None` when missing or null.
    pub(crate) fn optional_texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) => list
                .iter()
                .map(|v| v.as_str().map(str::to_owned).ok_or_else(|| wrong(name, "string")))
                .collect::<Result<_>>()
                .map(Some),
            Some(_) => Err(wrong(name, "[]string")),
        }
    }

    /// As [`Object::optional_texts`], where a single text stands for a list of one.
    pub(crate) fn text_or_texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        match self.get(name) {
            Some(Value::String(text)) => Ok(Some(vec![text.clone()])),
            _ => self.optional_texts(name),
        }
    }

    /// An object of texts.
    pub(crate) fn map(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let text = |value: &Value| match value {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text.clone()),
            _ => Err(wrong(name, "string")),
        };
        self.object(name)?.0.iter().map(|(key, value)| Ok((key.clone(), text(value)?))).collect()
    }

    /// An object; missing is empty.
    pub(crate) fn object(&self, name: &str) -> Result<Self> {
        self.get(name).map_or_else(|| Ok(Self::default()), |value| Self::of(name, value.clone()))
    }

    /// A list of objects.
    pub(crate) fn objects(&self, name: &str) -> Result<Vec<Self>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(|value| Self::of(name, value.clone())).collect(),
            Some(_) => Err(wrong(name, "[]object")),
        }
    }

    /// A list of lists of texts.
    pub(crate) fn lists(&self, name: &str) -> Result<Vec<Vec<String>>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(value) => serde_json::from_value(value.clone()).map_err(|_| wrong(name, "[][]string")),
        }
    }

    /// Two numbers, height and width.
    pub(crate) fn pair(&self, name: &str) -> Result<(u16, u16)> {
        match self.get(name) {
            None => Ok((0, 0)),
            Some(value) => serde_json::from_value(value.clone()).map_err(|_| wrong(name, "[2]uint")),
        }
    }

    /// The member names.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// The members that are objects or null, in order.
    pub(crate) fn entries(&self) -> Result<Vec<(String, Self)>> {
        self.0.iter().map(|(key, value)| Ok((key.clone(), Self::of(key, value.clone())?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_leniency() {
        let object = Object::parse(br#"{"image":"x","Cmd":"sh","tty":null,"extra":[1],"Memory":5}"#).expect("parsed");
        assert_eq!(object.text("Image").ok().as_deref(), Some("x"));
        assert_eq!(object.text_or_texts("Cmd").ok().flatten(), Some(vec!["sh".to_owned()]));
        assert_eq!((object.flag("Tty").ok(), object.number::<i64>("Memory").ok()), (Some(false), Some(5)));
        assert!(Object::parse(b"{} x").is_err() && Object::parse(b"[]").is_err());
        assert!(Object::parse(br#"{"Memory":1.5}"#).and_then(|o| o.number::<i64>("Memory")).is_err());
    }
}
