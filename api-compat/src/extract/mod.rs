//! Taking requests apart: Docker's query booleans, and JSON the way Go's decoder reads it.

mod json;
pub(crate) mod media_type;
mod query;

pub(crate) use json::{Object, Target};
pub(crate) use query::Query;
