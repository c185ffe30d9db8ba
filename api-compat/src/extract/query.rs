//! The query string, with Docker's idea of booleans and numbers.

use dockerd_types::Filters;

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

    /// A whole number; `None` when empty.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let invalid = || ApiError::bad_request(format!("strconv.Atoi: parsing {text:?}: invalid syntax"));
        text.parse().map(Some).map_err(|_| invalid())
    }

    /// The `filters`, restricted to `known` keys.
    pub(crate) fn filters(&self, known: &[&str]) -> Result<Filters, ApiError> {
        Filters::parse(self.text("filters"), known).map_err(|error| ApiError::bad_request(error.to_string()))
    }
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
}
