//! A layer on its way in: its tar is scanned ([`crate::erofs`]), its files become objects, and what is kept of it is
//!
//! ```text
//! composefs/layers/<chain>/index    the layer's tree, in the format of our EROFS indexes. Its device 0 is the list of objects:
//!                                   block number n of a file means object number n. Device 1 is the file below, by bytes
//! composefs/layers/<chain>/objects  list of its objects
//! composefs/layers/<chain>/small    content of files too small to be objects, one after the other
//! ```

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use composefs::fsverity::{FsVerityHashValue, FsVerityHasher};
use composefs::{INLINE_CONTENT_MAX_V0, SYMLINK_MAX};

use super::list::{self, Record};
use super::objects::{LIST, ObjectId, Objects};
use crate::erofs::{self, Content, Device, InodeId, Kind, Place, Segment, Tree};
use crate::error::ImageError;
use crate::snapshot::LayerTar;

/// The largest file that is no object: what composefs itself has in its image.
pub(super) const SMALL: u64 = INLINE_CONTENT_MAX_V0 as u64;
/// Files of a layer's directory.
pub(super) const INDEX: &str = "index";
pub(super) const CONTENT: &str = "small";
/// A device number is a block number here.
const UNIT: u64 = 512;
/// The device of small files.
const SMALL_DEVICE: u16 = 1;
/// Neither device has blocks: any number is on it.
const DEVICE: Device = Device { blocks: u32::MAX as u64 - 1, tag: [0; 64] };
/// The largest file: more than a tar of a layer has, and what its blocks still can be counted of.
const MAX_FILE: u64 = 1 << 40;
/// Most bytes of holes in all files of a layer. They take no space, but time: an object's digest is over all its bytes.
const MAX_HOLES: u64 = 64 << 30;
/// The format's count of an inode's shared attributes has a byte, that of their size two.
const MAX_ATTRIBUTES: usize = 100;
const MAX_ATTRIBUTE_BYTES: usize = 128 << 10;
/// Bytes read at a time: whole blocks of fs-verity.
const CHUNK: usize = 1 << 20;
/// Threads that make objects of one layer.
const MOST_THREADS: usize = 4;

/// A file that becomes an object.
struct Job {
    inode: InodeId,
    size: u64,
    content: Content,
}

/// Takes the layer `tar` into the directory `to`; bytes of its files.
pub(super) fn take_in(objects: &Objects, tar: &mut LayerTar<'_>, to: &Path) -> Result<u64, ImageError> {
    let scanned = erofs::scan(&mut *tar.reader, DEVICE.tag)?;
    let tree = scanned.tree;
    let jobs = check(&tree)?;
    let file = File::open(tar.file).map_err(ImageError::io("open layer"))?;
    objects.begin(to);
    let made = make_objects(objects, &Source { tree: &tree, tar: &file }, &jobs, to);
    let made = made.map_err(ImageError::io("make objects of a layer"))?;
    let (records, mut places) = number(made);
    let small = gather_small(&Source { tree: &tree, tar: &file }, &mut places);
    let small = small.map_err(ImageError::io("read layer"))?;
    // All files with content have got one.
    let tree = tree.with_content(vec![DEVICE; 2], |inode| places.get(&inode).copied().unwrap_or(Place::Device(0, 0)));
    let index = erofs::write(&tree)?;
    for (name, bytes) in [(INDEX, index), (LIST, list::encode(&records)), (CONTENT, small)] {
        fs::write(to.join(name), bytes).map_err(ImageError::io("write description of layer"))?;
    }
    Ok(scanned.unpacked.bytes)
}

/// What a file's content in a layer's index means.
pub(super) enum Kept {
    /// The object of this number.
    Object(usize),
    /// Bytes from here on in the file of small ones.
    Small(usize),
}

/// Where the content is that the index of layer number `layer` of several (each with its two devices) has at `place`, and which
/// layer that is.
pub(super) fn kept(place: Place) -> Option<(usize, Kept)> {
    let Place::Device(device, at) = place else { return None };
    let number = usize::try_from(at / UNIT).ok()?;
    let (layer, part) = (usize::from(device / 2), device % 2);
    Some((layer, if part == SMALL_DEVICE { Kept::Small(number) } else { Kept::Object(number) }))
}

/// Files that become objects. Errors: what the format does not take.
fn check(tree: &Tree) -> Result<Vec<Job>, ImageError> {
    let refuse = |what: &str| Err(ImageError::Archive(format!("composefs does not take {what}")));
    let (mut jobs, mut holes) = (Vec::new(), 0u64);
    for id in tree.ids() {
        let inode = tree.inode(id);
        let (mut count, mut bytes) = (0, 0);
        for attribute in tree.attributes(inode) {
            count += 1;
            bytes += attribute.name.len() + attribute.value.len();
        }
        if count > MAX_ATTRIBUTES || bytes > MAX_ATTRIBUTE_BYTES {
            return refuse("so many extended attributes of one file");
        }
        match inode.kind {
            Kind::Symlink(target) if tree.target(target).len() > SYMLINK_MAX => {
                return refuse("targets of symbolic links of more than 1024 bytes");
            }
            Kind::File { size, .. } if size > MAX_FILE => return refuse("files of more than a terabyte"),
            Kind::File { size, content } if size > SMALL => {
                let filled: u64 = tree.segments(content).iter().map(|segment| segment.length).sum();
                holes += size.saturating_sub(filled);
                if holes > MAX_HOLES {
                    return refuse("so large holes in files");
                }
                jobs.push(Job { inode: id, size, content });
            }
            _ => {}
        }
    }
    Ok(jobs)
}

/// A scanned layer and its tar.
#[derive(Clone, Copy)]
struct Source<'a> {
    tree: &'a Tree,
    tar: &'a File,
}

impl<'a> Source<'a> {
    fn segments(self, content: Content) -> &'a [Segment] {
        self.tree.segments(content)
    }

    /// Fills `buffer` with a segment's bytes from `skip` on.
    fn fill(self, segment: &Segment, skip: u64, buffer: &mut [u8]) -> io::Result<()> {
        match segment.place {
            Place::Device(_, at) => self.tar.read_exact_at(buffer, at + skip),
            Place::Spill(at) => {
                buffer.copy_from_slice(self.tree.spilled(at + skip, buffer.len() as u64));
                Ok(())
            }
        }
    }

    fn file(self, size: u64, content: Content) -> FileReader<'a> {
        FileReader { source: self, segments: self.segments(content), at: 0, size }
    }
}

/// A file's bytes, holes read as zeros.
struct FileReader<'a> {
    source: Source<'a>,
    /// Those not behind `at` yet.
    segments: &'a [Segment],
    at: u64,
    size: u64,
}

impl Read for FileReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reach = |end: u64| usize::try_from(end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let length = match self.segments {
            [segment, ..] if segment.offset <= self.at => {
                let length = reach((segment.offset + segment.length).min(self.size));
                self.source.fill(segment, self.at - segment.offset, &mut buffer[..length])?;
                length
            }
            next => {
                let length = reach(next.first().map_or(self.size, |segment| segment.offset.min(self.size)));
                buffer[..length].fill(0);
                length
            }
        };
        self.at += length as u64;
        while let [segment, rest @ ..] = self.segments
            && segment.offset + segment.length <= self.at
        {
            self.segments = rest;
        }
        Ok(length)
    }
}

/// Makes objects of all files, on several threads.
fn make_objects(
    objects: &Objects,
    source: &Source<'_>,
    jobs: &[Job],
    to: &Path,
) -> io::Result<Vec<(InodeId, ObjectId, u64)>> {
    let (next, made) = (AtomicUsize::new(0), Mutex::new(Ok(Vec::with_capacity(jobs.len()))));
    let work = || {
        let (mut buffer, mut own) = (vec![0; CHUNK], Vec::new());
        let mut work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                own.push((job.inode, make(objects, *source, job, to, &mut buffer)?, job.size));
            }
            Ok(())
        };
        let result: io::Result<()> = work();
        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
        match (result, &mut *made) {
            (Ok(()), Ok(all)) => all.append(&mut own),
            (Err(error), all @ Ok(_)) => {
                // The others need not go on.
                next.store(jobs.len(), Ordering::Relaxed);
                *all = Err(error);
            }
            (_, Err(_)) => {}
        }
    };
    let threads =
        std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS).min(jobs.len() / 16 + 1);
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    made.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The digest of the `size` bytes that `reader` has; they are in `buffer` afterwards if it is large enough for them. Its length
/// is one of whole blocks.
fn digest(reader: &mut impl Read, size: u64, buffer: &mut [u8]) -> io::Result<ObjectId> {
    let mut hasher = FsVerityHasher::<ObjectId>::new();
    let mut left = size;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        reader.read_exact(&mut buffer[..length])?;
        buffer[..length].chunks(FsVerityHasher::<ObjectId>::BLOCK_SIZE).for_each(|block| hasher.add_block(block));
        left -= length as u64;
    }
    Ok(hasher.digest())
}

/// Whether the object in the file `path` is what its record says.
pub(super) fn is_whole(path: &Path, record: &Record) -> bool {
    let found = || {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        if size == record.size { digest(&mut file, size, &mut vec![0; CHUNK]) } else { Ok(ObjectId::EMPTY) }
    };
    // What cannot be read is no better than what is wrong.
    found().is_ok_and(|found: ObjectId| found == record.id)
}

/// Makes the object of one file.
fn make(objects: &Objects, source: Source<'_>, job: &Job, to: &Path, buffer: &mut [u8]) -> io::Result<ObjectId> {
    let id = digest(&mut source.file(job.size, job.content), job.size, buffer)?;
    objects.provide(to, &id, |path| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
        if job.size <= buffer.len() as u64 {
            return file.write_all(&buffer[..job.size as usize]);
        }
        copy(source, job, &file, buffer)
    })?;
    Ok(id)
}

/// Writes a file's content to `file`, holes left out.
fn copy(source: Source<'_>, job: &Job, file: &File, buffer: &mut [u8]) -> io::Result<()> {
    file.set_len(job.size)?;
    for segment in source.segments(job.content) {
        let mut done = 0;
        while done < segment.length {
            let length = usize::try_from(segment.length - done).unwrap_or(usize::MAX).min(buffer.len());
            source.fill(segment, done, &mut buffer[..length])?;
            file.write_all_at(&buffer[..length], segment.offset + done)?;
            done += length as u64;
        }
    }
    Ok(())
}

/// The list of objects, and where in it each file's is.
fn number(made: Vec<(InodeId, ObjectId, u64)>) -> (Vec<Record>, HashMap<InodeId, Place>) {
    let mut records: Vec<Record> = Vec::with_capacity(made.len());
    let mut sorted = made;
    sorted.sort_unstable_by(|(a_inode, a, _), (b_inode, b, _)| bytes(a).cmp(bytes(b)).then(a_inode.cmp(b_inode)));
    let mut places = HashMap::with_capacity(sorted.len());
    for (inode, id, size) in sorted {
        match records.last_mut() {
            Some(last) if last.id == id => last.uses += 1,
            _ => records.push(Record { id, size, uses: 1 }),
        }
        places.insert(inode, Place::Device(0, (records.len() as u64 - 1) * UNIT));
    }
    (records, places)
}

fn bytes(id: &ObjectId) -> &[u8] {
    zerocopy::IntoBytes::as_bytes(id)
}

/// The content of all small files, whose places are added to `places`.
fn gather_small(source: &Source<'_>, places: &mut HashMap<InodeId, Place>) -> io::Result<Vec<u8>> {
    let mut small = Vec::new();
    for id in source.tree.ids() {
        if let Kind::File { size: size @ 1..=SMALL, content } = source.tree.inode(id).kind {
            places.insert(id, Place::Device(SMALL_DEVICE, small.len() as u64 * UNIT));
            source.file(size, content).take(size).read_to_end(&mut small)?;
        }
    }
    Ok(small)
}
