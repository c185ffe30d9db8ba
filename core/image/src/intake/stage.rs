//! Staging one layer: from a growing file of the archive to the layer's tar, its diffID, and an unpacked directory that
//! nobody sees yet. Two loads that bring the same blob at the same time share one job.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use dockerd_types::Digest;

use super::disk::{Engine, Keep};
use super::hashing::Hashing;
use super::spool::{Spool, Writer};
use crate::decompress::Compression;
use crate::distribution::LayerBlob;
use crate::error::ImageError;
use crate::layer::broken;
use crate::snapshot::{LayerTar, SnapshotDriver, Staged};
use crate::untar::Skip;

/// A layer that is unpacked and has no name yet.
#[derive(Debug)]
pub(crate) struct StagedLayer {
    /// Digest of the plain tar; `None` where the file of the archive is that tar, whose digest its receiver has.
    pub(crate) diff_id: Option<Digest>,
    /// The plain tar; `None` where it is content already.
    pub(crate) tar: Option<Spool>,
    /// The files.
    pub(crate) files: Staged,
    /// The form in which it came from a registry, to be kept.
    pub(crate) compressed: Option<Compressed>,
}

/// A layer as it came from a registry.
#[derive(Debug)]
pub(crate) struct Compressed {
    /// The file, whose digest was verified.
    pub(crate) received: Spool,
    /// What is known of it.
    pub(crate) form: LayerBlob,
}

#[derive(Debug)]
enum State {
    Working,
    Done(Box<StagedLayer>),
    Failed(ImageError),
    Taken,
}

/// A layer being staged.
#[derive(Debug)]
pub(crate) struct Job {
    state: Mutex<State>,
    changed: Condvar,
    source: Spool,
    consumed: AtomicU64,
}

impl Job {
    /// For the file `source`, which may still grow.
    pub(crate) fn new(source: Spool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Working),
            changed: Condvar::new(),
            source,
            consumed: AtomicU64::new(0),
        })
    }

    /// Does the work. Blocking.
    pub(crate) fn run(&self, compression: Compression, driver: &dyn SnapshotDriver, temporary: &Path) {
        let staged = self.stage(compression, driver, temporary);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = match staged {
            Ok(layer) => State::Done(Box::new(layer)),
            Err(error) => State::Failed(error),
        };
        drop(state);
        self.changed.notify_all();
    }

    fn stage(
        &self,
        compression: Compression,
        driver: &dyn SnapshotDriver,
        temporary: &Path,
    ) -> Result<StagedLayer, ImageError> {
        let mut reader = Counted { inner: self.source.reader()?, consumed: &self.consumed };
        if compression == Compression::None {
            let files = driver.stage(&mut LayerTar { reader: &mut reader, file: self.source.path() })?;
            return Ok(StagedLayer { diff_id: None, tar: Some(self.source.clone()), files, compressed: None });
        }
        stage_stream(&mut *compression.decoder_of(reader)?, driver, temporary)
    }

    /// Ends it without the work having been begun.
    pub(crate) fn fail(&self, error: ImageError) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Failed(error);
        self.changed.notify_all();
    }

    /// What it reads.
    pub(crate) fn source(&self) -> &Spool {
        &self.source
    }

    /// Bytes of the source that are done.
    pub(crate) fn consumed(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    /// Ends it as if its source had been cut off.
    pub(crate) fn cancel(&self) {
        self.source.abort("canceled");
    }

    /// Waits for the end; `None` when somebody else had the layer first. Calls `waiting` now and then.
    pub(crate) fn take(&self, mut waiting: impl FnMut()) -> Result<Option<StagedLayer>, ImageError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while matches!(*state, State::Working) {
            let tick = self.changed.wait_timeout(state, Duration::from_millis(100));
            state = tick.unwrap_or_else(PoisonError::into_inner).0;
            waiting();
        }
        match std::mem::replace(&mut *state, State::Taken) {
            State::Done(layer) => Ok(Some(*layer)),
            State::Failed(error) => Err(error),
            State::Working | State::Taken => Ok(None),
        }
    }
}

/// Counts what is read.
struct Counted<'a, R> {
    inner: R,
    consumed: &'a AtomicU64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.consumed.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Counted<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
        self.consumed.fetch_add(amount as u64, Ordering::Relaxed);
    }
}

impl<R: Skip> Skip for Counted<'_, R> {
    fn skip(&mut self, bytes: u64) -> io::Result<u64> {
        let passed = self.inner.skip(bytes)?;
        self.consumed.fetch_add(passed, Ordering::Relaxed);
        Ok(passed)
    }
}

/// Stages the plain tar `reader`: hashed and written by one thread, unpacked by another.
pub(crate) fn stage_stream(
    reader: &mut (dyn Read + Send),
    driver: &dyn SnapshotDriver,
    temporary: &Path,
) -> Result<StagedLayer, ImageError> {
    let fill = |out: &mut Sink<'_>| loop {
        match reader.read(out.space().map_err(ImageError::io("write layer"))?) {
            Ok(0) => return Ok(()),
            Ok(length) => out.advance(length).map_err(ImageError::io("write layer"))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error.into())),
        }
    };
    stage_filled(fill, driver, temporary)
}

/// Stages the plain tar that `fill` writes.
pub(crate) fn stage_with(
    fill: impl FnOnce(&mut dyn Write) -> Result<(), ImageError>,
    driver: &dyn SnapshotDriver,
    temporary: &Path,
) -> Result<StagedLayer, ImageError> {
    stage_filled(|out| fill(out), driver, temporary)
}

fn stage_filled(
    fill: impl FnOnce(&mut Sink<'_>) -> Result<(), ImageError>,
    driver: &dyn SnapshotDriver,
    temporary: &Path,
) -> Result<StagedLayer, ImageError> {
    let (writer, tar) = Spool::create(temporary)?;
    // Containers will read it.
    let mut writer = writer.handing(Keep::InCache, Engine::best(Keep::InCache));
    // Whoever has less to do hashes: a driver that looks at headers only, else the writer.
    let hashed_behind = driver.reads_tars();
    if hashed_behind {
        writer = writer.unhashed();
    }
    let behind = tar.clone();
    std::thread::scope(|scope| {
        let unpack = scope.spawn(|| {
            let mut reader = behind.reader()?;
            if !hashed_behind {
                return Ok((None, driver.stage(&mut LayerTar { reader: &mut reader, file: behind.path() })?));
            }
            let mut reader = Hashing::new(reader);
            let files = driver.stage(&mut LayerTar { reader: &mut reader, file: behind.path() })?;
            Ok((Some(reader.finish().map_err(ImageError::io("read layer"))?), files))
        });
        let mut sink = Sink { writer: &mut writer, given_up: &|| unpack.is_finished() };
        let filled = fill(&mut sink);
        let written = filled.and_then(|()| writer.finish_if_hashed().map_err(ImageError::io("write layer")));
        if let Err(error) = &written {
            tar.abort(&error.to_string());
        }
        let files = unpack.join().map_err(|_| ImageError::Archive("unpacking panicked".to_owned()))?;
        match (written, files) {
            (Ok(digest), Ok((digest_behind, files))) => {
                Ok(StagedLayer { diff_id: digest.or(digest_behind), tar: Some(tar.clone()), files, compressed: None })
            }
            // Writing stops when nobody unpacks any more; then that is the error to tell.
            (Err(ImageError::Io { source, .. }), Err(error)) if source.kind() == io::ErrorKind::BrokenPipe => {
                Err(error)
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    })
}

/// Writes to a spool as long as it is unpacked.
struct Sink<'a> {
    writer: &'a mut Writer,
    given_up: &'a dyn Fn() -> bool,
}

impl Sink<'_> {
    /// Room for what comes next.
    fn space(&mut self) -> io::Result<&mut [u8]> {
        if (self.given_up)() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.writer.space()
    }

    /// So much of the room is filled.
    fn advance(&mut self, length: usize) -> io::Result<()> {
        self.writer.advance(length)
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.given_up)() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.writer.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
