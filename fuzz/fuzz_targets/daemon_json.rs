//! See `agrees_with_the_parser` in the file included here: the daemon is a program, not a library.
#![no_main]

#[path = "../../dockerd-rs/src/go_json.rs"]
mod go_json;

libfuzzer_sys::fuzz_target!(|data: &[u8]| go_json::agrees_with_the_parser(data));
