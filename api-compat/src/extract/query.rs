//! The query string, with Docker's idea of booleans and numbers.

use dockerd_types::{Filters, Timestamp};
use hyper::StatusCode;

use crate::error::ApiError;

/// Parsed query; the first value of a name counts.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        Self(form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// The first value of `name`; empty when it is not there.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// Every value of `name`.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    /// Docker's boolean: everything but nothing, `0`, `no`, `false` and `none` is true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        !matches!(self.text(name).trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A whole number; `None` when empty. What is none is answered 500: the stock daemon does not say that it was the
    /// client's mistake.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let why = if is_whole(text) { "value out of range" } else { "invalid syntax" };
        let message = format!("strconv.Atoi: parsing {text:?}: {why}");
        text.parse().map(Some).map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message))
    }

    /// A height or width; missing and malformed ones are told apart only by the text.
    pub(crate) fn size(&self, name: &str, shown: &str) -> Result<u16, ApiError> {
        let text = self.text(name);
        let why = if is_whole(text) { "value out of range" } else { "invalid syntax" };
        let number: u32 =
            text.parse().map_err(|_| ApiError::bad_request(format!("invalid resize {shown} {text:?}: {why}")))?;
        // The kernel keeps 16 bits, and so does the stock daemon.
        Ok(u16::try_from(number & 0xffff).unwrap_or(u16::MAX))
    }

    /// A moment, `seconds[.nanoseconds]` or RFC 3339; `None` when empty.
    pub(crate) fn moment(&self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        let text = self.text(name);
        let seconds = text.split_once('.').map_or(text, |(seconds, _)| seconds);
        let message = format!("strconv.ParseInt: parsing {seconds:?}: invalid syntax");
        let parsed = (!text.is_empty()).then(|| Timestamp::parse_unix_or_rfc3339(text)).transpose();
        // As with numbers, the stock daemon does not say that it was the client's mistake.
        parsed.map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message))
    }

    /// The `filters`, whatever their keys.
    pub(crate) fn any_filters(&self) -> Result<Filters, ApiError> {
        Filters::parse_any(self.text("filters")).map_err(|error| ApiError::bad_request(error.to_string()))
    }

    /// The `filters`, restricted to `known` keys.
    pub(crate) fn filters(&self, known: &[&str]) -> Result<Filters, ApiError> {
        Filters::parse(self.text("filters"), known).map_err(|error| ApiError::bad_request(error.to_string()))
    }
}

fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_as_docker_reads_them() {
        let query = Query::parse(Some("a=1&b=0&c=&d=False&e=yes&f=none"));
        let read: Vec<bool> = ["a", "b", "c", "d", "e", "f", "g"].map(|name| query.flag(name)).to_vec();
        assert_eq!(read, [true, false, false, false, true, false, false]);
        assert!(Query::parse(Some("n=x")).number::<i64>("n").is_err());
    }

    #[test]
    fn sizes_of_terminals() {
        let query = Query::parse(Some("a=24&b=x&c=-1&d=65537"));
        let text = |name| query.size(name, "height").map_err(|error| error.message);
        assert_eq!((text("a"), text("d")), (Ok(24), Ok(1)));
        assert_eq!(text("b"), Err("invalid resize height \"x\": invalid syntax".to_owned()));
        assert_eq!(text("c"), Err("invalid resize height \"-1\": value out of range".to_owned()));
        assert_eq!(text("z"), Err("invalid resize height \"\": invalid syntax".to_owned()));
    }
}
