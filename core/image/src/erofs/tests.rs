//! Trees from tars, through the format and back, against the unpacker, the kernel and erofs-utils.

mod archives;
mod format;
mod kernel;
mod oracle;
mod scanned;
pub(crate) mod seen;
