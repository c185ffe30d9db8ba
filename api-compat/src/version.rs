//! API versions: the prefix of a path, the range we serve, and the words of a refusal.

/// `major.minor` of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion(pub(crate) u16, pub(crate) u16);

/// Newest served; the stock daemon of the same generation (28.5) serves the same.
pub(crate) const NEWEST: ApiVersion = ApiVersion(1, 51);
/// Oldest served, as stock.
pub(crate) const OLDEST: ApiVersion = ApiVersion(1, 24);

impl std::fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A path without its version, and what of the version was written; a path without one is of the newest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Versioned<'a> {
    pub(crate) version: ApiVersion,
    /// As the client wrote it.
    pub(crate) written: Option<&'a str>,
    pub(crate) path: &'a str,
}

/// Splits `/v1.47/x`. As the stock daemon's routes have it, a version is any text of digits and dots.
pub(crate) fn split(path: &str) -> Versioned<'_> {
    let prefixed = path.strip_prefix("/v").and_then(|rest| rest.split_at_checked(rest.find('/')?));
    let is_version = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match prefixed.filter(|(text, _)| is_version(text)) {
        Some((text, path)) => Versioned { version: parse(text), written: Some(text), path },
        None => Versioned { version: NEWEST, written: None, path },
    }
}

/// The first two numbers; what is none counts as 0.
fn parse(text: &str) -> ApiVersion {
    let mut numbers = text.split('.').map(|part| part.parse().unwrap_or(if part.is_empty() { 0 } else { u16::MAX }));
    ApiVersion(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// What a version outside of the range is answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// So old that it does not know errors as JSON.
    TooOld(String),
    /// Not made yet.
    TooNew(String),
}

/// Refuses what is outside of the range.
pub(crate) fn check(asked: &Versioned<'_>) -> Result<(), Refused> {
    let Some(written) = asked.written else { return Ok(()) };
    if asked.version < OLDEST {
        return Err(Refused::TooOld(format!(
            "client version {written} is too old. Minimum supported API version is {OLDEST}, please upgrade your client to a newer version"
        )));
    }
    if asked.version > NEWEST {
        return Err(Refused::TooNew(format!(
            "client version {written} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let parts = |path| {
            let Versioned { version, written, path } = split(path);
            (version, written, path)
        };
        assert_eq!(parts("/v1.47/containers/json"), (ApiVersion(1, 47), Some("1.47"), "/containers/json"));
        assert_eq!(parts("/v1.24.1/info"), (ApiVersion(1, 24), Some("1.24.1"), "/info"));
        assert_eq!(parts("/v1/info"), (ApiVersion(1, 0), Some("1"), "/info"));
        for path in ["/volumes/v1", "/version", "/vx/info", "/v1.5x/info", "/v1.-1/info", "/v1.47"] {
            assert_eq!(parts(path), (NEWEST, None, path));
        }
    }

    #[test]
    fn the_range() {
        assert_eq!(check(&split("/v1.24/info")), Ok(()));
        assert_eq!(check(&split("/info")), Ok(()));
        for path in ["/v1.23/info", "/v1/info", "/v0.99/info"] {
            assert!(matches!(check(&split(path)), Err(Refused::TooOld(_))), "{path}");
        }
        for path in ["/v1.52/info", "/v2.0/info", "/v99999999.1/info"] {
            assert!(matches!(check(&split(path)), Err(Refused::TooNew(_))), "{path}");
        }
    }
}
