//! One file by its URL, as `docker import URL` gets it: what Go's `http.Get` does, and what the stock daemon makes of an answer
//! that is an error. No registry is meant: neither `certs.d` nor anybody's `docker login` counts, only the system's roots,
//! the proxies, and a user that the URL itself names.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use dockerd_types::{ErrorKind, Kinded};
use hyper::Method;
use hyper::header::{self, HeaderMap, HeaderValue};

use crate::Registry;
use crate::client::{Body, Client, Payload, Request};
use crate::error::TransportError;
use crate::pace::Pace;
use crate::session::LARGEST_REFUSAL;
use crate::tls;
use crate::url::Url;

/// Why a file cannot be had; the words of the stock daemon and of Go's `net/http`.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL.
    #[error("parse {url:?}: {why}")]
    Url {
        /// The text, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// No answer.
    #[error("Get {url:?}: {cause}")]
    Request {
        /// The URL, without a password.
        url: String,
        /// Why.
        cause: TransportError,
    },
    /// A URL nothing can be asked of.
    #[error("Get {url:?}: {why}")]
    Unsupported {
        /// The URL, without a password.
        url: String,
        /// Why.
        why: String,
    },
    /// The server refused.
    #[error("failed to GET {url} with status {status}: {body}")]
    Status {
        /// The URL, without a password.
        url: String,
        /// Number and words.
        status: String,
        /// The beginning of what it said, trimmed.
        body: String,
    },
    /// The file broke off.
    #[error("{0}")]
    Body(TransportError),
}

impl Kinded for FetchError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Url { .. } => ErrorKind::InvalidArgument,
            Self::Request { cause: TransportError::Lookup(_), .. } => ErrorKind::NotFound,
            Self::Request { .. } | Self::Unsupported { .. } | Self::Body(_) => ErrorKind::System,
            Self::Status { status, .. } => match status.get(..3) {
                Some("400") => ErrorKind::InvalidArgument,
                Some("401") => ErrorKind::Unauthenticated,
                Some("403") => ErrorKind::PermissionDenied,
                Some("404") => ErrorKind::NotFound,
                _ => ErrorKind::System,
            },
        }
    }
}

/// Where a file is.
#[derive(Clone)]
pub struct Address {
    url: Url,
    /// As it is shown: without a password.
    shown: String,
    authorization: Option<HeaderValue>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl std::fmt::Display for Address {
    /// Without a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Address {
    /// Parses `text`; `http` is meant where it names no scheme.
    ///
    /// # Errors
    ///
    /// When it is no URL, or not one of a file on a web server.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let (scheme, rest) = full.split_once("://").unwrap_or(("http", &full));
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let user = user.map(|user| user.split_once(':').map_or((user, None), |(name, word)| (name, Some(word))));
        let path = escaped(path);
        let shown = match user {
            None => format!("{scheme}://{host}{path}"),
            Some((name, None)) => format!("{scheme}://{name}@{host}{path}"),
            Some((name, Some(_))) => format!("{scheme}://{name}:***@{host}{path}"),
        };
        if scheme.is_empty() {
            return Err(FetchError::Url { url: shown, why: "missing protocol scheme".to_owned() });
        }
        let bad = |found: &char| *found <= ' ' || *found == '\x7f' || "\"<>\\^`{|}".contains(*found);
        if let Some(found) = authority.chars().find(bad) {
            let why = format!("invalid character {:?} in host name", found.to_string());
            return Err(FetchError::Url { url: shown, why });
        }
        let unsupported = |why: String| Err(FetchError::Unsupported { url: go_shown(&shown), why });
        let lower = scheme.to_ascii_lowercase();
        if !matches!(lower.as_str(), "http" | "https") {
            return unsupported(format!("unsupported protocol scheme {lower:?}"));
        }
        if host.is_empty() {
            return unsupported("http: no Host in request URL".to_owned());
        }
        let url = Url::parse(&format!("{lower}://{host}{path}"));
        let url = url.map_err(|_| FetchError::Url { url: shown.clone(), why: "invalid URL".to_owned() })?;
        let authorization = user.and_then(|(name, word)| {
            let decoded = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
            let pair = [decoded(name), b":".to_vec(), decoded(word.unwrap_or_default())].concat();
            HeaderValue::try_from(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))).ok()
        });
        Ok(Self { url, shown, authorization })
    }
}

/// As Go writes a URL without host and path: `http:`.
fn go_shown(shown: &str) -> String {
    shown.strip_suffix("://").map_or_else(|| shown.to_owned(), |scheme| format!("{scheme}:"))
}

/// A path with what cannot stand in a request percent-encoded.
fn escaped(path: &str) -> String {
    const SET: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
        .add(b' ')
        .add(b'"')
        .add(b'<')
        .add(b'>')
        .add(b'\\')
        .add(b'^')
        .add(b'`')
        .add(b'{')
        .add(b'|')
        .add(b'}');
    percent_encoding::utf8_percent_encode(path, SET).to_string()
}

/// A file that is coming. Dropping it closes its connection.
pub struct Fetched {
    /// Its length in bytes, when the server tells it.
    pub length: Option<u64>,
    body: Body,
    pace: Pace,
}

impl std::fmt::Debug for Fetched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetched").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Fetched {
    /// The next piece; none at the end.
    ///
    /// # Errors
    ///
    /// When it breaks off, or comes slower than is of use.
    pub async fn piece(&mut self) -> Option<Result<Bytes, FetchError>> {
        Some(self.body.piece(&mut self.pace).await?.map_err(FetchError::Body))
    }
}

impl Registry {
    /// Begins to get the file at `address`.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the answer is an error.
    pub async fn fetch(&self, address: &Address) -> Result<Fetched, FetchError> {
        let config = self.config.load_full();
        let failed = |cause| FetchError::Request { url: address.shown.clone(), cause };
        let work = tokio::task::spawn_blocking(|| tls::checked(&[""; 0], ""));
        let tls = match work.await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => return Err(failed(TransportError::Tls(error.to_string()))),
            Err(_) => return Err(failed(TransportError::Tls("reading certificates was interrupted".to_owned()))),
        };
        let limits = config.written.limits.clone();
        // Go goes from TLS to a place without when it is sent there.
        let client = Client::new(Arc::clone(&config), tls, true);
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(value) = &address.authorization {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        let (method, limit) = (Method::GET, limits.answer);
        let request = Request { method, url: address.url.clone(), headers, payload: Payload::Empty, limit };
        let mut response = client.follow(request).await.map_err(failed)?;
        if response.status.as_u16() >= 400 {
            let body = response.body.beginning(LARGEST_REFUSAL, limits.short_pace()).await;
            let body = body.map(|(body, _)| body).unwrap_or_default();
            return Err(FetchError::Status {
                url: address.shown.clone(),
                status: response.status_text(),
                body: String::from_utf8_lossy(body.trim_ascii()).into_owned(),
            });
        }
        let length = response.header(header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
        Ok(Fetched { length, body: response.body, pace: limits.pace() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_stock_daemon_reads_them() {
        for (text, shown, url) in [
            ("h/x.tar", "http://h/x.tar", "http://h/x.tar"),
            ("https://h:1/a b?q=1#f", "https://h:1/a%20b?q=1#f", "https://h:1/a%20b?q=1"),
            ("http://u:p%40@h/x", "http://u:***@h/x", "http://h/x"),
            ("http://u@h", "http://u@h", "http://h/"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.to_string().as_str(), address.url.to_string().as_str()), (shown, url));
        }
        let header = Address::parse("http://u:p%40@h/x").unwrap().authorization.unwrap();
        assert_eq!(header, "Basic dTpwQA==");
    }

    #[test]
    fn what_is_no_address_is_told_in_the_words_of_go() {
        for (text, words, kind) in [
            ("", r#"Get "http:": http: no Host in request URL"#, ErrorKind::System),
            ("ftp://h/x", r#"Get "ftp://h/x": unsupported protocol scheme "ftp""#, ErrorKind::System),
            ("://h", r#"parse "://h": missing protocol scheme"#, ErrorKind::InvalidArgument),
            ("http://a b/", r#"parse "http://a b/": invalid character " " in host name"#, ErrorKind::InvalidArgument),
            ("http://h:x/", r#"parse "http://h:x/": invalid URL"#, ErrorKind::InvalidArgument),
        ] {
            let error = Address::parse(text).expect_err(text);
            assert_eq!((error.to_string().as_str(), error.kind()), (words, kind), "{text}");
        }
    }
}
