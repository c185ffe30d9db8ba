//! Wire types of the newest API version that borrow from what the engine published: what lists are made of, where building
//! a tree of values first would cost more than the answer itself.

pub(crate) mod endpoint;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod summary;

use std::fmt::Display;

use serde::{Serialize, Serializer};

/// A value's text, `""` without one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<T>(pub(crate) Option<T>);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_str(""),
        }
    }
}

/// `null` instead of an empty list, as Go writes a nil slice.
pub(crate) fn or_null(list: &[String]) -> Option<&[String]> {
    (!list.is_empty()).then_some(list)
}
