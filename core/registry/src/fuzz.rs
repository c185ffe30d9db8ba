//! Fuzz targets of this crate's parsers: what must hold for everything a registry can send.

use crate::manifest::Document;
use crate::{challenge, link, manifest, url};

/// Challenges and links are bounded and never make the parser panic; what is read can be written and read again.
pub fn challenge(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<&str> = text.lines().collect();
    for challenge in challenge::parse(lines.iter().copied()) {
        let quote = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
        let written: Vec<_> =
            challenge.parameters().map(|(name, value)| format!("{name}=\"{}\"", quote(value))).collect();
        let header = format!("Bearer {}", written.join(","));
        let again = challenge::parse([header.as_str()]);
        if header.len() <= 8192 {
            let again = again.first().expect("one challenge was written");
            assert!(again.parameters().eq(challenge.parameters()));
        }
    }
    if let Some(target) = link::next(lines) {
        let base = url::Url::parse("https://registry.example/v2/a/tags/list").expect("a URL");
        if let Ok(joined) = base.join(target) {
            let again = url::Url::parse(&joined.to_string()).expect("a URL is a URL when it is written");
            assert!(again.to_string() == joined.to_string());
        }
    }
}

/// What a client says of where a file is: read or refused, and what is shown of it has no password and means the same.
pub fn address(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(address) = crate::Address::parse(&text) else { return };
    let shown = address.to_string();
    assert!(!shown.bytes().any(|byte| byte <= b' ' || byte == 0x7f));
    let again = crate::Address::parse(&shown).expect("an address is one when it is shown");
    assert!(again.to_string() == shown);
    let after_scheme = shown.split_once("://").map_or("", |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    let word = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')).map(|(_, word)| word);
    assert!(word.is_none_or(|word| word == "***"));
}

/// A manifest is read within its bounds or refused.
pub fn manifest(data: &[u8]) {
    let Ok(kind) = manifest::media_type(None, data, "registry.example/a:1") else { return };
    match Document::parse(&kind, data) {
        Ok(Document::Image(image)) => {
            assert!(image.layers.len() <= 500);
            assert!(image.layers.iter().chain([&image.config]).all(|blob| blob.size <= 8 << 40));
        }
        Ok(Document::Index(index)) => assert!(index.manifests.len() <= 10_000),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn challenges_and_mutations() {
        fuzz_mutate::run("challenge", 10_000, super::challenge);
    }

    #[test]
    fn addresses_and_mutations() {
        fuzz_mutate::run("address", 10_000, super::address);
    }

    #[test]
    fn manifests_and_mutations() {
        fuzz_mutate::run("manifest", 10_000, super::manifest);
    }
}
