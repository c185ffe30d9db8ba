//! The json-file log: one JSON object a line, as Docker's, with its rotation by size and its splitting of long lines.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dockerd_types::Timestamp;
use dockerd_types::stream::StdStream;

use super::spool::{self, Mark, Spool};

/// Longest line that is kept whole, as Docker's copier.
const MAX_LINE: usize = 16 * 1024;

/// An option of the log driver that cannot be used; Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogOptionsError {
    /// A name the driver does not know.
    #[error("unknown log opt '{0}' for json-file log driver")]
    Unknown(String),
    /// A size that is none.
    #[error("invalid size: '{0}'")]
    Size(String),
}

/// Where and how a log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) path: PathBuf,
    /// Bytes before rotation.
    max_size: Option<u64>,
    /// Files kept, the current one included.
    max_files: u32,
    /// What every record says of its container, as it stands in the record.
    attributes: String,
}

impl LogSettings {
    /// From `--log-opt`; values were checked at creation, so what cannot be read counts as not given.
    pub(crate) fn of(path: PathBuf, options: &BTreeMap<String, String>, attributes: &BTreeMap<String, String>) -> Self {
        let max_size = options.get("max-size").and_then(|text| parse_size(text)).filter(|size| *size > 0);
        let max_files = options.get("max-file").and_then(|text| text.parse().ok()).unwrap_or(1).max(1);
        let attributes = match attributes.is_empty() {
            true => String::new(),
            false => format!(",\"attrs\":{}", serde_json::json!(attributes)),
        };
        Self { path, max_size, max_files, attributes }
    }
}

/// `10m`, `1k`, `500`: powers of 1024, as Docker's `RAMInBytes`.
fn parse_size(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let (digits, shift) = match lower.chars().last()? {
        'k' => (&lower[..lower.len() - 1], 10),
        'm' => (&lower[..lower.len() - 1], 20),
        'g' => (&lower[..lower.len() - 1], 30),
        _ => (lower, 0),
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

/// A log that may be open. Failures to write are told once per run and cost the lines, not the container.
#[derive(Debug)]
pub(crate) struct JsonLog {
    settings: LogSettings,
    file: Option<File>,
    /// Open, but not a file yet: the first record makes it.
    awaited: bool,
    size: u64,
    /// Lines that have not ended yet: standard output's, standard error's.
    partial: [Vec<u8>; 2],
    spooled: Option<Spooled>,
}

/// Where a run's output comes from, and what of it is in the log.
#[derive(Debug)]
struct Spooled {
    spool: Arc<Spool>,
    mark: Mark,
    /// The end of what was written here, by stream; the unfinished line lies between `mark.taken` and this.
    end: [u64; 2],
}

impl JsonLog {
    pub(crate) fn new(settings: LogSettings) -> Self {
        Self { settings, file: None, awaited: false, size: 0, partial: [Vec::new(), Vec::new()], spooled: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.settings.path
    }

    /// Opens the log for appending. The file is made by the first record: it costs a start more than most else it does on
    /// disk, and many containers say nothing.
    pub(crate) fn open(&mut self) -> io::Result<()> {
        if self.file.is_some() || self.awaited {
            return Ok(());
        }
        match File::options().append(true).read(true).open(&self.settings.path) {
            Ok(file) => {
                self.size = file.metadata()?.len();
                self.file = Some(file);
                self.end_torn_record()
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.size = 0;
                self.awaited = true;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The file of an open log.
    fn file(&mut self) -> io::Result<Option<&mut File>> {
        if self.awaited {
            self.file =
                Some(File::options().create(true).append(true).read(true).mode(0o640).open(&self.settings.path)?);
            self.awaited = false;
        }
        Ok(self.file.as_mut())
    }

    /// A machine that went down may have left half a record; what is appended must not become part of it.
    fn end_torn_record(&mut self) -> io::Result<()> {
        use std::os::unix::fs::FileExt;
        let Some(file) = self.file.as_mut().filter(|_| self.size > 0) else { return Ok(()) };
        let mut last = [b'\n'];
        file.read_exact_at(&mut last, self.size - 1)?;
        if last != [b'\n'] {
            file.write_all(b"\n")?;
            self.size += 1;
        }
        Ok(())
    }

    pub(crate) fn close(&mut self) {
        self.file = None;
        self.awaited = false;
        self.spooled = None;
        self.partial.iter_mut().for_each(Vec::clear);
    }

    /// The mark a run's spool begins with.
    pub(super) fn first_mark(&self) -> Mark {
        Mark::start(self.size)
    }

    /// From now on all output comes through `spool`.
    pub(super) fn attach(&mut self, spool: Arc<Spool>, mark: Mark) {
        self.spooled = Some(Spooled { spool, mark, end: mark.taken });
    }

    /// As [`JsonLog::attach`], with what an earlier daemon has left: records beyond the mark are taken back, because
    /// what they were made of is still in the spool.
    pub(super) fn resume(&mut self, spool: Arc<Spool>, mark: Mark) -> io::Result<()> {
        if let Some(file) = self.file.as_ref().filter(|_| self.size > mark.log_size) {
            file.set_len(mark.log_size)?;
            self.size = mark.log_size;
        }
        self.attach(spool, mark);
        Ok(())
    }

    /// The first place in the spool that is not in the log.
    pub(super) fn taken(&self, stream: StdStream) -> Option<u64> {
        self.spooled.as_ref().map(|spooled| spooled.mark.taken[spool::slot(stream)])
    }

    /// Takes a piece of output; whole lines go to the file.
    pub(crate) fn write(&mut self, stream: StdStream, bytes: &[u8]) {
        let now = Timestamp::now();
        let slot = spool::slot(stream);
        let mut out = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if let Some(spooled) = &mut self.spooled {
                spooled.end[slot] += piece.len() as u64;
            }
            let partial = &mut self.partial[slot];
            partial.extend_from_slice(piece);
            while partial.len() > MAX_LINE {
                let rest = partial.split_off(MAX_LINE);
                record(&mut out, stream, partial, &self.settings.attributes, now);
                *partial = rest;
            }
            if partial.ends_with(b"\n") || partial.len() == MAX_LINE {
                record(&mut out, stream, partial, &self.settings.attributes, now);
                partial.clear();
            }
            // However much came at once, no file gets much longer than it may.
            if self.is_full_with(out.len()) {
                self.append(&out);
                self.commit(stream, &out);
                out.clear();
            }
        }
        self.append(&out);
        self.commit(stream, &out);
    }

    /// Whether so many more bytes would be too many for the file.
    fn is_full_with(&self, more: usize) -> bool {
        more > 0 && self.settings.max_size.is_some_and(|limit| self.size + more as u64 > limit)
    }

    /// Marks what has just been appended as taken.
    fn commit(&mut self, stream: StdStream, appended: &[u8]) {
        let slot = spool::slot(stream);
        let Some(Spooled { spool, mark, end }) = self.spooled.as_mut().filter(|_| !appended.is_empty()) else { return };
        mark.log_size = self.size;
        mark.taken[slot] = end[slot] - self.partial[slot].len() as u64;
        if let Err(error) = spool.commit(*mark) {
            tracing::error!(path = %self.settings.path.display(), %error, "place in the log could not be marked");
        }
    }

    /// The stream has ended: what is left is a line.
    pub(crate) fn finish(&mut self, stream: StdStream) {
        let partial = std::mem::take(&mut self.partial[spool::slot(stream)]);
        if !partial.is_empty() {
            let mut out = Vec::new();
            record(&mut out, stream, &partial, &self.settings.attributes, Timestamp::now());
            self.append(&out);
            self.commit(stream, &out);
        }
    }

    fn append(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        if self.size > 0
            && self.is_full_with(records.len())
            && let Err(error) = self.rotate()
        {
            tracing::error!(path = %self.settings.path.display(), %error, "log could not be rotated");
        }
        let written = self.file().and_then(|file| file.map_or(Ok(()), |file| file.write_all(records)));
        match written {
            Ok(()) => self.size += records.len() as u64,
            Err(error) => {
                tracing::error!(path = %self.settings.path.display(), %error, "log could not be written");
                // Part of it may have got there.
                let length = self.file.as_ref().and_then(|file| Some(file.metadata().ok()?.len()));
                self.size = length.unwrap_or(self.size);
            }
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let name = |number: u32| rotated(&self.settings.path, number);
        for number in (1..self.settings.max_files).rev() {
            let from = if number == 1 { self.settings.path.clone() } else { name(number - 1) };
            match fs::rename(from, name(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.settings.max_files == 1 {
            fs::remove_file(&self.settings.path)?;
        }
        self.open()?;
        // The mark speaks of the new file before anything is in it.
        if let Some(Spooled { spool, mark, .. }) = &mut self.spooled {
            mark.log_size = self.size;
            spool.commit(*mark)?;
        }
        Ok(())
    }
}

/// The name of the `number`th older file.
pub(super) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// One line of the file. Bytes that are no UTF-8 become replacement characters, as in Docker.
fn record(out: &mut Vec<u8>, stream: StdStream, line: &[u8], attributes: &str, time: Timestamp) {
    let text = String::from_utf8_lossy(line);
    out.extend_from_slice(b"{\"log\":");
    // A string always serialises.
    let _ = serde_json::to_writer(&mut *out, &*text);
    out.extend_from_slice(
        format!(",\"stream\":\"{}\"{attributes},\"time\":\"{}\"}}\n", stream.name(), time.rfc3339_nano()).as_bytes(),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).expect("read");
        let log = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line).expect("a record");
            value["log"].as_str().expect("text").to_owned()
        };
        text.lines().map(log).collect()
    }

    #[test]
    fn lines_are_whole_and_long_ones_split() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        let mut log = JsonLog::new(LogSettings::of(path.clone(), &BTreeMap::new(), &BTreeMap::new()));
        log.open().expect("opened");
        log.write(StdStream::Stdout, b"one\ntw");
        log.write(StdStream::Stderr, b"err\n");
        log.write(StdStream::Stdout, b"o\n");
        log.write(StdStream::Stdout, &[b'x'; MAX_LINE + 5]);
        log.finish(StdStream::Stdout);
        let read = lines(&path);
        assert_eq!(&read[..3], ["one\n", "err\n", "two\n"]);
        assert_eq!(read[3..].iter().map(String::len).collect::<Vec<_>>(), [MAX_LINE, 5]);
    }

    #[test]
    fn the_first_line_makes_the_file() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        let mut log = JsonLog::new(LogSettings::of(path.clone(), &BTreeMap::new(), &BTreeMap::new()));
        log.open().expect("opened");
        log.write(StdStream::Stdout, b"no whole line");
        assert!(!path.exists());
        log.close();
        log.write(StdStream::Stdout, b"after the end\n");
        assert!(!path.exists(), "a closed log takes nothing");
        for line in ["one\n", "two\n"] {
            log.open().expect("opened again");
            log.write(StdStream::Stdout, line.as_bytes());
            log.close();
        }
        assert_eq!(lines(&path), ["one\n", "two\n"]);
    }

    #[test]
    fn rotation_keeps_so_many_files() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("log");
        let options =
            BTreeMap::from([("max-size".to_owned(), "100".to_owned()), ("max-file".to_owned(), "2".to_owned())]);
        let mut log = JsonLog::new(LogSettings::of(path.clone(), &options, &BTreeMap::new()));
        log.open().expect("opened");
        (0..10).for_each(|n| log.write(StdStream::Stdout, format!("line {n}\n").as_bytes()));
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2);
        assert_eq!(lines(&path).last().map(String::as_str), Some("line 9\n"));
        let many: String = (10..100).map(|n| format!("line {n}\n")).collect();
        log.write(StdStream::Stdout, many.as_bytes());
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 2);
        assert!(fs::metadata(&path).expect("there").len() <= 200, "also when much comes at once");
        assert_eq!(lines(&path).last().map(String::as_str), Some("line 99\n"));
        assert_eq!(parse_size("10m"), Some(10 << 20));
    }
}
