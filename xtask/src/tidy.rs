//! Rules no compiler checks: the crate graph, where `unsafe` may be, that every file says what it is, how long files may
//! get, and that no machine's paths are in them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::workspace;

/// Which of our crates each of our crates may use.
const GRAPH: [(&str, &[&str]); 10] = [
    ("core/types", &[]),
    ("core/sys", &[]),
    ("core/store", &["dockerd-sys", "dockerd-types"]),
    ("core/image", &["dockerd-store", "dockerd-sys", "dockerd-types"]),
    ("core/runtime", &["dockerd-store", "dockerd-sys", "dockerd-types"]),
    ("core/network", &["dockerd-store", "dockerd-sys", "dockerd-types"]),
    ("core", &["dockerd-image", "dockerd-network", "dockerd-runtime", "dockerd-store", "dockerd-sys", "dockerd-types"]),
    ("api-compat", &["dockerd-core", "dockerd-image", "dockerd-types"]),
    ("dockerd-rs", &["api-compat", "dockerd-core", "dockerd-runtime", "dockerd-sys", "dockerd-types"]),
    ("compat-tests", &[]),
];

/// Longest file, tests left out.
const MAX_LINES: usize = 800;

/// Checks everything; lists all that is wrong.
pub(crate) fn run() -> Result<()> {
    let mut wrong = Vec::new();
    for (dir, allowed) in GRAPH {
        let manifest = fs::read_to_string(workspace().join(dir).join("Cargo.toml"))?;
        for name in
            manifest.lines().filter(|line| line.contains("path =")).filter_map(|line| line.split([' ', '=']).next())
        {
            if !allowed.contains(&name) {
                wrong.push(format!("{dir} may not use {name}"));
            }
        }
    }
    let mut files = Vec::new();
    for dir in ["dockerd-rs", "api-compat", "core", "bench", "compat-tests", "xtask"] {
        collect(&workspace().join(dir), &mut files)?;
    }
    for file in &files {
        check(file, &fs::read_to_string(file)?, &mut wrong);
    }
    ensure!(wrong.is_empty(), "tidy:\n{}", wrong.join("\n"));
    eprintln!("tidy: {} files are in order", files.len());
    Ok(())
}

fn collect(dir: &Path, out: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, out)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

fn check(file: &Path, text: &str, wrong: &mut Vec<String>) {
    let name = file.strip_prefix(workspace()).unwrap_or(file).display();
    if !text.starts_with("//!") {
        wrong.push(format!("{name}: does not begin with what it is"));
    }
    let body = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = body.lines().count();
    if lines > MAX_LINES {
        wrong.push(format!("{name}: {lines} lines"));
    }
    let keyword = concat!("unsafe", " {");
    if text.contains(keyword) && !name.to_string().starts_with("core/sys/") {
        wrong.push(format!("{name}: {keyword}...}} outside of core/sys"));
    }
    // Split, so that this file does not find itself.
    if text.contains(concat!("/wo", "rk/")) {
        wrong.push(format!("{name}: path of some machine"));
    }
}
