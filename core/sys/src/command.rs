//! The only place that starts programs with `std::process`: what is inherited is said, nothing else is.

use std::ffi::OsStr;
use std::io::{self, Write};
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

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs `program` with an empty environment but `PATH`, and collects what it prints.
pub fn output(program: &Path, arguments: &[&OsStr]) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).current_dir("/").stdin(Stdio::null()).output()
}

/// The same with `input` on its standard input. `started` is told its process id before it has read any of it.
pub fn fed(program: &Path, arguments: &[&str], input: &[u8], started: impl FnOnce(u32)) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).current_dir("/");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    started(child.id());
    if let Some(mut stdin) = child.stdin.take() {
        // Who stops reading has an opinion on what it read; its exit code tells.
        let _ = stdin.write_all(input);
    }
    child.wait_with_output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fed_is_read_and_answered() {
        let mut pid = 0;
        let output = fed(Path::new("cat"), &[], &[b'x'; 10_000], |id| pid = id).expect("cat");
        assert!(output.status.success() && pid != 0);
        assert_eq!(output.stdout.len(), 10_000);
        let refused = fed(Path::new("false"), &[], &[b'x'; 100_000], |_| {}).expect("false");
        assert!(!refused.status.success());
        assert!(fed(Path::new("no-such-program"), &[], b"", |_| {}).is_err());
    }
}
