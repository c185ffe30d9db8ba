//! Notes which commit is built, for `docker version`. Without git, as in a source archive, nothing is noted.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for (variable, format) in [("DOCKERD_RS_COMMIT", "%h"), ("DOCKERD_RS_COMMIT_TIME", "%cI")] {
        let text = git(&["log", "-1", &format!("--format={format}")]).unwrap_or_default();
        println!("cargo::rustc-env={variable}={text}");
    }
    // What moves when another commit is checked out or made.
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD"].into_iter().chain(branch.as_deref()) {
        // Only files that are there: a missing one would have this run every time.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
}

/// The first line `git` prints.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.lines().next().map(str::to_owned)
}
