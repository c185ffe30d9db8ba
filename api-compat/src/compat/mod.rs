//! Older versions of the API, one file per resource: requests are brought up to the newest version, responses brought down
//! from it. Everything else knows the newest only. What changed when was compared with the stock daemon, version by version.

pub(crate) mod containers;
pub(crate) mod images;
pub(crate) mod system;
