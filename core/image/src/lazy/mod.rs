//! Lazily pulled layers.
#![allow(dead_code)]
mod blob;
mod ranges;
