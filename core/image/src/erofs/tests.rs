//! Trees from tars, through the format and back, against the unpacker, the kernel and erofs-utils.

pub(crate) mod archives;
mod format;
mod kernel;
mod oracle;
pub(crate) mod scanned;
pub(crate) mod seen;
