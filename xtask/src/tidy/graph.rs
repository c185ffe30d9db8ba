//! Which crate may use which, and what every manifest and crate root must say.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace;

/// Which of our crates each of our crates may use. A new edge is a discussed change.
const GRAPH: [(&str, &[&str]); 15] = [
    ("dockerd-types", &[]),
    ("dockerd-sys", &[]),
    ("dockerd-store", &["dockerd-sys", "dockerd-types"]),
    ("dockerd-registry", &["dockerd-types"]),
    ("dockerd-image", &["dockerd-registry", "dockerd-store", "dockerd-sys", "dockerd-types"]),
    ("dockerd-runtime", &["dockerd-store", "dockerd-sys", "dockerd-types"]),
    ("dockerd-network", &["dockerd-store", "dockerd-sys", "dockerd-types"]),
    (
        "dockerd-core",
        &[
            "dockerd-image",
            "dockerd-network",
            "dockerd-registry",
            "dockerd-runtime",
            "dockerd-store",
            "dockerd-sys",
            "dockerd-types",
        ],
    ),
    ("api-compat", &["dockerd-core", "dockerd-image", "dockerd-types"]),
    ("dockerd-rs", &["api-compat", "dockerd-core", "dockerd-runtime", "dockerd-sys", "dockerd-types"]),
    (
        "dockerd-bench",
        &[
            "api-compat",
            "dockerd-core",
            "dockerd-image",
            "dockerd-network",
            "dockerd-registry",
            "dockerd-runtime",
            "dockerd-store",
            "dockerd-sys",
            "dockerd-types",
            "testkit",
        ],
    ),
    ("compat-tests", &["testkit"]),
    ("fuzz-mutate", &[]),
    ("testkit", &[]),
    ("xtask", &[]),
];
/// Crates that any of ours may use in tests.
const FOR_TESTS: [&str; 2] = ["fuzz-mutate", "testkit"];
/// The only crate with `unsafe`.
const UNSAFE: &str = "dockerd-sys";
const FORBID: &str = "#![forbid(unsafe_code)]";

/// A package of the workspace.
#[derive(Debug)]
pub(super) struct Package {
    /// Its name.
    pub(super) name: String,
    /// Its directory.
    pub(super) dir: PathBuf,
    /// Packages it uses, of ours and of others, and whether only in tests.
    pub(super) dependencies: Vec<(String, bool)>,
}

/// All packages of the workspace.
pub(super) fn packages() -> Result<Vec<Package>> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).current_dir(workspace());
    let output = command.output()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    packages.iter().map(package).collect()
}

fn package(package: &Value) -> Result<Package> {
    let text = |value: &Value| value.as_str().map(str::to_owned).context("cargo metadata has another shape");
    let manifest = PathBuf::from(text(&package["manifest_path"])?);
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    Ok(Package {
        name: text(&package["name"])?,
        dir: manifest.parent().map(Path::to_owned).unwrap_or_default(),
        dependencies: dependencies.map(|d| Ok((text(&d["name"])?, d["kind"] == "dev"))).collect::<Result<_>>()?,
    })
}

/// Checks graph, manifests and crate roots.
pub(super) fn check(packages: &[Package], wrong: &mut Vec<String>) -> Result<()> {
    for package in packages {
        edges(package, wrong);
        let manifest = fs::read_to_string(package.dir.join("Cargo.toml"))?;
        if !manifest.contains("[lints]\nworkspace = true\n") {
            wrong.push(format!("{}: the manifest does not take the workspace's lints", package.name));
        }
        for root in ["src/lib.rs", "src/main.rs"] {
            if let Ok(text) = fs::read_to_string(package.dir.join(root)) {
                root_of(&package.name, root, &text, wrong);
            }
        }
    }
    Ok(())
}

fn edges(package: &Package, wrong: &mut Vec<String>) {
    let Some((_, allowed)) = GRAPH.iter().find(|(name, _)| *name == package.name) else {
        return wrong.push(format!("{}: tidy's graph does not know this crate", package.name));
    };
    for (name, test) in &package.dependencies {
        let ours = GRAPH.iter().any(|(known, _)| known == name);
        if ours && !allowed.contains(&name.as_str()) && !(*test && FOR_TESTS.contains(&name.as_str())) {
            wrong.push(format!("{} may not use {name}", package.name));
        }
    }
}

fn root_of(package: &str, root: &str, text: &str, wrong: &mut Vec<String>) {
    if package != UNSAFE && !text.contains(FORBID) {
        wrong.push(format!("{package}/{root}: does not {FORBID}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        let dependencies = dependencies.iter().map(|(name, test)| ((*name).to_owned(), *test)).collect();
        Package { name: name.to_owned(), dir: PathBuf::new(), dependencies }
    }

    #[test]
    fn edges_against_the_direction_are_found() {
        let mut wrong = Vec::new();
        edges(
            &package("dockerd-core", &[("dockerd-image", false), ("tokio", false), ("fuzz-mutate", true)]),
            &mut wrong,
        );
        assert!(wrong.is_empty(), "{wrong:?}");
        edges(&package("dockerd-image", &[("dockerd-runtime", true)]), &mut wrong);
        edges(&package("dockerd-types", &[("fuzz-mutate", false)]), &mut wrong);
        edges(&package("stranger", &[]), &mut wrong);
        assert_eq!(
            wrong,
            [
                "dockerd-image may not use dockerd-runtime",
                "dockerd-types may not use fuzz-mutate",
                "stranger: tidy's graph does not know this crate"
            ]
        );
    }

    #[test]
    fn one_crate_may_be_unsafe() {
        let mut wrong = Vec::new();
        root_of(UNSAFE, "src/lib.rs", "//! x", &mut wrong);
        root_of("api-compat", "src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n", &mut wrong);
        assert!(wrong.is_empty(), "{wrong:?}");
        root_of("api-compat", "src/lib.rs", "//! x\n#![deny(unsafe_code)]\n", &mut wrong);
        assert_eq!(wrong.len(), 1);
    }
}
