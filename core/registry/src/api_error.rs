//! Refusals of a registry: the list of errors in a body (distribution-spec, "Error codes"), and how the stock daemon's client
//! makes one text of it.

use std::fmt;

use dockerd_types::ErrorKind;
use hyper::StatusCode;
use serde::Deserialize;

use crate::challenge::{Challenge, Scheme};
use crate::error::RegistryError;

/// Most errors of one body that are looked at.
const MOST_ERRORS: usize = 16;
/// Longest text of a registry that is passed on, in bytes.
const LONGEST: usize = 4096;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $message:literal;)+) => {
        /// Codes of the distribution specification and those registries added to them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ApiCode {
            $($(#[$doc])* $name,)+
        }

        impl ApiCode {
            fn parse(text: &str) -> Self {
                match text {
                    $($value => Self::$name,)+
                    _ => Self::Unknown,
                }
            }

            /// As bodies have it, `MANIFEST_UNKNOWN`.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $value,)+
                }
            }

            /// What it means when the registry gives no message.
            fn message(self) -> &'static str {
                match self {
                    $(Self::$name => $message,)+
                }
            }
        }
    };
}

codes! {
    /// Any other.
    Unknown = "UNKNOWN", "unknown error";
    /// The registry cannot do that.
    Unsupported = "UNSUPPORTED", "The operation is unsupported.";
    /// Credentials are missing or wrong.
    Unauthorized = "UNAUTHORIZED", "authentication required";
    /// The credentials do not suffice.
    Denied = "DENIED", "requested access to the resource is denied";
    /// Not now.
    Unavailable = "UNAVAILABLE", "service unavailable";
    /// A limit of requests is reached.
    TooManyRequests = "TOOMANYREQUESTS", "too many requests";
    /// Content does not have the digest.
    DigestInvalid = "DIGEST_INVALID", "provided digest did not match uploaded content";
    /// Content does not have the length.
    SizeInvalid = "SIZE_INVALID", "provided length did not match content length";
    /// Not a repository's name.
    NameInvalid = "NAME_INVALID", "invalid repository name";
    /// Not the tag of the path.
    TagInvalid = "TAG_INVALID", "manifest tag did not match URI";
    /// No such repository.
    NameUnknown = "NAME_UNKNOWN", "repository name not known to registry";
    /// No such manifest.
    ManifestUnknown = "MANIFEST_UNKNOWN", "manifest unknown";
    /// Not a manifest.
    ManifestInvalid = "MANIFEST_INVALID", "manifest invalid";
    /// Bad signature (schema 1).
    ManifestUnverified = "MANIFEST_UNVERIFIED", "manifest failed signature verification";
    /// The manifest names a blob that is not there.
    ManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry";
    /// No such blob.
    BlobUnknown = "BLOB_UNKNOWN", "blob unknown to registry";
    /// No such upload.
    BlobUploadUnknown = "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry";
    /// The upload cannot go on.
    BlobUploadInvalid = "BLOB_UPLOAD_INVALID", "blob upload invalid";
    /// A bad `n`.
    PaginationNumberInvalid = "PAGINATION_NUMBER_INVALID", "invalid number of results requested";
}

impl ApiCode {
    /// The kind of the status the distribution specification has for the code.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::Unauthorized => ErrorKind::Unauthenticated,
            Self::Denied => ErrorKind::PermissionDenied,
            Self::NameUnknown | Self::ManifestUnknown | Self::BlobUnknown | Self::BlobUploadUnknown => {
                ErrorKind::NotFound
            }
            Self::Unavailable => ErrorKind::Unavailable,
            Self::TooManyRequests => ErrorKind::TooManyRequests,
            Self::Unknown | Self::Unsupported => ErrorKind::System,
            _ => ErrorKind::InvalidArgument,
        }
    }
}

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// Which.
    pub code: ApiCode,
    /// The registry's words; none when they say no more than the code.
    pub message: Option<String>,
}

impl ApiError {
    pub(crate) fn new(code: ApiCode, message: &str) -> Self {
        Self { code, message: Some(bounded(message).to_owned()) }
    }

    /// One with the code's own message.
    pub(crate) fn of(code: ApiCode) -> Self {
        Self::new(code, code.message())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.as_str().to_lowercase().replace('_', " ");
        match &self.message {
            Some(message) => write!(f, "{code}: {message}"),
            None => f.write_str(&code),
        }
    }
}

/// All refusals of an answer, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiErrors(Vec<ApiError>);

impl ApiErrors {
    pub(crate) fn one(error: ApiError) -> Self {
        Self(vec![error])
    }

    /// The one that decides.
    pub fn first(&self) -> Option<&ApiError> {
        self.0.first()
    }

    /// Whether `code` is among them.
    pub fn has(&self, code: ApiCode) -> bool {
        self.0.iter().any(|error| error.code == code)
    }
}

impl fmt::Display for ApiErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "{one}"),
            several => {
                f.write_str("errors:\n")?;
                several.iter().try_for_each(|error| writeln!(f, "{error}"))
            }
        }
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(default, alias = "Errors")]
    errors: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Details {
    details: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    detail: Option<serde::de::IgnoredAny>,
}

/// The error an answer with a bad status stands for. `content_type`: its header, `body`: its bounded beginning,
/// `challenges`: what it asks for.
pub(crate) fn of_answer(
    status: StatusCode,
    content_type: Option<&str>,
    challenges: &[Challenge],
    body: &[u8],
) -> RegistryError {
    if !status.is_client_error() {
        return RegistryError::UnexpectedStatus(status_text(status));
    }
    let parsed = of_body(status, content_type, body);
    // An OAuth error of the header comes before what the body says (RFC 6750, section 3.1).
    let oauth = challenges.iter().filter(|challenge| challenge.scheme == Scheme::Bearer).find_map(oauth_error);
    match (oauth, parsed) {
        (Some(first), Ok(rest)) => RegistryError::Api(ApiErrors(std::iter::once(first).chain(rest.0).collect())),
        (Some(first), Err(_)) => RegistryError::Api(ApiErrors::one(first)),
        (None, Ok(errors)) => RegistryError::Api(errors),
        (None, Err(_)) if status == StatusCode::UNAUTHORIZED => {
            RegistryError::Api(ApiErrors::one(ApiError::of(ApiCode::Unauthorized)))
        }
        (None, Err(why)) => RegistryError::UnexpectedBody {
            status: status.as_u16(),
            why,
            body: bounded(&String::from_utf8_lossy(body)).to_owned(),
        },
    }
}

fn oauth_error(challenge: &Challenge) -> Option<ApiError> {
    let code = match challenge.parameter("error")? {
        "invalid_token" => ApiCode::Unauthorized,
        "insufficient_scope" => ApiCode::Denied,
        _ => return None,
    };
    let description = challenge.parameter("error_description").filter(|text| !text.is_empty());
    Some(ApiError::new(code, description.unwrap_or_else(|| code.message())))
}

fn of_body(status: StatusCode, content_type: Option<&str>, body: &[u8]) -> Result<ApiErrors, String> {
    let media = content_type.and_then(|text| text.split(';').next()).map(|text| text.trim().to_ascii_lowercase());
    if !matches!(media.as_deref(), Some("application/json" | "application/vnd.api+json")) {
        return Ok(ApiErrors::one(of_text(status, &String::from_utf8_lossy(body))));
    }
    if let Ok(Details { details }) = serde_json::from_slice(body)
        && !details.is_empty()
    {
        return Ok(ApiErrors::one(of_text(status, &details)));
    }
    let parsed: Body = serde_json::from_slice(body).map_err(|error| go_json_error(body, &error))?;
    let entries = parsed.errors.unwrap_or_default();
    if entries.is_empty() {
        return Err("no error details found in HTTP response body".to_owned());
    }
    Ok(ApiErrors(entries.into_iter().take(MOST_ERRORS).map(of_entry).collect()))
}

fn of_entry(entry: Entry) -> ApiError {
    let code = ApiCode::parse(entry.code.as_deref().unwrap_or_default());
    let message = entry.message.unwrap_or_default();
    if entry.detail.is_none() && (message.is_empty() || message == code.message()) {
        return ApiError { code, message: None };
    }
    ApiError::new(code, &message)
}

fn of_text(status: StatusCode, text: &str) -> ApiError {
    let code = match status {
        StatusCode::UNAUTHORIZED => ApiCode::Unauthorized,
        StatusCode::FORBIDDEN => ApiCode::Denied,
        StatusCode::TOO_MANY_REQUESTS => ApiCode::TooManyRequests,
        _ => ApiCode::Unknown,
    };
    ApiError::new(code, text)
}

/// What is wrong with a text that should be JSON: in Go's words where they are seen in practice, else only where it is. Nothing
/// of the text is repeated but one character: it may be a secret.
pub(crate) fn go_json_error(body: &[u8], error: &serde_json::Error) -> String {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(byte) if !matches!(byte, b'{' | b'[' | b'"' | b'-' | b't' | b'f' | b'n' | b'0'..=b'9') => {
            format!("invalid character '{}' looking for beginning of value", char::from(*byte))
        }
        _ if error.is_eof() => "unexpected end of JSON input".to_owned(),
        _ => format!("invalid JSON at line {} column {}", error.line(), error.column()),
    }
}

/// `404 Not Found`.
pub(crate) fn status_text(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// `text`, cut where it is longer than anybody reads.
pub(crate) fn bounded(text: &str) -> &str {
    if text.len() <= LONGEST {
        return text;
    }
    let mut end = LONGEST;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: Option<&str> = Some("application/json; charset=utf-8");

    fn text(status: u16, content_type: Option<&str>, body: &str) -> String {
        let status = StatusCode::from_u16(status).unwrap();
        of_answer(status, content_type, &[], body.as_bytes()).to_string()
    }

    #[test]
    fn texts_are_those_of_the_distribution_client() {
        let unknown = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"x"}}]}"#;
        assert_eq!(text(404, JSON, unknown), "manifest unknown: manifest unknown");
        let bare = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        assert_eq!(text(404, JSON, bare), "manifest unknown");
        assert_eq!(text(404, JSON, r#"{"errors":[{"code":"X","message":"y"}]}"#), "unknown: y");
        assert_eq!(text(401, JSON, r#"{"details":"go away"}"#), "unauthorized: go away");
        assert_eq!(text(403, None, "no"), "denied: no");
        assert_eq!(text(429, Some("text/plain"), "slower"), "toomanyrequests: slower");
        assert_eq!(text(404, Some("text/html"), "<p>"), "unknown: <p>");
        assert_eq!(
            text(404, JSON, "<p>"),
            r#"error parsing HTTP 404 response body: invalid character '<' looking for beginning of value: "<p>""#
        );
        assert_eq!(
            text(404, JSON, "{}"),
            r#"error parsing HTTP 404 response body: no error details found in HTTP response body: "{}""#
        );
        assert_eq!(text(401, JSON, "{}"), "unauthorized: authentication required");
        assert_eq!(text(500, JSON, "{}"), "received unexpected HTTP status: 500 Internal Server Error");
        let two = r#"{"errors":[{"code":"DENIED","message":"a"},{"code":"UNAUTHORIZED","message":"b"}]}"#;
        assert_eq!(text(403, JSON, two), "errors:\ndenied: a\nunauthorized: b\n");
    }

    #[test]
    fn an_oauth_error_of_the_header_comes_first() {
        let challenges = crate::challenge::parse(["Bearer realm=\"r\",error=\"insufficient_scope\""]);
        let error = of_answer(StatusCode::UNAUTHORIZED, JSON, &challenges, b"{}");
        assert_eq!(error.to_string(), "denied: requested access to the resource is denied");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let body = format!("{{\"details\":\"{}\"}}", "é".repeat(5000));
        assert!(text(403, JSON, &body).len() <= LONGEST + 16);
    }
}
