//! Documents that have to move with code: the drawn disk layout, and the list of dependencies.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;

use super::graph::Package;
use crate::workspace;

/// Checks all of them.
pub(super) fn check(packages: &[Package], wrong: &mut Vec<String>) -> Result<()> {
    let read = |path: &str| fs::read_to_string(workspace().join(path));
    let drawn = read("docs/on-disk-format.md")?;
    for name in joined_names(&read("core/store/src/layout.rs")?) {
        if !drawn.contains(&name) {
            wrong.push(format!("docs/on-disk-format.md does not have `{name}` of core/store/src/layout.rs"));
        }
    }
    let list = read("docs/dependencies.md")?;
    let listed = words(&list);
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let used = packages.iter().flat_map(|package| &package.dependencies).map(|(name, _)| name.as_str());
    for name in used.filter(|name| !ours.contains(name)).collect::<BTreeSet<_>>() {
        if !listed.contains(name) {
            wrong.push(format!("docs/dependencies.md does not have {name}"));
        }
    }
    Ok(())
}

/// Names in `.join("...")` outside of tests.
fn joined_names(source: &str) -> Vec<String> {
    let body = source.split("#[cfg(test)]").next().unwrap_or_default();
    let parts = body.split(".join(\"").skip(1);
    parts.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_layout_are_found() {
        let source = "a.join(\"containers\").join(id)\nb.join(\"x.json\")\n#[cfg(test)]\nc.join(\"no\")";
        assert_eq!(joined_names(source), ["containers", "x.json"]);
    }

    #[test]
    fn crates_are_whole_words() {
        let words = words("| tokio-util, serde_json | x |");
        assert!(words.contains("tokio-util") && words.contains("serde_json") && !words.contains("tokio"));
    }
}
