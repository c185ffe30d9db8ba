//! An entry of a table of contents. Both formats have the same fields, those of CRFS.

use std::collections::BTreeMap;
use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use tar::EntryType;

/// As it is written; what is zero or empty is left out, as Go does with `omitempty`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) size: u64,
    /// Seconds and nanoseconds, which the format decides how to write.
    #[serde(skip)]
    pub(crate) time: (i64, u32),
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) modtime: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) link_name: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) mode: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) uid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) gid: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) inner_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) dev_major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) dev_minor: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) digest: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) chunk_size: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) chunk_digest: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) chunk_type: &'static str,
}

/// The whole document.
#[derive(Debug, Serialize)]
pub(crate) struct Toc<'a> {
    pub(crate) version: u8,
    pub(crate) entries: &'a [Entry],
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What the tar says of an entry.
pub(crate) fn of(found: &mut tar::Entry<'_, impl Read>, size: u64) -> io::Result<Entry> {
    let kind = match found.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => "reg",
        EntryType::Directory => "dir",
        EntryType::Symlink => "symlink",
        EntryType::Link => "hardlink",
        EntryType::Char => "char",
        EntryType::Block => "block",
        EntryType::Fifo => "fifo",
        other => return Err(io::Error::other(format!("no table of contents can have an entry of type {other:?}"))),
    };
    // As Go does with what is not UTF-8.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let header = found.header();
    // Fields that were left blank are zeros.
    let mut entry = Entry {
        kind,
        size,
        time: (header.mtime().unwrap_or_default() as i64, 0),
        mode: header.mode().unwrap_or_default().into(),
        uid: header.uid().unwrap_or_default(),
        gid: header.gid().unwrap_or_default(),
        name: text(&found.path_bytes()),
        ..Entry::default()
    };
    if matches!(kind, "symlink" | "hardlink") {
        entry.link_name = found.link_name_bytes().map(|bytes| text(&bytes)).unwrap_or_default();
    }
    if matches!(kind, "char" | "block") {
        entry.dev_major = header.device_major()?.unwrap_or_default().into();
        entry.dev_minor = header.device_minor()?.unwrap_or_default().into();
    }
    for record in found.pax_extensions()?.into_iter().flatten() {
        let record = record?;
        let (key, value) = (text(record.key_bytes()), record.value_bytes());
        if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
            entry.xattrs.insert(name.to_owned(), STANDARD.encode(value));
            continue;
        }
        let value = text(value);
        match &*key {
            "uid" => entry.uid = value.parse().map_err(io::Error::other)?,
            "gid" => entry.gid = value.parse().map_err(io::Error::other)?,
            "mtime" => {
                let (seconds, fraction) = value.split_once('.').unwrap_or((&value, ""));
                let nanos = format!("{fraction:0<9.9}").parse().map_err(io::Error::other)?;
                entry.time = (seconds.parse().map_err(io::Error::other)?, nanos);
            }
            _ => {}
        }
    }
    Ok(entry)
}

/// RFC 3339, in UTC, with as much of a fraction as there is.
pub(crate) fn rfc3339((seconds, nanos): (i64, u32)) -> String {
    let (mut days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let mut year = 1970;
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let fraction = format!(".{nanos:09}");
    let fraction = if nanos == 0 { "" } else { fraction.trim_end_matches('0') };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z", month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn times() {
        assert_eq!(rfc3339((0, 0)), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339((951_868_799, 500_000_000)), "2000-02-29T23:59:59.5Z");
        assert_eq!(rfc3339((1_566_297_043, 0)), "2019-08-20T10:30:43Z");
        assert_eq!(rfc3339((1_735_689_599, 1)), "2024-12-31T23:59:59.000000001Z");
    }
}
