//! Image references, `[domain/]path[:tag][@digest]`, normalised the way Docker does it: `docker.io/library/` is implied,
//! and left out again where a person reads it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL_PREFIX: &str = "library/";
/// Longest repository name the distribution specification allows.
const MAX_NAME: usize = 255;

/// A text that is no image reference; the texts are those docker users know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    /// Does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// Has capitals in its repository part.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// Looks like an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// Name above 255 characters.
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
}

/// A valid, normalised reference. Has at least a repository; tag and digest are what the text gave.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises; no tag is invented (see [`Reference::with_default_tag`]).
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(InvalidReference::LooksLikeId(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|_| InvalidReference::Format)?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(InvalidReference::Format);
        }
        let (domain, path) = split_domain(name);
        if path.bytes().any(|b| b.is_ascii_uppercase()) && is_path(&path.to_ascii_lowercase()) {
            return Err(InvalidReference::Uppercase(path));
        }
        if !is_domain(&domain) || !is_path(&path) {
            return Err(InvalidReference::Format);
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(InvalidReference::TooLong);
        }
        Ok(Self { domain, path, tag: tag.map(str::to_owned), digest })
    }

    /// Registry host (with port), `docker.io` by default.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository path in its registry, `library/` included.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, when the text had one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when the text had one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same, with tag `latest` where neither tag nor digest was given.
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The same repository with this tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, InvalidReference> {
        if !is_tag(tag) {
            return Err(InvalidReference::Format);
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository with this digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The repository as people write it: `alpine`, `user/app`, `registry:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return format!("{}/{}", self.domain, self.path);
        }
        let short = self.path.strip_prefix(OFFICIAL_PREFIX).filter(|rest| !rest.contains('/'));
        short.unwrap_or(&self.path).to_owned()
    }

    /// The whole reference as people write it: `alpine:latest`.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_suffix(&mut text);
        text
    }

    fn push_suffix(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
    }
}

impl fmt::Display for Reference {
    /// The full normalised form, `docker.io/library/alpine:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}/{}", self.domain, self.path);
        self.push_suffix(&mut text);
        f.write_str(&text)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
        format!("{OFFICIAL_PREFIX}{path}")
    } else {
        path.to_owned()
    };
    (domain.to_owned(), path)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !tag.is_empty()
        && tag.len() <= 128
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if port.is_some_and(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return !v6.is_empty() && v6.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|label| {
        let edges = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = label.as_bytes();
        edges(bytes.first()) && edges(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    })
}

fn is_path(path: &str) -> bool {
    path.split('/').all(is_component)
}

/// `[a-z0-9]+` joined by one of `.`, `_`, `__` or any number of `-` (distribution-spec, "Pulling manifests").
fn is_component(component: &str) -> bool {
    let mut separator = String::new();
    let mut last_was_word = false;
    for c in component.chars() {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            let ok =
                separator.is_empty() || matches!(&*separator, "." | "_" | "__") || separator.bytes().all(|b| b == b'-');
            if !ok {
                return false;
            }
            separator.clear();
            last_was_word = true;
        } else if last_was_word && matches!(c, '.' | '_' | '-') {
            separator.push(c);
        } else {
            return false;
        }
    }
    last_was_word && separator.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn familiar_and_full_forms() {
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine", "alpine"),
            ("alpine:3", "docker.io/library/alpine:3", "alpine:3"),
            ("user/app", "docker.io/user/app", "user/app"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("reg.example:5000/a/b:t", "reg.example:5000/a/b:t", "reg.example:5000/a/b:t"),
            ("index.docker.io/alpine", "docker.io/library/alpine", "alpine"),
            ("[::1]:5000/x:y", "[::1]:5000/x:y", "[::1]:5000/x:y"),
            ("a__b/c--d", "docker.io/a__b/c--d", "a__b/c--d"),
        ] {
            let parsed = Reference::parse(text).expect(text);
            assert_eq!(parsed.to_string(), full);
            assert_eq!(parsed.familiar(), familiar);
        }
    }

    #[test]
    fn refused_texts() {
        for bad in ["", ":", "a:", "a//b", "-a", "a-", "a..b", "a___b", "a:b c", "a@sha256:00", "/a", "a/"] {
            assert_eq!(Reference::parse(bad), Err(InvalidReference::Format), "{bad}");
        }
        assert!(matches!(Reference::parse("Alpine"), Err(InvalidReference::Uppercase(_))));
        assert!(matches!(Reference::parse(&"a".repeat(64)), Err(InvalidReference::LooksLikeId(_))));
    }

    #[test]
    fn digest_is_kept() {
        let text = format!("alpine:3@sha256:{}", "a".repeat(64));
        let parsed = Reference::parse(&text).expect("valid");
        assert_eq!((parsed.tag(), parsed.digest().is_some()), (Some("3"), true));
        assert_eq!(parsed.familiar(), text);
    }

    proptest::proptest! {
        #[test]
        fn parsing_is_stable(text in "[a-z0-9./:@_-]{0,40}") {
            if let Ok(parsed) = Reference::parse(&text) {
                proptest::prop_assert_eq!(Reference::parse(&parsed.to_string()), Ok(parsed.clone()));
                proptest::prop_assert_eq!(Reference::parse(&parsed.familiar()), Ok(parsed));
            }
        }
    }
}
