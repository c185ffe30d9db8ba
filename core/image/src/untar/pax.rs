//! PAX extended headers (POSIX pax, "pax Extended Header"): `length key=value\n`, again and again.

use super::{Segment, TarError, TarTime};

/// What an extended header says of the next entry. A record without a value takes none away: the entry's own stays.
#[derive(Debug, Default, Clone)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<TarTime>,
    pub(super) atime: Option<TarTime>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// The `GNU.sparse.` records of formats 0.0, 0.1 and 1.0 (GNU tar manual, "PAX Format").
#[derive(Debug, Default, Clone)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) map: Option<Vec<Segment>>,
    /// An offset of format 0.0 whose length has not come yet.
    offset: Option<u64>,
    listed: Vec<Segment>,
}

impl Sparse {
    /// The map of formats 0.0 and 0.1; `None` for a file that is not sparse, or has its map in its content.
    pub(super) fn take_map(&mut self) -> Option<Vec<Segment>> {
        let listed = std::mem::take(&mut self.listed);
        self.map.take().or_else(|| Some(listed).filter(|map| !map.is_empty()))
    }

    /// Whether the map precedes the content (format 1.0).
    pub(super) fn map_in_content(&self) -> bool {
        self.major == Some(1) && self.minor == Some(0)
    }
}

impl Pax {
    /// Parses a header's records.
    pub(super) fn parse(mut text: &[u8]) -> Result<Self, TarError> {
        let mut out = Self::default();
        while !text.is_empty() {
            let (key, value, rest) = record(text).ok_or(TarError::Header("PAX record"))?;
            out.record(key, value)?;
            text = rest;
        }
        Ok(out)
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let bad = || TarError::Header("PAX value");
        let count = || decimal(value).and_then(|number| u64::try_from(number).ok()).ok_or_else(bad);
        match key {
            _ if value.is_empty() && !key.starts_with(XATTR) => {}
            b"path" => self.path = Some(name(value)?),
            b"linkpath" => self.link = Some(name(value)?),
            b"size" => self.size = Some(count()?),
            b"uid" => self.uid = Some(decimal(value).ok_or_else(bad)?),
            b"gid" => self.gid = Some(decimal(value).ok_or_else(bad)?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(bad)?),
            b"atime" => self.atime = Some(time(value).ok_or_else(bad)?),
            b"GNU.sparse.major" => self.sparse.major = Some(count()?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(count()?),
            b"GNU.sparse.name" => self.sparse.name = Some(name(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = Some(count()?),
            b"GNU.sparse.offset" => self.sparse.offset = Some(count()?),
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take().ok_or_else(bad)?;
                self.sparse.listed.push(Segment { offset, length: count()? });
            }
            b"GNU.sparse.map" => self.sparse.map = Some(map(value).ok_or_else(bad)?),
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

const XATTR: &[u8] = b"SCHILY.xattr.";

/// The first record: key, value, and what follows it. The length counts itself.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&text[..space])?).ok()?;
    if length > text.len() || length < space + 3 || text[length - 1] != b'\n' {
        return None;
    }
    let body = &text[space + 1..length - 1];
    let equals = body.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then_some((&body[..equals], &body[equals + 1..], &text[length..]))
}

fn name(value: &[u8]) -> Result<Vec<u8>, TarError> {
    if value.contains(&0) { Err(TarError::Header("name with a zero byte")) } else { Ok(value.to_vec()) }
}

/// A decimal number and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}

/// `[-]seconds[.fraction]`; the fraction is cut to nanoseconds.
fn time(text: &[u8]) -> Option<TarTime> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = seconds.parse().ok()?;
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    if seconds.starts_with('-') && nanos > 0 {
        return Some(TarTime { seconds: whole.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(TarTime { seconds: whole, nanos })
}

/// `offset,length,offset,length`.
fn map(text: &[u8]) -> Option<Vec<Segment>> {
    let numbers: Option<Vec<u64>> =
        text.split(|byte| *byte == b',').map(|part| u64::try_from(decimal(part)?).ok()).collect();
    let numbers = numbers?;
    (numbers.len() % 2 == 0)
        .then(|| numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(records: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).map(|digits| rest + digits).find(|total| total.to_string().len() + rest == *total);
            out.extend(format!("{} {key}={value}\n", length.expect("a length")).into_bytes());
        }
        out
    }

    #[test]
    fn records_of_all_sorts() {
        let pax = Pax::parse(&text(&[
            ("path", "a=b"),
            ("mtime", "12.5"),
            ("atime", "-1.25"),
            ("SCHILY.xattr.user.x", "v"),
            ("SCHILY.xattr.user.x", "w"),
            ("uid", "3000000000"),
            ("linkpath", ""),
            ("GNU.sparse.map", "0,5,10,5"),
            ("comment", "nothing"),
        ]))
        .expect("parsed");
        assert_eq!(pax.path.as_deref(), Some(&b"a=b"[..]));
        assert_eq!(pax.mtime, Some(TarTime { seconds: 12, nanos: 500_000_000 }));
        assert_eq!(pax.atime, Some(TarTime { seconds: -2, nanos: 750_000_000 }));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"w".to_vec())]);
        assert_eq!((pax.uid, pax.link, pax.sparse.map.map(|map| map.len())), (Some(3_000_000_000), None, Some(2)));
    }

    #[test]
    fn wrong_records() {
        for bad in ["5 a=b", "99 a=b\n", "6 a=b", "3 =\n", "0 a=b\n", "x a=b\n", "9 uid=x1\n", "12 path=a\0b\n"] {
            assert!(Pax::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Pax::parse(&bytes);
        }
    }
}
