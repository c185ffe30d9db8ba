//! Taking requests apart: Docker's query booleans, and JSON the way Go's decoder reads it.

mod json;
mod query;

pub(crate) use json::Object;
pub(crate) use query::Query;
