//! Text of a flag to a value in the shape of the configuration file, and values back to text for messages.
//!
//! Pure. The reasons are the stock daemon's, so that people find them.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::flags::Kind;
use crate::hosts;

/// One value of a flag that does not parse.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadValue {
    /// As written.
    pub(crate) value: String,
    /// Why not.
    pub(crate) reason: String,
}

/// Everything written for one flag, as the JSON its configuration key would hold.
pub(crate) fn from_flag(name: &str, kind: Kind, written: &[&str]) -> Result<Value, BadValue> {
    let mut value = Value::Null;
    for text in written {
        value = add(name, kind, value, text).map_err(|reason| BadValue { value: (*text).to_owned(), reason })?;
    }
    Ok(value)
}

fn add(name: &str, kind: Kind, so_far: Value, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Bool => parse_bool(text).map(Value::Bool),
        Kind::Int => parse_int(text),
        Kind::Text | Kind::Any => Ok(text.into()),
        Kind::List => check_listed(name, text).map(|()| push(so_far, text.into())),
        Kind::HostList => hosts::check(text).map(|()| push(so_far, text.trim().into())),
        Kind::LabelList => check_label(text).map(|()| push(so_far, text.into())),
        Kind::DomainList => check_domain(text).map(|()| push(so_far, text.into())),
        Kind::MirrorList => check_mirror(text).map(|()| push(so_far, text.into())),
        Kind::Map => {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            Ok(insert(so_far, key, value.into()))
        }
        Kind::BoolMap => {
            let (key, value) = text.split_once('=').unwrap_or((text, "true"));
            Ok(insert(so_far, key, Value::Bool(parse_bool(value)?)))
        }
        Kind::Runtimes => add_runtime(so_far, text),
        Kind::Ulimits => parse_ulimit(text).map(|(name, value)| insert(so_far, &name, value)),
        Kind::Pools => parse_pool(text).map(|pool| push(so_far, pool)),
        Kind::MapMap => add_nested(so_far, text),
        Kind::Bytes => parse_bytes(text).map(Value::from),
        Kind::Ip => {
            text.parse::<IpAddr>().map(|ip| json!(ip.to_string())).map_err(|_| format!("failed to parse IP: {text:?}"))
        }
        Kind::IpList => text.split(',').try_fold(so_far, |list, one| {
            let ip: IpAddr =
                one.trim().parse().map_err(|_| format!("invalid string being converted to IP address: {one}"))?;
            Ok(push(list, json!(ip.to_string())))
        }),
    }
}

fn push(list: Value, item: Value) -> Value {
    let mut items = match list {
        Value::Array(items) => items,
        _ => Vec::new(),
    };
    items.push(item);
    Value::Array(items)
}

fn insert(map: Value, key: &str, value: Value) -> Value {
    let mut entries = match map {
        Value::Object(entries) => entries,
        _ => Map::new(),
    };
    entries.insert(key.to_owned(), value);
    Value::Object(entries)
}

fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

fn parse_int(text: &str) -> Result<Value, String> {
    let digits = text.trim_start_matches(['-', '+']);
    match text.parse::<i64>() {
        Ok(number) => Ok(number.into()),
        Err(_) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("strconv.ParseInt: parsing {text:?}: value out of range"))
        }
        Err(_) => Err(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")),
    }
}

/// `key=value`, the value may be empty.
pub(crate) fn check_label(text: &str) -> Result<(), String> {
    if text.contains('=') { Ok(()) } else { Err(format!("bad attribute format: {text}")) }
}

/// A search domain, or `.` for none.
pub(crate) fn check_domain(text: &str) -> Result<(), String> {
    let trimmed = text.trim();
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let plain = trimmed.trim_end_matches('.');
    if trimmed == "." || (!plain.is_empty() && plain.split('.').all(label_ok) && plain.len() < 255) {
        Ok(())
    } else {
        Err(format!("{text} is not a valid domain"))
    }
}

pub(crate) fn check_mirror(text: &str) -> Result<(), String> {
    if text.starts_with("https://") || text.starts_with("http://") {
        return Ok(());
    }
    Err(match text.split_once("://") {
        Some((scheme, _)) => {
            format!(
                "invalid mirror: unsupported scheme {scheme:?} in {text:?}: must use either 'https://' or 'http://'"
            )
        }
        None => format!("invalid mirror: no scheme specified for {text:?}: must use either 'https://' or 'http://'"),
    })
}

/// Lists of which the stock daemon looks at each item.
fn check_listed(name: &str, text: &str) -> Result<(), String> {
    match name {
        "insecure-registry" if text.starts_with('-') || text.ends_with('-') => {
            Err(format!("invalid index name ({text}). Cannot begin or end with a hyphen"))
        }
        "node-generic-resource" if !text.contains('=') => {
            Err(format!("invalid node-generic-resource format `{text}` expected `name=value`"))
        }
        "host-gateway-ip" if text.parse::<IpAddr>().is_err() => Err(format!("ParseAddr({text:?}): unable to parse IP")),
        _ => Ok(()),
    }
}

/// An error of the kernel as Go's `os` package words it.
pub(crate) fn go_error(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::IsADirectory => "is a directory".to_owned(),
        ErrorKind::NotADirectory => "not a directory".to_owned(),
        _ => error.to_string(),
    }
}

fn add_runtime(so_far: Value, text: &str) -> Result<Value, String> {
    let (name, path) = text.split_once('=').ok_or_else(|| format!("invalid runtime argument: {text}"))?;
    let (name, path) = (name.trim().to_lowercase(), path.trim());
    if name.is_empty() || path.is_empty() {
        return Err(format!("invalid runtime argument: {text}"));
    }
    if name == "runc" {
        return Err(format!("runtime name '{name}' is reserved"));
    }
    if so_far.get(&name).is_some() {
        return Err(format!("runtime '{name}' was already defined"));
    }
    Ok(insert(so_far, &name, json!({ "path": path })))
}

/// Names of resource limits the daemon takes.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

fn parse_ulimit(text: &str) -> Result<(String, Value), String> {
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number =
        |part: &str| part.parse::<i64>().map_err(|_| format!("strconv.ParseInt: parsing {part:?}: invalid syntax"));
    let (soft, hard) = match limits.split_once(':') {
        Some((_, hard)) if hard.contains(':') => {
            return Err(format!("too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"));
        }
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(limits)?, number(limits)?),
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok((name.to_owned(), json!({ "Name": name, "Soft": soft, "Hard": hard })))
}

fn parse_pool(text: &str) -> Result<Value, String> {
    let mut pool = Map::new();
    for field in text.split(',') {
        let (key, value) =
            field.split_once('=').ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"))?;
        match key {
            "base" => pool.insert("base".to_owned(), value.into()),
            "size" => pool.insert("size".to_owned(), parse_int(value)?),
            other => return Err(format!("unexpected key '{other}' in '{field}'")),
        };
    }
    Ok(Value::Object(pool))
}

fn add_nested(so_far: Value, text: &str) -> Result<Value, String> {
    let bad = || format!("invalid value {text:?} for map option, should be root-key=key=value");
    let (driver, rest) = text.split_once('=').ok_or_else(bad)?;
    let (key, value) = rest.split_once('=').ok_or_else(bad)?;
    let inner = insert(so_far.get(driver).cloned().unwrap_or(Value::Null), key, value.into());
    Ok(insert(so_far, driver, inner))
}

/// A size in bytes with the usual binary suffixes.
pub(crate) fn parse_bytes(text: &str) -> Result<i64, String> {
    let bad = || format!("invalid size: '{text}'");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let number: f64 = lower[..digits].parse().map_err(|_| bad())?;
    let unit = lower[digits..].trim().trim_end_matches('b').trim_end_matches('i');
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(format!("invalid suffix: '{}'", lower[digits..].trim())),
    };
    #[expect(clippy::cast_possible_truncation, reason = "sizes above 2^53 bytes have no meaning here")]
    Ok((number * (1_i64 << shift) as f64) as i64)
}

/// A value as Go's `%v` shows it, for the text about settings written twice.
pub(crate) fn go_format(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_format).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let entries: Vec<_> = map.iter().map(|(k, v)| format!("{k}:{}", go_format(v))).collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [("64m", 64 << 20), ("64MiB", 64 << 20), ("1.5k", 1536), ("0", 0), ("2GB", 2 << 30)] {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
        assert_eq!(parse_bytes("1x"), Err("invalid suffix: 'x'".to_owned()));
        assert_eq!(parse_bytes("x"), Err("invalid size: 'x'".to_owned()));
    }

    #[test]
    fn collects_repeated_flags() {
        assert_eq!(
            from_flag("", Kind::MapMap, &["bridge=a=1", "bridge=b=2", "x=c=3"]),
            Ok(json!({"bridge": {"a": "1", "b": "2"}, "x": {"c": "3"}}))
        );
        assert_eq!(from_flag("", Kind::IpList, &["1.1.1.1,8.8.8.8", "::1"]), Ok(json!(["1.1.1.1", "8.8.8.8", "::1"])));
        assert_eq!(
            from_flag("", Kind::Pools, &["base=10.0.0.0/8,size=24"]),
            Ok(json!([{"base": "10.0.0.0/8", "size": 24}]))
        );
        assert_eq!(
            from_flag("", Kind::Ulimits, &["nofile=1:2"]),
            Ok(json!({"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}))
        );
    }

    #[test]
    fn shows_values_as_the_stock_daemon_does() {
        assert_eq!(go_format(&json!(["a", "b"])), "[a b]");
        assert_eq!(go_format(&json!({"a": "b", "c": true})), "map[a:b c:true]");
        assert_eq!(go_format(&json!(true)), "true");
    }
}
