//! Absolute `http` and `https` URLs, and what a `Location` means beside one (RFC 3986, section 5.2).

use std::fmt;

use hyper::Uri;

use crate::error::TransportError;

/// Longest URL that is followed, in bytes.
const LONGEST: usize = 16 * 1024;

/// An absolute URL without user and fragment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// `https` rather than `http`.
    pub(crate) tls: bool,
    /// Name or address; an IPv6 address without its brackets.
    pub(crate) host: String,
    /// The port, when the text has one.
    port: Option<u16>,
    /// Begins with `/`; with the query.
    path: String,
}

impl Url {
    /// Parses an absolute URL.
    pub(crate) fn parse(text: &str) -> Result<Self, TransportError> {
        let invalid = || TransportError::InvalidUrl(crate::api_error::bounded(text).to_owned());
        if text.len() > LONGEST {
            return Err(invalid());
        }
        let text = text.split('#').next().unwrap_or_default();
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let tls = match uri.scheme_str().map(str::to_ascii_lowercase).as_deref() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid()),
        };
        let authority = uri.authority().ok_or_else(invalid)?;
        // What would be sent as a password belongs nowhere.
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(invalid());
        }
        // An empty port, `host:`, is none.
        let port = authority.as_str()[authority.host().len()..].trim_start_matches(':');
        let port = if port.is_empty() { None } else { Some(port.parse().map_err(|_| invalid())?) };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { tls, host, port, path })
    }

    /// The root of `authority`, a host with or without port.
    pub(crate) fn root(tls: bool, authority: &str) -> Result<Self, TransportError> {
        Self::parse(&format!("{}://{authority}/", if tls { "https" } else { "http" }))
    }

    /// What `reference`, absolute or relative, means in the document at `self`.
    pub(crate) fn join(&self, reference: &str) -> Result<Self, TransportError> {
        let reference = reference.split('#').next().unwrap_or_default();
        let scheme = reference.split(['/', '?']).next().unwrap_or_default();
        if scheme.contains(':') {
            return Self::parse(reference);
        }
        if reference.starts_with("//") {
            return Self::parse(&format!("{}:{reference}", self.scheme()));
        }
        let (base, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
        let path = match reference.as_bytes().first() {
            None => self.path.clone(),
            Some(b'/') => reference.to_owned(),
            Some(b'?') => format!("{base}{reference}"),
            Some(_) => format!("{}{reference}", &base[..=base.rfind('/').unwrap_or(0)]),
        };
        Self::parse(&format!("{}://{}{}", self.scheme(), self.authority(), without_dots(&path)))
    }

    /// The same with `more` behind the path, and no query of before.
    pub(crate) fn below(&self, more: &str) -> Self {
        let (base, _) = self.path.split_once('?').unwrap_or((&self.path, ""));
        Self { path: format!("{}/{more}", base.trim_end_matches('/')), ..self.clone() }
    }

    /// The same with `pairs` added to the query.
    pub(crate) fn with_query(&self, pairs: &[(&str, &str)]) -> Self {
        let mut path = self.path.clone();
        for (name, value) in pairs {
            path.push(if path.contains('?') { '&' } else { '?' });
            let encode = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            path.push_str(&format!("{}={}", encode(name), encode(value)));
        }
        Self { path, ..self.clone() }
    }

    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.tls { 443 } else { 80 })
    }

    /// Host and port as written, brackets included: the `Host` header.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// Host and port, the usual one filled in.
    pub(crate) fn dial_address(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port())
    }

    /// Path and query.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Same scheme, host and port: where credentials may go.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        self.tls == other.tls && self.host == other.host && self.port() == other.port()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.path)
    }
}

impl fmt::Debug for Url {
    /// Without the query, which may have a signature in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "{}://{}{path}", self.scheme(), self.authority())
    }
}

fn without_dots(path: &str) -> String {
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let mut kept: Vec<&str> = Vec::new();
    let last = path.rsplit('/').next().unwrap_or_default();
    for part in path.split('/').skip(1) {
        match part {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => kept.push(part),
        }
    }
    let mut text = format!("/{}", kept.join("/"));
    if matches!(last, "." | "..") && !text.ends_with('/') {
        text.push('/');
    }
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let base = Url::parse("https://h:5000/v2/a/blobs/uploads/?x=1").unwrap();
        for (reference, expected) in [
            ("https://other/z", "https://other/z"),
            ("HTTP://Other/z#f", "http://other/z"),
            ("//other/z", "https://other/z"),
            ("/p?q=1", "https://h:5000/p?q=1"),
            ("?q=1", "https://h:5000/v2/a/blobs/uploads/?q=1"),
            ("id?q=a:b/../c", "https://h:5000/v2/a/blobs/uploads/id?q=a:b/../c"),
            ("../id", "https://h:5000/v2/a/blobs/id"),
            ("/../../a/./b/..", "https://h:5000/a/"),
            ("", "https://h:5000/v2/a/blobs/uploads/?x=1"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), expected, "{reference}");
        }
        for bad in ["ftp://x/", "javascript:x", "https://", "https://u:p@h/", "https://h:99999/", "http://a b/"] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_of_a_url() {
        let url = Url::parse("http://[::1]:5000").unwrap();
        assert_eq!((url.host.as_str(), url.port(), url.authority().as_str()), ("::1", 5000, "[::1]:5000"));
        assert_eq!(url.below("v2/").to_string(), "http://[::1]:5000/v2/");
        let url = Url::parse("https://mirror.example/prefix/").unwrap().below("v2/");
        assert_eq!(url.to_string(), "https://mirror.example/prefix/v2/");
        let query = url.with_query(&[("scope", "repository:a:pull,push"), ("n", "1")]);
        assert_eq!(query.path(), "/prefix/v2/?scope=repository%3Aa%3Apull%2Cpush&n=1");
        assert!(url.same_origin(&Url::parse("https://MIRROR.example:443/").unwrap()));
        assert!(!url.same_origin(&Url::parse("http://mirror.example:443/").unwrap()));
        assert_eq!(format!("{query:?}"), "https://mirror.example/prefix/v2/");
    }
}
