//! JSON that a plugin answered, read as Go's decoder reads it: names in any case, `null` for everything, the rest
//! ignored; what does not fit is told in its words.

use std::collections::BTreeMap;

use dockerd_types::go_json;
use serde_json::{Map, Value};

use super::PluginError;

/// One object of an answer, and where in it this object stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    members: Map<String, Value>,
    path: String,
}

type Result<T> = std::result::Result<T, PluginError>;

impl Answer {
    /// The first value of `body`; `target` is the name of what it is read into.
    pub(crate) fn parse(body: &[u8], target: &str) -> Result<Self> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(PluginError::Answer("EOF".to_owned()));
        }
        let first = serde_json::Deserializer::from_slice(body).into_iter::<Value>().next();
        match first.unwrap_or(Ok(Value::Null)) {
            Ok(Value::Object(members)) => Ok(Self { members, path: String::new() }),
            Ok(Value::Null) => Ok(Self::default()),
            Ok(other) => {
                let kind = go_json::kind(&other);
                Err(PluginError::Answer(format!("json: cannot unmarshal {kind} into Go value of type {target}")))
            }
            Err(error) => {
                let why = go_json::syntax_error(body).unwrap_or_else(|| error.to_string());
                let ended = why == "unexpected end of JSON input";
                Err(PluginError::Answer(if ended { "unexpected EOF".to_owned() } else { why }))
            }
        }
    }

    /// The same, whose members are told of as those of `name`.
    pub(crate) fn named(self, name: &str) -> Self {
        Self { path: name.to_owned(), ..self }
    }

    /// Fails if the member of that name says why the plugin did not do it.
    pub(crate) fn refused(&self, name: &str) -> Result<()> {
        let why = self.text(name)?;
        if why.is_empty() { Ok(()) } else { Err(PluginError::Refused(why)) }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        let exact = self.members.get(name);
        let folded = || self.members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        exact.or_else(folded).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, value: &Value, want: &str) -> PluginError {
        let kind = go_json::kind(value);
        let path = &self.path;
        PluginError::Answer(format!("json: cannot unmarshal {kind} into Go struct field {path}.{name} of type {want}"))
    }

    /// A text; empty where there is none.
    pub(crate) fn text(&self, name: &str) -> Result<String> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(self.wrong(name, other, "string")),
        }
    }

    /// A switch; off where there is none.
    pub(crate) fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong(name, other, "bool")),
        }
    }

    /// A whole number; 0 where there is none.
    pub(crate) fn number(&self, name: &str) -> Result<i64> {
        match self.get(name) {
            None => Ok(0),
            Some(value) => value.as_i64().ok_or_else(|| self.wrong(name, value, "int")),
        }
    }

    /// An object within.
    pub(crate) fn object(&self, name: &str, target: &str) -> Result<Option<Self>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(members)) => {
                Ok(Some(Self { members: members.clone(), path: format!("{}.{name}", self.path) }))
            }
            Some(other) => Err(self.wrong(name, other, target)),
        }
    }

    /// A list of objects; missing is empty.
    pub(crate) fn objects(&self, name: &str, target: &str) -> Result<Vec<Self>> {
        let list = self.list(name, &format!("[]{target}"))?;
        let object = |value: &Value| match value {
            Value::Object(members) => Ok(Self { members: members.clone(), path: format!("{}.{name}", self.path) }),
            Value::Null => Ok(Self { members: Map::new(), path: format!("{}.{name}", self.path) }),
            other => Err(self.wrong(name, other, target)),
        };
        list.iter().map(object).collect()
    }

    /// A list of texts; missing is empty.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>> {
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Null => Ok(String::new()),
            other => Err(self.wrong(name, other, "string")),
        };
        self.list(name, "[]string")?.iter().map(text).collect()
    }

    /// Texts by name; missing is empty.
    pub(crate) fn named_texts(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let want = "map[string]string";
        let members = match self.get(name) {
            None => return Ok(BTreeMap::new()),
            Some(Value::Object(members)) => members,
            Some(other) => return Err(self.wrong(name, other, want)),
        };
        let text = |(key, value): (&String, &Value)| match value {
            Value::String(text) => Ok((key.clone(), text.clone())),
            Value::Null => Ok((key.clone(), String::new())),
            other => Err(self.wrong(name, other, "string")),
        };
        members.iter().map(text).collect()
    }

    fn list(&self, name: &str, want: &str) -> Result<&[Value]> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(self.wrong(name, other, want)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(body: &str) -> std::result::Result<String, String> {
        let answer = Answer::parse(body.as_bytes(), "api.JoinResponse").map_err(|error| error.to_string())?;
        answer.refused("Err").map_err(|error| error.to_string())?;
        let names = answer.object("InterfaceName", "api.InterfaceName").map_err(|error| error.to_string())?;
        names.map_or(Ok(String::new()), |names| names.text("SrcName")).map_err(|error| error.to_string())
    }

    #[test]
    fn texts_are_the_stock_daemons() {
        for (body, wanted) in [
            ("", "EOF"),
            ("garbage", "invalid character 'g' looking for beginning of value"),
            (r#"{"Err":"#, "unexpected EOF"),
            ("[]", "json: cannot unmarshal array into Go value of type api.JoinResponse"),
            (r#"{"Err":5}"#, "json: cannot unmarshal number into Go struct field .Err of type string"),
            (r#"{"Err":"no"}"#, "remote: no"),
            (
                r#"{"InterfaceName":5}"#,
                "json: cannot unmarshal number into Go struct field .InterfaceName of type api.InterfaceName",
            ),
            (
                r#"{"InterfaceName":{"SrcName":true}}"#,
                "json: cannot unmarshal bool into Go struct field .InterfaceName.SrcName of type string",
            ),
        ] {
            assert_eq!(read(body), Err(wanted.to_owned()), "{body}");
        }
        for body in ["null", "{} trailing", r#"{"Err":null,"other":[1]}"#] {
            assert_eq!(read(body), Ok(String::new()), "{body}");
        }
        assert_eq!(read(r#"{"interfacename":{"SRCNAME":"v0"}}"#), Ok("v0".to_owned()));
    }

    proptest! {
        #[test]
        fn nothing_panics(body: Vec<u8>, text in "[\\[\\]{}\":,a-zE0-9]{0,40}") {
            for body in [body.as_slice(), text.as_bytes()] {
                if let Ok(answer) = Answer::parse(body, "x") {
                    let _ = answer.refused("Err");
                    let _ = answer.objects("e", "y");
                    let _ = answer.texts("r");
                    let _ = answer.named_texts("a");
                }
            }
        }
    }
}
