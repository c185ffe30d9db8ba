//! The only place that starts programs with `std::process`: what is inherited is said, nothing else is.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};

/// Runs `program` with an empty environment, `stdin` and `stderr` as given, until it has ended (or has put itself into
/// the background).
pub fn run_detached(program: &Path, arguments: &[&OsStr], stdin: OwnedFd, stderr: OwnedFd) -> io::Result<ExitStatus> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/");
    command.stdin(Stdio::from(stdin)).stdout(Stdio::null()).stderr(Stdio::from(stderr)).status()
}

/// Runs `program` with an empty environment but `PATH`, and collects what it prints.
pub fn output(program: &Path, arguments: &[&OsStr]) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.current_dir("/").stdin(Stdio::null()).output()
}
