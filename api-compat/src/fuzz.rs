//! Fuzz targets of this crate's parsers: what must hold for every request a client can send.

use dockerd_types::stream::StdStream;

use crate::convert::create::create;
use crate::extract::{Object, Query};
use crate::stream::frame;
use crate::{router, version};

/// Any body becomes a description of a container or is refused.
pub fn create_body(data: &[u8]) {
    let Ok(body) = Object::parse(data) else { return };
    if let Ok(request) = create(&body, "/name", "linux/amd64") {
        // As written: what is a name is the engine's to say.
        assert_eq!(request.name.as_deref(), Some("/name"));
    }
}

/// Any path and query is taken apart.
pub fn query(data: &[u8]) {
    const KNOWN: [&str; 3] = ["label", "name", "status"];
    let text = String::from_utf8_lossy(data);
    let (path, query) = text.split_once('?').map_or((&*text, None), |(path, query)| (path, Some(query)));
    let asked = version::split(path);
    let rest = asked.path;
    assert!(path.ends_with(rest));
    let _ = version::check(&asked);
    for pattern in ["/images/{}/json", "/containers/{}/checkpoints/{}", "/plugins/{}", "/info"] {
        let Some(names) = router::matches(pattern, rest) else { continue };
        let rebuilt = names.iter().fold(pattern.to_owned(), |path, name| path.replacen("{}", name, 1));
        // A name may itself contain the placeholder.
        assert!(names.iter().any(|name| name.contains("{}")) || !pattern.contains("{}") || rebuilt == rest);
    }
    let query = Query::parse(query);
    assert!(!query.flag("all") || !query.text("all").is_empty());
    assert_eq!(query.all("all").first().map_or("", String::as_str), query.text("all"));
    let _ = query.number::<i64>("tail");
    let _ = query.filters(&KNOWN);
}

/// What is framed is found again by a reader that knows the format only from Docker's documents.
pub fn frames(data: &[u8]) {
    let pieces: Vec<(StdStream, &[u8])> = data
        .split(|byte| *byte == 0xff)
        .enumerate()
        .map(|(index, piece)| (if index % 2 == 0 { StdStream::Stdout } else { StdStream::Stderr }, piece))
        .collect();
    let wire: Vec<u8> = pieces.iter().flat_map(|(stream, piece)| frame::encode(*stream, piece)).collect();
    let read = read_frames(&wire).expect("what was framed is read");
    let expected: Vec<(u8, &[u8])> =
        pieces.iter().map(|(s, piece)| (if matches!(s, StdStream::Stdout) { 1 } else { 2 }, *piece)).collect();
    assert_eq!(read, expected);
    // The reader itself survives anything.
    let _ = read_frames(data);
}

/// Stream numbers and payloads; `None` where the bytes are no frames.
fn read_frames(mut wire: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut out = Vec::new();
    while !wire.is_empty() {
        let (header, rest) = wire.split_first_chunk::<8>()?;
        let [stream @ 0..=2, 0, 0, 0, length @ ..] = header else { return None };
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (payload, rest) = rest.split_at_checked(length)?;
        out.push((*stream, payload));
        wire = rest;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn seeds_and_mutations() {
        fuzz_mutate::run("create_body", 10_000, super::create_body);
        fuzz_mutate::run("query", 10_000, super::query);
        fuzz_mutate::run("frames", 5_000, super::frames);
    }
}
