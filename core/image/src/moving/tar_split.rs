//! A layer's tar, byte for byte as it once was: from the record that the stock daemon keeps of all bytes of the tar that
//! are not in files (tar-split, `github.com/vbatts/tar-split`, `tar/storage/entry.go`), and from the unpacked files.
//!
//! The record is gzip of JSON lines: `{"type":2,"payload":BASE64}` are bytes of the tar, `{"type":1,"name":PATH,"size":N,
//! "payload":BASE64}` stands for the content of a file, with the CRC-64 (ISO) of it, big-endian. A name that is no UTF-8
//! stands in `name_raw`, in base64.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;

/// Longest line. Bytes that follow a tar's end are recorded in pieces of a megabyte.
const MOST_OF_A_LINE: u64 = 16 << 20;
const FILE: u8 = 1;
const SEGMENT: u8 = 2;

/// Reads the tar.
pub(crate) struct Rebuilt<R> {
    record: BufReader<MultiGzDecoder<R>>,
    files: OwnedFd,
    now: Now,
}

/// What is being given out.
enum Now {
    Nothing,
    Segment { bytes: Vec<u8>, at: usize },
    File { file: File, name: String, left: u64, sum: Crc, expected: Option<u64> },
}

#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    name: String,
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
}

impl<R: Read> Rebuilt<R> {
    /// Of the record `record` and the directory `files`, in which all names are resolved.
    pub(crate) fn new(record: R, files: OwnedFd) -> Self {
        Self { record: BufReader::with_capacity(64 * 1024, MultiGzDecoder::new(record)), files, now: Now::Nothing }
    }

    /// The next part of the tar, or `None` at its end.
    fn next(&mut self) -> io::Result<Option<Now>> {
        let mut text = Vec::new();
        (&mut self.record).take(MOST_OF_A_LINE).read_until(b'\n', &mut text)?;
        if text.is_empty() {
            return Ok(None);
        }
        if text.len() as u64 == MOST_OF_A_LINE {
            return Err(broken("a line is too long"));
        }
        let line: Line = serde_json::from_slice(&text).map_err(|error| broken(&error.to_string()))?;
        let payload = line.payload.as_ref().map(|text| decode(text)).transpose()?;
        match line.kind {
            SEGMENT => Ok(Some(Now::Segment { bytes: payload.unwrap_or_default(), at: 0 })),
            // Of directories, links and empty files there is only the name.
            FILE if line.size == 0 => Ok(Some(Now::Nothing)),
            FILE => self.file(&line, payload).map(Some),
            other => Err(broken(&format!("unknown entry type {other}"))),
        }
    }

    fn file(&self, line: &Line, sum: Option<Vec<u8>>) -> io::Result<Now> {
        let name = match &line.name_raw {
            Some(raw) => decode(raw)?,
            None => line.name.clone().into_bytes(),
        };
        let shown = String::from_utf8_lossy(&name).into_owned();
        let expected = match sum.as_deref() {
            None | Some([]) => None,
            Some(sum) => {
                let sum = sum.try_into().map_err(|_| broken("a checksum has the wrong length"))?;
                Some(u64::from_be_bytes(sum))
            }
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let at = |error: io::Error| io::Error::new(error.kind(), format!("file {shown:?} of the layer: {error}"));
        let opened = rustix::fs::openat2(self.files.as_fd(), name.as_slice(), flags, Mode::empty(), resolve);
        let file = File::from(opened.map_err(|error| at(error.into()))?);
        if !file.metadata()?.is_file() {
            return Err(at(io::Error::other("is no regular file")));
        }
        Ok(Now::File { file, left: line.size, sum: Crc::new(), expected, name: shown })
    }
}

impl<R: Read> Read for Rebuilt<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.now {
                Now::Segment { bytes, at } if *at < bytes.len() => {
                    let length = buffer.len().min(bytes.len() - *at);
                    buffer[..length].copy_from_slice(&bytes[*at..*at + length]);
                    *at += length;
                    return Ok(length);
                }
                Now::File { file, left, sum, name, .. } if *left > 0 => {
                    let most = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    let length = file.read(&mut buffer[..most])?;
                    if length == 0 {
                        return Err(broken(&format!("file {name:?} is shorter than it was")));
                    }
                    sum.update(&buffer[..length]);
                    *left -= length as u64;
                    return Ok(length);
                }
                Now::File { sum, expected: Some(expected), name, .. } if sum.value() != *expected => {
                    return Err(broken(&format!("file {name:?} is not what it was")));
                }
                _ => {}
            }
            match self.next()? {
                Some(next) => self.now = next,
                None => {
                    self.now = Now::Nothing;
                    return Ok(0);
                }
            }
        }
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("record of the layer's tar: {why}"))
}

fn decode(text: &str) -> io::Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|error| broken(&error.to_string()))
}

/// CRC-64 with the polynomial of ISO 3309, as Go's `crc64.ISO`.
#[derive(Debug)]
struct Crc(u64);

/// What the lowest eight bits add.
static CRC_TABLE: [u64; 256] = crc_table();

const fn crc_table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut sum, mut bit) = (byte as u64, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0xd800_0000_0000_0000 } else { sum >> 1 };
            bit += 1;
        }
        table[byte] = sum;
        byte += 1;
    }
    table
}

impl Crc {
    fn new() -> Self {
        Self(u64::MAX)
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, byte| CRC_TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8));
    }

    fn value(&self) -> u64 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    fn packed(lines: &str) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(lines.as_bytes()).expect("packed");
        out.finish().expect("packed")
    }

    fn rebuilt(lines: &str, files: &[(&str, &str)]) -> io::Result<String> {
        let dir = tempfile::tempdir().expect("temporary directory");
        for (name, content) in files {
            fs::write(dir.path().join(name), content).expect("written");
        }
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).expect("linked");
        let root = File::open(dir.path()).expect("opened");
        let mut out = String::new();
        Rebuilt::new(&packed(lines)[..], root.into()).read_to_string(&mut out)?;
        Ok(out)
    }

    fn sum(content: &str) -> String {
        let mut crc = Crc::new();
        crc.update(content.as_bytes());
        STANDARD.encode(crc.value().to_be_bytes())
    }

    #[test]
    fn the_check_value_of_the_polynomial() {
        // "CRC-64/GO-ISO" of the catalogue of parametrised CRC algorithms.
        let mut crc = Crc::new();
        crc.update(b"123456789");
        assert_eq!(crc.value(), 0xb909_56c7_75a4_1001);
    }

    #[test]
    fn segments_and_files_in_turn() {
        let lines = format!(
            "{{\"type\":2,\"payload\":\"{}\"}}\n{{\"type\":1,\"name\":\"./dir/\",\"payload\":null,\"position\":1}}\n\
             {{\"type\":1,\"name\":\"./a\",\"size\":5,\"payload\":\"{}\",\"position\":2}}\n\
             {{\"type\":1,\"name_raw\":\"{}\",\"size\":3,\"payload\":\"\"}}\n{{\"type\":2,\"payload\":\"{}\"}}\n",
            STANDARD.encode("head"),
            sum("first"),
            STANDARD.encode("/b"),
            STANDARD.encode("tail")
        );
        assert_eq!(rebuilt(&lines, &[("a", "first"), ("b", "two")]).expect("whole"), "headfirsttwotail");
    }

    #[test]
    fn what_is_not_as_it_was_is_an_error() {
        let file = |name: &str, size: u64, sum: &str| {
            let line = format!("{{\"type\":1,\"name\":\"{name}\",\"size\":{size},\"payload\":\"{sum}\"}}\n");
            let read = rebuilt(&line, &[("a", "first")]);
            read.unwrap_or_else(|error| error.to_string())
        };
        assert_eq!(file("a", 5, &sum("first")), "first");
        assert!(file("a", 5, &sum("worst")).contains("is not what it was"));
        assert!(file("a", 6, &sum("first")).contains("is shorter than it was"));
        assert!(file("a", 5, "AAAA").contains("wrong length"));
        for name in ["none", "link", ".", "../../../../../../etc/passwd"] {
            assert!(file(name, 5, "").contains("of the layer"), "{name}: {}", file(name, 5, ""));
        }
        for lines in ["{\"type\":3}\n", "x", "{\"type\":2,\"payload\":\"?\"}\n", "{\"type\":1,\"size\":-1}\n"] {
            assert!(rebuilt(lines, &[]).is_err(), "{lines}");
        }
        let long = format!("{{\"type\":2,\"payload\":\"{}\"}}", "A".repeat(MOST_OF_A_LINE as usize));
        assert!(rebuilt(&long, &[]).expect_err("too long").to_string().contains("too long"));
    }

    #[test]
    fn a_record_that_is_cut_off_is_an_error() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let whole = packed(&format!("{{\"type\":2,\"payload\":\"{}\"}}\n", STANDARD.encode([7; 5000])));
        let root = File::open(dir.path()).expect("opened");
        let read = Rebuilt::new(&whole[..whole.len() - 12], root.into()).read_to_end(&mut Vec::new());
        assert!(read.is_err());
    }
}
