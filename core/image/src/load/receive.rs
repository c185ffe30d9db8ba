//! Taking an archive apart. Entries may come in any order and the documents that explain them often come last, so what
//! looks like a layer is staged on suspicion while it arrives; what then turns out to belong to no image is thrown away.
//! Names of the archive are only ever keys of a map.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use dockerd_types::Digest;
use sha2::{Digest as _, Sha256};

use crate::decompress::{self, Compression};
use crate::error::ImageError;
use crate::intake::pool::Pool;
use crate::intake::spool::Spool;
use crate::intake::stage::{Job, StagedLayer, stage_stream};
use crate::layer::broken;
use crate::lease::Lease;
use crate::store::ImageStore;
use crate::untar::{Entry, EntryKind, TarReader, begins_tar};

/// More files than any real archive of images has.
const MAX_FILES: usize = 100_000;
/// Longest file kept in memory: manifests and configurations.
const MAX_SMALL: u64 = 1 << 20;
/// Longest JSON document that is read into memory from disk.
const MAX_JSON: u64 = 16 << 20;
/// What all small files together may take.
const MAX_MEMORY: u64 = 32 << 20;
/// Links to links followed at most; old archives link equal layers to each other, once.
const MAX_LINKS: usize = 8;
/// Layers of one load unpacked at a time: more do not help a disk.
const MOST_WORKERS: usize = 4;

/// One file of the archive.
#[derive(Debug)]
pub(super) enum Body {
    /// All of it.
    Memory(Vec<u8>, Digest),
    /// On disk, perhaps with a job that stages it.
    Spooled { spool: Spool, digest: Digest, compression: Compression, job: Option<Arc<Job>> },
    /// Not kept, because the content store has it.
    Known(Digest),
}

impl Body {
    /// Digest of the file as it is in the archive.
    pub(super) fn digest(&self) -> Digest {
        match self {
            Self::Memory(_, digest) | Self::Known(digest) | Self::Spooled { digest, .. } => digest.clone(),
        }
    }

    /// Whether it is not compressed, so that its digest, if it is a layer, is its diffID.
    pub(super) fn is_plain(&self) -> bool {
        let compression = match self {
            Self::Memory(bytes, _) => Compression::of(bytes),
            Self::Spooled { compression, .. } => *compression,
            Self::Known(_) => Compression::None,
        };
        compression == Compression::None
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes, _) => bytes.len() as u64,
            Self::Spooled { spool, .. } => spool.len(),
            Self::Known(_) => 0,
        }
    }

    /// The layer it holds: what its job makes of it, or else made now.
    pub(super) fn staged(&self, store: &ImageStore, report: &mut dyn FnMut(u64)) -> Result<StagedLayer, ImageError> {
        let (driver, temporary) = (&**store.snapshots(), store.content().temporary());
        match self {
            Self::Memory(bytes, _) => stage_stream(&mut *decompress::plain(&bytes[..])?, driver, temporary),
            Self::Known(digest) => store.restage(digest),
            Self::Spooled { spool, compression, job, .. } => {
                if let Some(job) = job
                    && let Some(layer) = job.take(|| report(job.consumed()))?
                {
                    return Ok(layer);
                }
                stage_stream(&mut *compression.decoder_of(spool.reader()?)?, driver, temporary)
            }
        }
    }
}

/// An archive taken apart.
#[derive(Debug)]
pub(super) struct Arrivals {
    files: HashMap<PathBuf, Body>,
    links: HashMap<PathBuf, PathBuf>,
    /// Jobs of this load; others' are left alone when it fails.
    own: Vec<Arc<Job>>,
    pool: Pool,
    memory: u64,
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        // The pool waits for its threads after this.
        self.own.iter().for_each(|job| job.cancel());
    }
}

impl Arrivals {
    /// Reads all of the archive.
    pub(super) fn receive(store: &ImageStore, lease: &Lease, reader: impl Read + Send) -> Result<Self, ImageError> {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
        let (files, links) = (HashMap::new(), HashMap::new());
        let mut out = Self { files, links, own: Vec::new(), pool: Pool::new(workers), memory: 0 };
        let mut archive = TarReader::new(decompress::plain(reader)?);
        while let Some(entry) = archive.next_entry().map_err(broken)? {
            if out.files.len() + out.links.len() >= MAX_FILES {
                return Err(ImageError::Archive("invalid archive: too many files".to_owned()));
            }
            let path = normal(&entry.path);
            match entry.kind {
                EntryKind::File => {
                    let body = out.file(store, lease, &mut archive, &entry, &path)?;
                    out.files.insert(path, body);
                }
                EntryKind::Symlink => {
                    let beside = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
                    let target = normal(beside.join(os(&entry.link)).as_os_str().as_encoded_bytes());
                    out.links.insert(path, target);
                }
                EntryKind::HardLink => _ = out.links.insert(path, normal(&entry.link)),
                _ => {}
            }
        }
        archive.drain().map_err(|error| broken(error.into()))?;
        Ok(out)
    }

    fn file<R: Read>(
        &mut self,
        store: &ImageStore,
        lease: &Lease,
        archive: &mut TarReader<R>,
        entry: &Entry,
        path: &Path,
    ) -> Result<Body, ImageError> {
        if entry.segments.is_some() {
            return Err(ImageError::Archive(format!("invalid archive: {} is sparse", path.display())));
        }
        let named = digest_in_name(path);
        if entry.size <= MAX_SMALL && self.memory + entry.size <= MAX_MEMORY && !looks_like_layer(path) {
            let bytes = archive.data_to_end(MAX_SMALL, "document").map_err(broken)?;
            self.memory += entry.size;
            let digest = Digest::sha256(&Sha256::digest(&bytes).into());
            return Ok(Body::Memory(bytes, digest));
        }
        if let Some(digest) = &named
            && store.content().has(digest)
        {
            lease.cover(digest);
            if store.content().has(digest) {
                return known(archive, digest, path);
            }
        }
        let (mut writer, spool) = Spool::create(store.content().temporary())?;
        let (mut compression, mut job, mut first) = (Compression::None, None, true);
        loop {
            let piece = archive.data().map_err(broken)?;
            if piece.is_empty() {
                break;
            }
            if std::mem::take(&mut first) {
                compression = Compression::of(piece);
                if compression != Compression::None || begins_tar(piece) {
                    job = Some(self.start(store, &spool, compression, named.as_ref())?);
                }
            }
            writer.write(piece).map_err(ImageError::io("receive archive"))?;
        }
        Ok(Body::Spooled {
            digest: writer.finish().map_err(ImageError::io("receive archive"))?,
            spool,
            compression,
            job,
        })
    }

    /// Starts staging what still arrives, unless another load stages the same blob now.
    fn start(
        &mut self,
        store: &ImageStore,
        spool: &Spool,
        compression: Compression,
        named: Option<&Digest>,
    ) -> Result<Arc<Job>, ImageError> {
        let (job, own) = match named {
            Some(digest) => store.share_job(digest, || Job::new(spool.clone())),
            None => (Job::new(spool.clone()), true),
        };
        if own {
            self.own.push(job.clone());
            let (work, store) = (job.clone(), store.clone());
            let run = move || work.run(compression, &**store.snapshots(), store.content().temporary());
            self.pool.run(run).map_err(ImageError::io("start a thread"))?;
        }
        Ok(job)
    }

    /// The file of that name, through links.
    pub(super) fn body(&self, name: &str) -> Result<&Body, ImageError> {
        self.find(name).ok_or_else(|| ImageError::Archive(format!("open {name}: no such file or directory")))
    }

    fn find(&self, name: &str) -> Option<&Body> {
        let mut path = normal(name.as_bytes());
        for _ in 0..MAX_LINKS {
            match self.links.get(&path) {
                Some(target) => path.clone_from(target),
                None => break,
            }
        }
        self.files.get(&path)
    }

    /// A document of the archive; `None` when there is no such file.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>, ImageError> {
        self.find(name).map(|body| read(body, name)).transpose()
    }

    /// A small blob, checked.
    pub(super) fn blob(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let name = blob_path(digest);
        let body = self.body(&name)?;
        let found = body.digest();
        if found != *digest {
            return Err(ImageError::WrongDigest { what: name, expected: digest.clone(), found });
        }
        read(body, &name)
    }
}

fn read(body: &Body, name: &str) -> Result<Vec<u8>, ImageError> {
    if let Body::Memory(bytes, _) = body {
        return Ok(bytes.clone());
    }
    let Body::Spooled { spool, .. } = body else {
        return Err(ImageError::Archive(format!("invalid archive: {name} is a layer")));
    };
    if spool.len() > MAX_JSON {
        return Err(ImageError::Archive(format!("invalid archive: {name} is too large")));
    }
    let mut bytes = Vec::new();
    spool.reader()?.read_to_end(&mut bytes).map_err(ImageError::io("read archive"))?;
    Ok(bytes)
}

/// Only hashes what is there already.
fn known<R: Read>(archive: &mut TarReader<R>, digest: &Digest, path: &Path) -> Result<Body, ImageError> {
    let mut hasher = Sha256::new();
    loop {
        let piece = archive.data().map_err(broken)?;
        if piece.is_empty() {
            break;
        }
        hasher.update(piece);
    }
    let found = Digest::sha256(&hasher.finalize().into());
    if found == *digest {
        return Ok(Body::Known(found));
    }
    Err(ImageError::WrongDigest { what: path.display().to_string(), expected: digest.clone(), found })
}

/// Where an OCI layout has a blob.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The digest a file of an OCI layout is named by.
fn digest_in_name(path: &Path) -> Option<Digest> {
    let hex = path.strip_prefix("blobs/sha256").ok()?.to_str()?;
    Digest::parse(&format!("sha256:{hex}")).ok()
}

/// Small layers are staged while they arrive too, where the name says that it is one.
fn looks_like_layer(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "layer.tar")
}

fn os(bytes: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

/// The path's plain parts; it is only a key, so `..` needs no more than to be resolved by name.
fn normal(path: &[u8]) -> PathBuf {
    let mut out = PathBuf::new();
    for component in Path::new(os(path)).components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::ParentDir => _ = out.pop(),
            _ => {}
        }
    }
    out
}
