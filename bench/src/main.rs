//! Benchmarks against the stock daemon: `dockerd-bench --stock SOCKET --program PATH`. `cargo xtask bench` calls it with
//! everything in place; the micro benches are beside it in `benches/`.
#![forbid(unsafe_code)]

mod ab;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::ab::Options;

fn main() -> ExitCode {
    match ab::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "dockerd-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
