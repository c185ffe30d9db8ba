//! Reading bolt databases, in which the stock daemon keeps its volumes and containerd its images. Reads only, and trusts
//! nothing in the file: every offset is checked, a page that comes twice ends the search, and depth, pages, items and
//! bytes are bounded.
//!
//! The format is bbolt's (`go.etcd.io/bbolt`, `internal/common`: `page.go`, `meta.go`, `bucket.go`), little-endian:
//!
//! ```text
//! page     id u64, flags u16, count u16, overflow u32 (further pages that belong to it); elements follow
//! meta     (pages 0 and 1) magic u32, version u32, page size u32, flags u32, root bucket {page u64, sequence u64},
//!          freelist u64, pages u64, transaction u64, FNV-1a 64 of all that stands before it
//! branch   elements {position u32, key size u32, page u64}; the position counts from the element
//! leaf     elements {flags u32, position u32, key size u32, value size u32}; the value follows the key
//! bucket   a leaf's value with flag 1: {page u64, sequence u64}; with page 0 a leaf page follows in the value itself
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
const META: u16 = 4;
/// Flag of a leaf's element whose value is a bucket.
const IS_BUCKET: u32 = 1;
/// Length of a page's header, of a bucket's, and of an element of either kind.
const HEADER: usize = 16;
/// Length of the meta data that the checksum covers.
const META_LENGTH: usize = 56;
/// Sizes of pages that machines have; bolt takes the machine's.
const PAGE_SIZES: std::ops::RangeInclusive<u64> = 512..=1 << 20;
/// Longest page with all that belongs to it. Bolt's own limit for one value is 2 GiB; values here are names and JSON.
const MOST_OF_A_PAGE: u64 = 64 << 20;
/// Levels of one tree; a tree of four has billions of items.
const MOST_DEPTH: u32 = 32;
/// Items of one bucket.
const MOST_ITEMS: usize = 1 << 22;
/// Bytes of one bucket's keys and values.
const MOST_BYTES: usize = 256 << 20;

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BoltError {
    /// The kernel refused.
    #[error("cannot read database: {0}")]
    Io(#[from] io::Error),
    /// Somebody has it open for writing.
    #[error("database is in use")]
    InUse,
    /// Neither of the two descriptions of the file is one.
    #[error("not a bolt database")]
    NotBolt,
    /// Something in it is not as it must be.
    #[error("broken database: {0} (page {1})")]
    Broken(&'static str, u64),
    /// More than anybody has.
    #[error("database is too large: {0}")]
    TooLarge(&'static str),
}

/// A database.
#[derive(Debug)]
pub struct Bolt {
    source: Source,
    page_size: u64,
    pages: u64,
    root: u64,
}

/// Where the bytes are.
#[derive(Debug)]
enum Source {
    /// The file, held open with a shared lock: nobody writes it meanwhile (bolt locks it by flock(2)).
    File(File),
    #[cfg(any(test, fuzzing))]
    Memory(Vec<u8>),
}

/// A bucket of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Page(u64),
    /// A leaf page in the value of another.
    Inline(Vec<u8>),
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Bytes.
    Value(Vec<u8>),
    /// Another bucket.
    Bucket(Bucket),
}

/// What is in a bucket, by key.
pub type Items = Vec<(Vec<u8>, Item)>;

impl Bolt {
    /// Opens the database in `file`, and keeps others from writing it for as long as this lives.
    pub fn open(file: File) -> Result<Self, BoltError> {
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(BoltError::InUse),
            Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        Self::of(Source::File(file))
    }

    /// Opens the database in these bytes.
    #[cfg(any(test, fuzzing))]
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, BoltError> {
        Self::of(Source::Memory(bytes))
    }

    fn of(source: Source) -> Result<Self, BoltError> {
        let length = source.length()?;
        let mut sizes = (PAGE_SIZES.start().ilog2()..=PAGE_SIZES.end().ilog2()).map(|bits| 1u64 << bits);
        let first = meta(&source, 0)?;
        // Where the first description is broken, the second is looked for at every place it can have.
        let second = match &first {
            Some(meta) => self::meta(&source, meta.page_size)?,
            None => sizes.find_map(|size| meta(&source, size).ok().flatten().filter(|meta| meta.page_size == size)),
        };
        let newest = first.into_iter().chain(second).max_by_key(|meta| meta.transaction);
        let Meta { page_size, root, .. } = newest.ok_or(BoltError::NotBolt)?;
        Ok(Self { source, page_size, pages: length / page_size, root })
    }

    /// The bucket everything else is in.
    pub fn root(&self) -> Bucket {
        Bucket(Place::Page(self.root))
    }

    /// The bucket that the names `path` lead to; `None` where one of them is missing or no bucket.
    pub fn bucket(&self, path: &[&str]) -> Result<Option<Bucket>, BoltError> {
        let mut bucket = self.root();
        for name in path {
            match self.get(&bucket, name)? {
                Some(Item::Bucket(next)) => bucket = next,
                _ => return Ok(None),
            }
        }
        Ok(Some(bucket))
    }

    /// What `key` names in `bucket`. Reads all of the bucket: those that are asked for single keys are small.
    pub fn get(&self, bucket: &Bucket, key: &str) -> Result<Option<Item>, BoltError> {
        let items = self.items(bucket)?;
        Ok(items.into_iter().find(|(name, _)| name == key.as_bytes()).map(|(_, item)| item))
    }

    /// The value of `key` in `bucket`.
    pub fn value(&self, bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>, BoltError> {
        Ok(self.get(bucket, key)?.and_then(|item| match item {
            Item::Value(value) => Some(value),
            Item::Bucket(_) => None,
        }))
    }

    /// All that is in `bucket`, in its order.
    pub fn items(&self, bucket: &Bucket) -> Result<Items, BoltError> {
        let mut walk = Walk { bolt: self, left: self.pages, bytes: MOST_BYTES, items: Vec::new() };
        match &bucket.0 {
            Place::Page(page) => walk.page(*page, 0)?,
            Place::Inline(page) => walk.leaf(page, 0)?,
        }
        Ok(walk.items)
    }

    /// A page and what belongs to it.
    fn read(&self, id: u64) -> Result<Vec<u8>, BoltError> {
        let broken = |why| BoltError::Broken(why, id);
        if id >= self.pages {
            return Err(broken("page beyond the end"));
        }
        let mut header = [0; HEADER];
        self.source.read(&mut header, id * self.page_size)?;
        let further = u64::from(u32_at(&header, 12).unwrap_or_default());
        if further >= self.pages - id {
            return Err(broken("page reaches beyond the end"));
        }
        let length = (further + 1) * self.page_size;
        if length > MOST_OF_A_PAGE {
            return Err(BoltError::TooLarge("page"));
        }
        let mut page = vec![0; usize::try_from(length).map_err(|_| BoltError::TooLarge("page"))?];
        self.source.read(&mut page, id * self.page_size)?;
        if u64_at(&page, 0) != Some(id) {
            return Err(broken("page has another number"));
        }
        Ok(page)
    }
}

impl Source {
    fn length(&self) -> io::Result<u64> {
        match self {
            Self::File(file) => Ok(file.metadata()?.len()),
            #[cfg(any(test, fuzzing))]
            Self::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buffer, at),
            #[cfg(any(test, fuzzing))]
            Self::Memory(bytes) => {
                let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..)?.get(..buffer.len()));
                buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }
}

/// One of the two descriptions of the file.
#[derive(Debug)]
struct Meta {
    page_size: u64,
    root: u64,
    transaction: u64,
}

/// The description in the page at `at`; `None` where there is no valid one.
fn meta(source: &Source, at: u64) -> Result<Option<Meta>, BoltError> {
    let mut page = [0; HEADER + META_LENGTH + 8];
    match source.read(&mut page, at) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let (header, meta) = page.split_at(HEADER);
    let is_meta = u16_at(header, 8) == Some(META)
        && u32_at(meta, 0) == Some(MAGIC)
        && u32_at(meta, 4) == Some(VERSION)
        && u64_at(meta, META_LENGTH) == Some(fnv(&meta[..META_LENGTH]));
    let (Some(size), Some(root), Some(transaction)) = (u32_at(meta, 8), u64_at(meta, 16), u64_at(meta, 48)) else {
        return Ok(None);
    };
    let page_size = u64::from(size);
    let valid = is_meta && size.is_power_of_two() && PAGE_SIZES.contains(&page_size);
    Ok(valid.then_some(Meta { page_size, root, transaction }))
}

/// Collecting the items of one bucket.
struct Walk<'a> {
    bolt: &'a Bolt,
    /// Pages that may still come: a tree has each page of the file once at most.
    left: u64,
    bytes: usize,
    items: Items,
}

impl Walk<'_> {
    fn page(&mut self, id: u64, depth: u32) -> Result<(), BoltError> {
        let broken = |why| BoltError::Broken(why, id);
        self.left = self.left.checked_sub(1).ok_or_else(|| broken("a page comes twice"))?;
        if depth > MOST_DEPTH {
            return Err(broken("tree is too deep"));
        }
        let page = self.bolt.read(id)?;
        match u16_at(&page, 8) {
            Some(LEAF) => self.leaf(&page, id),
            Some(BRANCH) => {
                let count = usize::from(u16_at(&page, 10).unwrap_or_default());
                let below = (1..=count).map(|number| u64_at(&page, HEADER * number + 8));
                let below = below.collect::<Option<Vec<u64>>>().ok_or_else(|| broken("element is cut off"))?;
                // Pages may be large, and there may be many above each other.
                drop(page);
                below.into_iter().try_for_each(|below| self.page(below, depth + 1))
            }
            _ => Err(broken("neither branch nor leaf")),
        }
    }

    fn leaf(&mut self, page: &[u8], id: u64) -> Result<(), BoltError> {
        let cut_off = || BoltError::Broken("element is cut off", id);
        if u16_at(page, 8) != Some(LEAF) {
            return Err(BoltError::Broken("no leaf", id));
        }
        let count = usize::from(u16_at(page, 10).unwrap_or_default());
        for number in 0..count {
            let at = HEADER * (number + 1);
            let field = |offset| u32_at(page, at + offset).ok_or_else(cut_off);
            let (flags, position, key, value) =
                (field(0)?, field(4)? as usize, field(8)? as usize, field(12)? as usize);
            let data = page.get(at..).and_then(|rest| rest.get(position..)).ok_or_else(cut_off)?;
            let (key, rest) = data.split_at_checked(key).ok_or_else(cut_off)?;
            let value = rest.get(..value).ok_or_else(cut_off)?;
            let bytes = self.bytes.checked_sub(key.len() + value.len());
            self.bytes = bytes.ok_or(BoltError::TooLarge("bucket"))?;
            if self.items.len() >= MOST_ITEMS {
                return Err(BoltError::TooLarge("bucket"));
            }
            let item = if flags & IS_BUCKET == 0 { Item::Value(value.to_vec()) } else { bucket(value, id)? };
            self.items.push((key.to_vec(), item));
        }
        Ok(())
    }
}

fn bucket(value: &[u8], id: u64) -> Result<Item, BoltError> {
    let root = u64_at(value, 0).ok_or(BoltError::Broken("bucket is cut off", id))?;
    let inline = value.get(HEADER..).ok_or(BoltError::Broken("bucket is cut off", id))?;
    Ok(Item::Bucket(Bucket(if root == 0 { Place::Inline(inline.to_vec()) } else { Place::Page(root) })))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Reads all of any bytes, buckets in buckets too; fails or ends.
#[cfg(any(test, fuzzing))]
pub fn fuzz(data: &[u8]) {
    let Ok(bolt) = Bolt::from_bytes(data.to_vec()) else { return };
    let (mut open, mut seen) = (vec![bolt.root()], 0);
    while let Some(bucket) = open.pop() {
        // Buckets may hold each other in a broken file; whoever walks them by name stops by itself.
        seen += 1;
        if seen > 64 {
            return;
        }
        let Ok(items) = bolt.items(&bucket) else { continue };
        let bytes: usize = items.iter().map(|(key, _)| key.len()).sum();
        assert!(bytes <= MOST_BYTES);
        open.extend(items.into_iter().filter_map(|(_, item)| match item {
            Item::Bucket(bucket) => Some(bucket),
            Item::Value(_) => None,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Databases of the stock daemon, made by `compat-tests/data/moving/make.sh`.
    fn seed(name: &str) -> Vec<u8> {
        let path = format!("{}/../../fuzz/seeds/bolt/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read(path).expect("a seed")
    }

    fn names(bolt: &Bolt, path: &[&str]) -> Vec<String> {
        let bucket = bolt.bucket(path).expect("readable").expect("there");
        let items = bolt.items(&bucket).expect("readable");
        items.into_iter().map(|(key, _)| String::from_utf8_lossy(&key).into_owned()).collect()
    }

    #[test]
    fn volumes_of_the_stock_daemon() {
        let bolt = Bolt::from_bytes(seed("volumes")).expect("a database");
        let volumes = bolt.bucket(&["volumes"]).expect("readable").expect("there");
        let text = bolt.value(&volumes, "moving-volume").expect("readable").expect("there");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains(r#""kept":"yes""#), "{text}");
        assert_eq!(bolt.bucket(&["volumes", "none"]).expect("readable"), None);
    }

    #[test]
    fn images_of_containerd() {
        let bolt = Bolt::from_bytes(seed("containerd")).expect("a database");
        let images = names(&bolt, &["v1", "moby", "images"]);
        assert!(images.iter().any(|name| name == "docker.io/library/moving-c:latest"), "{images:?}");
        let target = bolt.bucket(&["v1", "moby", "images", "docker.io/library/moving-a:1", "target"]);
        let target = target.expect("readable").expect("there");
        let digest = bolt.value(&target, "digest").expect("readable").expect("there");
        assert!(digest.starts_with(b"sha256:"));
    }

    #[test]
    fn the_second_description_serves_where_the_first_is_broken() {
        let mut bytes = seed("volumes");
        let whole = names(&Bolt::from_bytes(bytes.clone()).expect("a database"), &["volumes"]);
        assert!(!whole.is_empty());
        bytes[HEADER + 20] ^= 1;
        assert!(Bolt::from_bytes(bytes.clone()).is_ok());
        bytes[4096 + HEADER + 20] ^= 1;
        assert!(matches!(Bolt::from_bytes(bytes), Err(BoltError::NotBolt)));
        assert!(matches!(Bolt::from_bytes(Vec::new()), Err(BoltError::NotBolt)));
    }

    #[test]
    fn a_page_below_itself_is_an_error() {
        let bytes = seed("containerd");
        let bolt = Bolt::from_bytes(bytes.clone()).expect("a database");
        let root = usize::try_from(bolt.root * bolt.page_size).expect("small");
        // A branch with one element, which leads back to it.
        let mut looped = bytes;
        looped[root + 8..root + 12].copy_from_slice(&[1, 0, 1, 0]);
        looped[root + HEADER + 8..root + HEADER + 16].copy_from_slice(&bolt.root.to_le_bytes());
        let bolt = Bolt::from_bytes(looped).expect("its description is whole");
        assert!(matches!(bolt.items(&bolt.root()), Err(BoltError::Broken(..))));
    }

    #[test]
    fn who_writes_is_not_read() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), seed("volumes")).expect("written");
        let writer = file.reopen().expect("opened");
        writer.lock().expect("locked");
        assert!(matches!(Bolt::open(file.reopen().expect("opened")), Err(BoltError::InUse)));
        drop(writer);
        let reading = Bolt::open(file.reopen().expect("opened")).expect("free");
        assert!(file.reopen().expect("opened").try_lock().is_err(), "locked while it is read");
        drop(reading);
    }

    #[test]
    fn seeds_and_mutations() {
        fuzz_mutate::run("bolt", 2000, super::fuzz);
    }
}
