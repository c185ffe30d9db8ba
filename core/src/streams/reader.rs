//! Reading the json-file log back: `docker logs` with its selections, and following it across rotations.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dockerd_types::Timestamp;
use dockerd_types::stream::StdStream;
use serde::Deserialize;

use super::log::rotated;

/// What a client asks of a log.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Go on as the log grows.
    pub follow: bool,
    /// Standard output's lines.
    pub stdout: bool,
    /// Standard error's lines.
    pub stderr: bool,
    /// Not before this.
    pub since: Option<Timestamp>,
    /// Not after this.
    pub until: Option<Timestamp>,
    /// Only so many of the last lines.
    pub tail: Option<usize>,
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// From which stream.
    pub stream: StdStream,
    /// When it was taken.
    pub time: Timestamp,
    /// With its newline, if it had one.
    pub line: Bytes,
    /// What it says of its container.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Record {
    log: String,
    stream: StdStream,
    time: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Reads one log, from its oldest file on.
#[derive(Debug)]
pub(crate) struct LogReader {
    path: PathBuf,
    query: LogQuery,
    current: Option<(BufReader<File>, u64)>,
    /// The beginning of a line that is not whole yet.
    begun: Vec<u8>,
}

impl LogReader {
    pub(crate) fn new(path: &Path, query: LogQuery) -> Self {
        Self { path: path.to_owned(), query, current: None, begun: Vec::new() }
    }

    /// Everything there is now, selected; later calls of [`LogReader::more`] go on from here. Blocking.
    pub(crate) fn existing(&mut self) -> io::Result<Vec<LogEntry>> {
        let mut out = Vec::new();
        let older = (1..).take_while(|number| rotated(&self.path, *number).exists()).last().unwrap_or(0);
        for number in (1..=older).rev() {
            let mut reader = BufReader::new(File::open(rotated(&self.path, number))?);
            read_lines(&mut reader, &mut self.begun, &self.query, &mut out)?;
            self.begun.clear();
        }
        out.extend(self.more()?);
        if let Some(tail) = self.query.tail {
            out.drain(..out.len().saturating_sub(tail));
        }
        Ok(out)
    }

    /// What has come since the last call, as far as the file goes now: it may grow faster than it is read. Blocking.
    pub(crate) fn more(&mut self) -> io::Result<Vec<LogEntry>> {
        let mut out = Vec::new();
        loop {
            if self.current.is_none() {
                let file = match File::open(&self.path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(out),
                    Err(error) => return Err(error),
                };
                let inode = file.metadata()?.ino();
                self.current = Some((BufReader::new(file), inode));
            }
            let Some((reader, inode)) = &mut self.current else { return Ok(out) };
            let rotated_away = std::fs::metadata(&self.path).is_ok_and(|meta| meta.ino() != *inode);
            let left = reader.get_ref().metadata()?.len().saturating_sub(reader.stream_position()?);
            read_lines(&mut reader.take(left), &mut self.begun, &self.query, &mut out)?;
            if !rotated_away {
                return Ok(out);
            }
            // It was read to its end; go on with the file that took its place.
            self.current = None;
            self.begun.clear();
        }
    }
}

fn read_lines(
    reader: &mut impl BufRead,
    begun: &mut Vec<u8>,
    query: &LogQuery,
    out: &mut Vec<LogEntry>,
) -> io::Result<()> {
    loop {
        reader.read_until(b'\n', begun)?;
        if !begun.ends_with(b"\n") {
            return Ok(());
        }
        // A record that a crash has cut is passed over.
        if let Some(entry) = serde_json::from_slice(begun).ok().and_then(entry).filter(|entry| selected(entry, query)) {
            out.push(entry);
        }
        begun.clear();
    }
}

fn entry(record: Record) -> Option<LogEntry> {
    let time = Timestamp::parse_rfc3339(&record.time).ok()?;
    Some(LogEntry { stream: record.stream, time, line: Bytes::from(record.log), attributes: record.attrs })
}

fn selected(entry: &LogEntry, query: &LogQuery) -> bool {
    let stream = match entry.stream {
        StdStream::Stdout => query.stdout,
        StdStream::Stderr => query.stderr,
    };
    stream && query.since.is_none_or(|since| entry.time >= since) && query.until.is_none_or(|until| entry.time <= until)
}
