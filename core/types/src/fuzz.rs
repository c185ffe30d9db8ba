//! Fuzz targets of this crate's parsers: what must hold for every text a client can send.

use crate::network::Port;
use crate::{Filters, Reference, go_json};

/// A reference that parses is written in a way that parses to the same.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(reference) = Reference::parse(text) else { return };
    assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(&reference));
    // The short form of a name on the default registry may look like another registry's, with the stock daemon too.
    if reference.domain() != "docker.io" {
        assert_eq!(Reference::parse(&reference.familiar()).as_ref(), Ok(&reference));
    }
    let tagged = reference.clone().with_default_tag();
    assert!(tagged.tag().is_some() || tagged.digest().is_some(), "{text:?}");
    assert!(!reference.path().is_empty() && !reference.domain().is_empty(), "{text:?}");
}

/// Filters that parse hold only known keys, and asking them does not panic.
pub fn filters(data: &[u8]) {
    const KNOWN: [&str; 4] = ["label", "label!", "status", "since"];
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(filters) = Filters::parse(text, &KNOWN) else { return };
    for key in KNOWN {
        assert_eq!(filters.has(key), filters.values(key).next().is_some());
        assert!(filters.has(key) || filters.any(key, |_| false));
    }
    filters.labels_match(&[("k".to_owned(), "v".to_owned())].into());
}

/// Ports are what they were written as.
pub fn port(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(ports) = Port::parse_range(text) else { return };
    // A range has up to 65,536, all made alike.
    for port in ports.iter().take(64) {
        assert_eq!(Port::parse_range(&port.to_string()).as_deref(), Ok(&[*port][..]), "{text:?}");
    }
}

/// What serde_json takes has no syntax error, and anything is looked at without harm.
pub fn daemon_json(data: &[u8]) {
    let found = go_json::syntax_error(data);
    let parsed = serde_json::from_slice::<serde_json::Value>(data);
    assert!(parsed.is_err() || found.is_none(), "{found:?}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_and_mutations() {
        fuzz_mutate::run("reference", 20_000, super::reference);
        fuzz_mutate::run("filters", 20_000, super::filters);
        fuzz_mutate::run("port", 5_000, super::port);
        fuzz_mutate::run("daemon_json", 10_000, super::daemon_json);
    }
}
