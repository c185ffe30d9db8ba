//! The messages of the FUSE protocol that a file for reading needs, in the machine's byte order (the kernel's
//! include/uapi/linux/fuse.h; numbers and names are from there). Pure: bytes in, bytes out.

/// Protocol the answers are laid out for. 7.40 has the request to send again.
const MAJOR: u32 = 7;
const MINOR: u32 = 40;

/// Longest READ: 256 pages.
pub(super) const MAX_READ: u32 = 1 << 20;
/// The kernel asks for a buffer of 8 KiB at least; requests to read are short.
pub(super) const BUFFER: usize = 16 << 10;
/// `struct fuse_in_header`.
const IN_HEADER: usize = 40;
/// `struct fuse_out_header`.
pub(super) const OUT_HEADER: usize = 16;

/// `FUSE_NOTIFY_RESEND`.
const NOTIFY_RESEND: i32 = 7;

const ASYNC_READ: u64 = 1;
const MAX_PAGES: u64 = 1 << 22;
const INIT_EXT: u64 = 1 << 30;
const HAS_RESEND: u64 = 1 << 39;

/// A number the kernel waits for as "for ever".
const FOR_EVER: u64 = i64::MAX as u64;
/// The one file's node.
const ROOT: u64 = 1;
const BLOCK: u32 = 4096;

/// A request, as far as it is understood here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// The first of a session.
    Init(Init),
    /// Attributes of the file.
    GetAttr,
    /// Bytes of the file.
    Read {
        /// From where.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// Sizes of the file system.
    StatFs,
    /// Gets no answer.
    Forget,
    /// Nothing to do, but to say so.
    Farewell,
    /// Would change something.
    Change,
    /// Not served; the kernel remembers most of these as such.
    Unknown,
    /// Its body is shorter than its kind's.
    Short,
}

/// `struct fuse_init_in`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Init {
    major: u32,
    max_readahead: u32,
    flags: u64,
}

/// Why a session cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooOld;

/// The number to answer with and the request; `None` for what is no request.
pub(super) fn parse(message: &[u8]) -> Option<(u64, Request)> {
    let body = message.get(IN_HEADER..)?;
    if usize::try_from(u32_at(message, 0)?).ok()? != message.len() {
        return None;
    }
    let unique = u64_at(message, 8)?;
    let request = match u32_at(message, 4)? {
        // FORGET, BATCH_FORGET
        2 | 42 => Request::Forget,
        3 => Request::GetAttr,
        15 => read(body).unwrap_or(Request::Short),
        17 => Request::StatFs,
        26 => init(body).map_or(Request::Short, Request::Init),
        // RELEASE, DESTROY
        18 | 38 => Request::Farewell,
        // SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, SETXATTR, REMOVEXATTR, CREATE, FALLOCATE,
        // RENAME2
        4 | 6 | 8..=13 | 16 | 21 | 24 | 35 | 43 | 45 => Request::Change,
        // Among them OPEN, FLUSH and INTERRUPT, which are not sent again after that.
        _ => Request::Unknown,
    };
    Some((unique, request))
}

fn init(body: &[u8]) -> Option<Init> {
    let flags = u64::from(u32_at(body, 12)?);
    let more = if flags & INIT_EXT != 0 { u64::from(u32_at(body, 16)?) << 32 } else { 0 };
    Some(Init { major: u32_at(body, 0)?, max_readahead: u32_at(body, 8)?, flags: flags | more })
}

fn read(body: &[u8]) -> Option<Request> {
    Some(Request::Read { offset: u64_at(body, 8)?, length: u32_at(body, 16)? })
}

/// `struct fuse_init_out`; the kernel must know how to send requests again.
pub(super) fn init_answer(init: Init) -> Result<Vec<u8>, TooOld> {
    if init.major < MAJOR || (init.major == MAJOR && init.flags & HAS_RESEND == 0) {
        return Err(TooOld);
    }
    let flags = (ASYNC_READ | MAX_PAGES | INIT_EXT | HAS_RESEND) & init.flags;
    let mut out = Out::with_capacity(64);
    // A kernel of a later major version asks again, in ours.
    out.u32(MAJOR).u32(MINOR).u32(init.max_readahead).u32(flags as u32);
    // Requests that wait for bytes must not hold up those whose bytes are here.
    out.u16(u16::MAX).u16(u16::MAX);
    // Longest write (never), granularity of times (1 ns), pages of a request, alignment of mappings (none).
    out.u32(BLOCK).u32(1).u16((MAX_READ / BLOCK) as u16).u16(0);
    out.u32((flags >> 32) as u32).zeros(28);
    Ok(out.0)
}

/// `struct fuse_attr_out`: a file of `size` bytes that stays as it is.
pub(super) fn attributes(size: u64) -> Vec<u8> {
    let mut out = Out::with_capacity(104);
    out.u64(FOR_EVER).u32(0).u32(0);
    // Node, size, blocks of 512 bytes, three times.
    out.u64(ROOT).u64(size).u64(size.div_ceil(512)).zeros(3 * 8 + 3 * 4);
    // Mode, links, user, group, device, block size, flags.
    out.u32(MODE).u32(1).u32(0).u32(0).u32(0).u32(BLOCK).u32(0);
    out.0
}

/// Of the file: regular, for its owner.
pub(super) const MODE: u32 = 0o100_400;

/// `struct fuse_statfs_out`.
pub(super) fn sizes(size: u64) -> Vec<u8> {
    let mut out = Out::with_capacity(80);
    // Blocks, free, available, files, free.
    out.u64(size.div_ceil(u64::from(BLOCK))).u64(0).u64(0).u64(1).u64(0);
    // Block size, longest name, fragment size.
    out.u32(BLOCK).u32(255).u32(BLOCK).zeros(28);
    out.0
}

/// The head of an answer of `length` bytes, or of none and the error number `error`.
pub(super) fn head(unique: u64, error: i32, length: usize) -> Option<[u8; OUT_HEADER]> {
    let mut out = [0; OUT_HEADER];
    out[..4].copy_from_slice(&u32::try_from(OUT_HEADER + length).ok()?.to_ne_bytes());
    out[4..8].copy_from_slice(&error.checked_neg()?.to_ne_bytes());
    out[8..].copy_from_slice(&unique.to_ne_bytes());
    Some(out)
}

/// Asks the kernel to send all requests again that were read but not answered.
pub(super) fn resend() -> [u8; OUT_HEADER] {
    let mut out = [0; OUT_HEADER];
    out[..4].copy_from_slice(&(OUT_HEADER as u32).to_ne_bytes());
    out[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    out
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

struct Out(Vec<u8>);

impl Out {
    fn with_capacity(length: usize) -> Self {
        Self(Vec::with_capacity(length))
    }

    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(opcode: u32, unique: u64, body: &[u8]) -> Vec<u8> {
        let mut out = Out::with_capacity(64);
        out.u32((IN_HEADER + body.len()) as u32).u32(opcode).u64(unique).zeros(24);
        out.0.extend(body);
        out.0
    }

    fn init_body(major: u32, flags: u64) -> Vec<u8> {
        let mut out = Out::with_capacity(64);
        out.u32(major).u32(45).u32(131_072).u32(flags as u32).u32((flags >> 32) as u32).zeros(44);
        out.0
    }

    #[test]
    fn answers_are_as_long_as_the_kernels_structures() {
        assert_eq!((attributes(5).len(), sizes(5).len()), (104, 80));
        let all = Init { major: 7, max_readahead: 1, flags: u64::MAX };
        let answer = init_answer(all).expect("new enough");
        assert_eq!(answer.len(), 64);
        // The last of what is set is the second half of the flags.
        assert_eq!(u32_at(&answer, 32), Some(1 << 7));
    }

    #[test]
    fn kernels_that_cannot_send_again_are_refused() {
        let of = |major, flags| {
            let Some((9, Request::Init(init))) = parse(&message(26, 9, &init_body(major, flags))) else {
                panic!("an INIT");
            };
            init_answer(init)
        };
        assert!(of(7, INIT_EXT | HAS_RESEND).is_ok());
        assert_eq!(of(7, INIT_EXT), Err(TooOld));
        // Its second half of the flags is not meant.
        assert_eq!(of(7, HAS_RESEND), Err(TooOld));
        assert_eq!(of(6, INIT_EXT | HAS_RESEND), Err(TooOld));
        assert!(of(8, 0).is_ok(), "asked again in our version");
    }

    #[test]
    fn requests_are_told_apart() {
        let mut body = Out::with_capacity(40);
        body.u64(0).u64(1 << 40).u32(4096).zeros(20);
        let read = Request::Read { offset: 1 << 40, length: 4096 };
        assert_eq!(parse(&message(15, 3 | 1 << 63, &body.0)), Some((3 | 1 << 63, read)));
        assert_eq!(parse(&message(15, 3, &body.0[..19])), Some((3, Request::Short)));
        assert_eq!(parse(&message(26, 3, &init_body(7, INIT_EXT)[..16])), Some((3, Request::Short)));
        assert_eq!(parse(&message(16, 3, &[])), Some((3, Request::Change)));
        assert_eq!(parse(&message(14, 3, &[])), Some((3, Request::Unknown)));
        let mut wrong = message(3, 3, &[]);
        wrong.push(0);
        assert_eq!(parse(&wrong), None, "its length is another");
        assert_eq!(parse(&wrong[..39]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes in proptest::collection::vec(any::<u8>(), 0..200), opcode in 0_u32..60) {
            let _ = parse(&bytes);
            let _ = parse(&message(opcode, 1, &bytes));
        }
    }
}
