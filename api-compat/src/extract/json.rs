//! JSON bodies as Go's decoder reads them: member names in any case, `null` for everything, unknown members ignored,
//! the last of equal members counts, whole numbers only.

use std::collections::BTreeMap;

use dockerd_types::go_json;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// One JSON object of a request, and where in it this object stands, for messages.
#[derive(Debug, Clone, Default)]
pub(crate) struct Object {
    members: Map<String, Value>,
    path: String,
    missing: bool,
}

/// What a body is decoded into, as Go's messages name it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// `volume.CreateOptions`.
    pub(crate) name: &'static str,
    /// What members are members of: `CreateOptions`, or nothing.
    pub(crate) members_of: &'static str,
}

impl Target {
    /// Where nothing better is known.
    pub(crate) const ANY: Self = Self { name: "map[string]interface {}", members_of: "" };
}

type Result<T> = std::result::Result<T, ApiError>;

fn invalid(what: &str) -> ApiError {
    ApiError::bad_request(format!("invalid JSON: {what}"))
}

impl Object {
    /// Parses a body; an empty one and `null` are the empty object. Data after the value is refused.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn parse(body: &[u8]) -> Result<Self> {
        Self::parse_into(body, Target::ANY)
    }

    /// As [`Object::parse`], with the names of what it is decoded into.
    pub(crate) fn parse_into(body: &[u8], target: Target) -> Result<Self> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self { path: target.members_of.to_owned(), missing: true, ..Self::default() });
        }
        let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
        let value = match values.next() {
            Some(Ok(value)) => value,
            Some(Err(error)) => {
                // The stock daemon decodes a stream, whose end is told in other words.
                let why = go_json::syntax_error(body).map_or_else(
                    || error.to_string(),
                    |why| {
                        if why == "unexpected end of JSON input" { "unexpected EOF".to_owned() } else { why }
                    },
                );
                return Err(invalid(&why));
            }
            None => return Err(invalid("EOF")),
        };
        if !body[values.byte_offset()..].iter().all(u8::is_ascii_whitespace) {
            return Err(ApiError::bad_request("unexpected content after JSON"));
        }
        match value {
            Value::Object(members) => Ok(Self { members, path: target.members_of.to_owned(), missing: false }),
            Value::Null => Ok(Self { path: target.members_of.to_owned(), ..Self::default() }),
            other => {
                let (kind, name) = (go_json::kind(&other), target.name);
                Err(invalid(&format!("json: cannot unmarshal {kind} into Go value of type {name}")))
            }
        }
    }

    fn wrong(&self, name: &str, value: &Value, want: &str) -> ApiError {
        let kind = match value {
            // A number of the right kind that does not fit is shown.
            Value::Number(number) if want.contains("int") => format!("number {number}"),
            other => go_json::kind(other).to_owned(),
        };
        let path = &self.path;
        invalid(&format!("json: cannot unmarshal {kind} into Go struct field {path}.{name} of type {want}"))
    }

    fn below(&self, name: &str, value: &Value, want: &str) -> Result<Self> {
        let path = format!("{}.{name}", self.path);
        match value {
            Value::Object(members) => Ok(Self { members: members.clone(), path, missing: false }),
            Value::Null => Ok(Self { path, ..Self::default() }),
            other => Err(self.wrong(name, other, want)),
        }
    }

    /// The member of that name, in any case; `null` counts as missing.
    fn get(&self, name: &str) -> Option<&Value> {
        let exact = self.members.get(name);
        let found =
            exact.or_else(|| self.members.iter().rev().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v));
        found.filter(|value| !value.is_null())
    }

    /// Whether there was no body at all.
    pub(crate) fn is_missing(&self) -> bool {
        self.missing
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn text(&self, name: &str) -> Result<String> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(self.wrong(name, other, "string")),
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
            Some(other) => Err(self.wrong(name, other, "bool")),
        }
    }

    pub(crate) fn number<T: TryFrom<i64> + Default>(&self, name: &str) -> Result<T> {
        Ok(self.optional_number(name)?.unwrap_or_default())
    }

    pub(crate) fn optional_number<T: TryFrom<i64>>(&self, name: &str) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let want = match std::any::type_name::<T>() {
            "i32" | "isize" => "int",
            "u16" => "uint16",
            "u64" => "uint64",
            _ => "int64",
        };
        let number = value.as_i64().ok_or_else(|| self.wrong(name, value, want))?;
        T::try_from(number).map(Some).map_err(|_| self.wrong(name, value, want))
    }

    /// A list of texts; missing is empty.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.optional_texts(name)?.unwrap_or_default())
    }

    /// A list of texts; `None` when missing or null.
    pub(crate) fn optional_texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(list)) => {
                let text = |(place, value): (usize, &Value)| match value {
                    Value::String(text) => Ok(text.clone()),
                    Value::Null => Ok(String::new()),
                    other => {
                        let (kind, path) = (go_json::kind(other), &self.path);
                        let place = format!("{path}.{name}.{place}");
                        Err(invalid(&format!("json: cannot unmarshal {kind} into {place} of type string")))
                    }
                };
                list.iter().enumerate().map(text).collect::<Result<_>>().map(Some)
            }
            Some(other) => Err(self.wrong(name, other, "[]string")),
        }
    }

    /// As [`Object::optional_texts`], where a single text stands for a list of one.
    pub(crate) fn text_or_texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        match self.get(name) {
            Some(Value::String(text)) => Ok(Some(vec![text.clone()])),
            None | Some(Value::Array(_)) => self.optional_texts(name),
            Some(other) => {
                let kind = go_json::kind(other);
                Err(invalid(&format!("json: cannot unmarshal {kind} into Go value of type string")))
            }
        }
    }

    /// An object of texts.
    pub(crate) fn map(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let Some(value) = self.get(name) else { return Ok(BTreeMap::new()) };
        let inner = self.below(name, value, "map[string]string")?;
        let text = |(key, value): (&String, &Value)| match value {
            Value::Null => Ok((key.clone(), String::new())),
            Value::String(text) => Ok((key.clone(), text.clone())),
            other => Err(inner.wrong(key, other, "string")),
        };
        inner.members.iter().map(text).collect()
    }

    /// An object; missing is empty.
    pub(crate) fn object(&self, name: &str) -> Result<Self> {
        let missing = || Self { path: format!("{}.{name}", self.path), ..Self::default() };
        self.get(name).map_or_else(|| Ok(missing()), |value| self.below(name, value, go_type(name)))
    }

    /// A list of objects.
    pub(crate) fn objects(&self, name: &str) -> Result<Vec<Self>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                let item = |(place, value)| self.below(&format!("{name}.{place}"), value, go_type(name));
                list.iter().enumerate().map(item).collect()
            }
            Some(other) => Err(self.wrong(name, other, &format!("[]{}", go_type(name)))),
        }
    }

    /// A list of lists of texts.
    pub(crate) fn lists(&self, name: &str) -> Result<Vec<Vec<String>>> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(value) => serde_json::from_value(value.clone()).map_err(|_| self.wrong(name, value, "[][]string")),
        }
    }

    /// Two numbers, height and width.
    pub(crate) fn pair(&self, name: &str) -> Result<(u16, u16)> {
        match self.get(name) {
            None => Ok((0, 0)),
            Some(value) => serde_json::from_value(value.clone()).map_err(|_| self.wrong(name, value, "[2]uint")),
        }
    }

    /// The member names.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &String> {
        self.members.keys()
    }

    /// The members that are objects or null, in order.
    pub(crate) fn entries(&self) -> Result<Vec<(String, Self)>> {
        self.members.iter().map(|(key, value)| Ok((key.clone(), self.below(key, value, go_type(key))?))).collect()
    }
}

/// Go's name for the type of an object, where the stock daemon's messages show one.
fn go_type(name: &str) -> &'static str {
    match name {
        "HostConfig" => "container.HostConfig",
        "NetworkingConfig" => "network.NetworkingConfig",
        "EndpointsConfig" => "map[string]*network.EndpointSettings",
        "ExposedPorts" => "nat.PortSet",
        "Volumes" => "map[string]struct {}",
        "PortBindings" => "nat.PortMap",
        "RestartPolicy" => "container.RestartPolicy",
        "LogConfig" => "container.LogConfig",
        "Healthcheck" => "container.HealthConfig",
        "Mounts" => "mount.Mount",
        "Devices" => "container.DeviceMapping",
        "Ulimits" => "*container.Ulimit",
        _ => "map[string]interface {}",
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

    #[test]
    fn mistakes_are_told_in_the_words_of_gos_decoder() {
        let create = Target { name: "container.CreateRequest", members_of: "" };
        let volume = Target { name: "volume.CreateOptions", members_of: "CreateOptions" };
        let text = |error: ApiError| error.message;
        for (body, expected) in [
            ("{", "invalid JSON: unexpected EOF"),
            ("nope", "invalid JSON: invalid character 'o' in literal null (expecting 'u')"),
            (r#"{"a":1} x"#, "unexpected content after JSON"),
            ("[]", "invalid JSON: json: cannot unmarshal array into Go value of type container.CreateRequest"),
        ] {
            assert_eq!(Object::parse_into(body.as_bytes(), create).map_err(text).expect_err("refused"), expected);
        }
        let field = "invalid JSON: json: cannot unmarshal";
        let body = br#"{"Image":5,"HostConfig":{"Memory":1.5,"Binds":[5],"Sysctls":{"a":5}},"Cmd":{},"Labels":5}"#;
        let object = Object::parse_into(body, create).expect("parsed");
        let host = object.object("HostConfig").expect("an object");
        assert_eq!(
            object.text("Image").map_err(text),
            Err(format!("{field} number into Go struct field .Image of type string"))
        );
        assert_eq!(
            host.number::<i64>("Memory").map_err(text),
            Err(format!("{field} number 1.5 into Go struct field .HostConfig.Memory of type int64"))
        );
        assert_eq!(
            host.texts("Binds").map_err(text),
            Err(format!("{field} number into .HostConfig.Binds.0 of type string"))
        );
        assert_eq!(
            host.map("Sysctls").map_err(text),
            Err(format!("{field} number into Go struct field .HostConfig.Sysctls.a of type string"))
        );
        assert_eq!(
            object.text_or_texts("Cmd").map_err(text),
            Err(format!("{field} object into Go value of type string"))
        );
        let object = Object::parse_into(body, volume).expect("parsed");
        assert_eq!(
            object.map("Labels").map_err(text),
            Err(format!("{field} number into Go struct field CreateOptions.Labels of type map[string]string"))
        );
    }
}
