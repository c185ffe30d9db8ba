//! `cargo xtask tidy`: rules no compiler checks. The crate graph and what every manifest must say ([`graph`]), what every
//! source file must say and may not do ([`files`]), and documents that have to move with code ([`documents`]).

mod documents;
mod files;
mod graph;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::workspace;

/// Directories with sources of ours.
const SOURCES: [&str; 7] = ["dockerd-rs", "api-compat", "core", "bench", "compat-tests", "fuzz", "xtask"];

/// Checks everything; lists all that is wrong.
pub(crate) fn run() -> Result<()> {
    let mut wrong = Vec::new();
    let packages = graph::packages()?;
    graph::check(&packages, &mut wrong)?;
    let mut sources = Vec::new();
    for dir in SOURCES {
        collect(&workspace().join(dir), &mut sources)?;
    }
    for file in &sources {
        let name = file.strip_prefix(workspace()).unwrap_or(file).display().to_string();
        files::check(&name, &fs::read_to_string(file)?, &mut wrong);
    }
    documents::check(&packages, &mut wrong)?;
    ensure!(wrong.is_empty(), "tidy:\n{}", wrong.join("\n"));
    eprintln!("tidy: {} packages and {} files are in order", packages.len(), sources.len());
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
