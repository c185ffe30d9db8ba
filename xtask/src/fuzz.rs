//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, one after the other, each for a while, from the committed seeds.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::{cargo, workspace};

/// What sanitizers cost included; an input that makes a parser want more is a finding.
const MEMORY_MB: u32 = 1024;
/// An input that takes longer is one too.
const SECONDS_PER_INPUT: u32 = 10;

/// Runs all targets, or those whose name contains one of `only`, for `seconds` each.
pub(crate) fn run(seconds: u32, only: &[String]) -> Result<()> {
    let installed = Command::new(env!("CARGO")).args(["fuzz", "--version"]).output()?;
    if !installed.status.success() {
        cargo(&["install", "cargo-fuzz", "--locked"])?;
    }
    let names = targets(&workspace().join("fuzz/seeds"))?;
    let chosen = names.iter().filter(|name| only.is_empty() || only.iter().any(|part| name.contains(part.as_str())));
    let mut failed = Vec::new();
    for name in chosen {
        eprintln!("fuzz: {name} for {seconds} s");
        if !target(name, seconds)? {
            failed.push(name.as_str());
        }
    }
    ensure!(failed.is_empty(), "findings in {}; inputs are below fuzz/artifacts", failed.join(", "));
    Ok(())
}

/// Checks that the targets compile, without the sanitizers and the time they take.
pub(crate) fn check() -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["check", "--manifest-path", "fuzz/Cargo.toml", "--target-dir", "target/fuzz-check"]);
    let status = command.env("RUSTFLAGS", "--cfg fuzzing").current_dir(workspace()).status()?;
    ensure!(status.success(), "the fuzz targets do not compile");
    Ok(())
}

/// Every target has a directory of seeds of its name.
fn targets(seeds: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(seeds)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if names.is_empty() {
        bail!("no seeds below {}", seeds.display());
    }
    Ok(names)
}

/// Whether the target ran without a finding.
fn target(name: &str, seconds: u32) -> Result<bool> {
    let corpus = format!("fuzz/corpus/{name}");
    fs::create_dir_all(workspace().join(&corpus))?;
    let mut command = Command::new(env!("CARGO"));
    // The sanitizers are options of a nightly compiler, which the pinned one takes when it is told to.
    command.env("RUSTC_BOOTSTRAP", "1").current_dir(workspace());
    command.args(["fuzz", "run", name, &corpus, &format!("fuzz/seeds/{name}"), "--"]);
    command.args([format!("-max_total_time={seconds}"), format!("-rss_limit_mb={MEMORY_MB}")]);
    command.args([
        format!("-timeout={SECONDS_PER_INPUT}"),
        "-verbosity=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    Ok(command.status()?.success())
}
