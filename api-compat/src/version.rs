//! API versions: the prefix of a path, the range we serve, and the words of a refusal.

use crate::error::ApiError;

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

/// Splits `/v1.47/x` into its version and `/x`; a path without a version is of the newest.
pub(crate) fn split(path: &str) -> (ApiVersion, &str) {
    let prefixed = path.strip_prefix("/v").and_then(|rest| {
        let end = rest.find('/').unwrap_or(rest.len());
        let (major, minor) = rest[..end].split_once('.')?;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        Some((ApiVersion(number(major)?, number(minor)?), &rest[end..]))
    });
    prefixed.unwrap_or((NEWEST, path))
}

/// Refuses what is outside of the range.
pub(crate) fn check(version: ApiVersion) -> Result<(), ApiError> {
    if version < OLDEST {
        return Err(ApiError::bad_request(format!(
            "client version {version} is too old. Minimum supported API version is {OLDEST}, please upgrade your client to a newer version"
        )));
    }
    if version > NEWEST {
        return Err(ApiError::bad_request(format!(
            "client version {version} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        assert_eq!(split("/v1.47/containers/json"), (ApiVersion(1, 47), "/containers/json"));
        assert_eq!(split("/volumes/v1"), (NEWEST, "/volumes/v1"));
        assert_eq!(split("/version"), (NEWEST, "/version"));
        assert!(check(ApiVersion(1, 23)).is_err() && check(ApiVersion(1, 99)).is_err() && check(NEWEST).is_ok());
    }
}
