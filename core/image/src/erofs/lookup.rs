//! Looking up paths in a finished tree, as the kernel would if the tree's root were the root (openat2(2), `RESOLVE_IN_ROOT`).

use std::cmp::Ordering;

use super::tree::{InodeId, Kind, ROOT, Tree};

/// Symbolic links followed for one path; the kernel's own bound.
const MAX_LINKS: u32 = 40;
/// Names looked up for one path, those of links included.
const MAX_STEPS: u32 = 8192;

impl Tree {
    /// What a directory has under a name.
    pub fn child(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        let children = self.entries(directory);
        let (mut low, mut high) = (0, children.len());
        while low < high {
            let middle = low.midpoint(high);
            let (known, inode) = children[middle];
            match self.target(known).cmp(name) {
                Ordering::Equal => return Some(inode),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// What is at `path`. Links on the way are followed, one at its end only with `follow`.
    pub fn locate(&self, path: &[u8], follow: bool) -> Option<InodeId> {
        let (mut at, mut links, mut steps) = (ROOT, 0, 0);
        let mut left: Vec<&[u8]> = parts(path).collect();
        while let Some(name) = left.pop() {
            steps += 1;
            let Kind::Directory { parent, .. } = self.inode(at).kind else { return None };
            if steps > MAX_STEPS {
                return None;
            }
            if name == b".." {
                at = parent;
                continue;
            }
            let next = self.child(at, name)?;
            match self.inode(next).kind {
                Kind::Symlink(span) if follow || !left.is_empty() => {
                    links += 1;
                    let target = self.target(span);
                    if links > MAX_LINKS {
                        return None;
                    }
                    if target.starts_with(b"/") {
                        at = ROOT;
                    }
                    left.extend(parts(target));
                }
                _ => at = next,
            }
        }
        Some(at)
    }
}

/// Names of a path, the last one first.
fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.rsplit(|byte| *byte == b'/').filter(|part| !matches!(part, [] | [b'.']))
}

#[cfg(test)]
mod tests {
    use tar::{EntryType, Header};

    use super::*;

    #[test]
    fn links_are_followed_in_the_root() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |kind, name: &str, link: &str| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            if link.is_empty() {
                tar.append_data(&mut header, name, &b""[..]).expect("appended");
            } else {
                tar.append_link(&mut header, name, link).expect("appended");
            }
        };
        for name in ["a/b/file", "a/b/other", "a/z"] {
            add(EntryType::Regular, name, "");
        }
        for (name, target) in [("up", "../../a"), ("rooted", "/a/b"), ("loop", "loop"), ("a/b/last", "file")] {
            add(EntryType::Symlink, name, target);
        }
        let tar = tar.into_inner().expect("written");
        let tree = crate::erofs::scan(&tar[..], [0; 64]).expect("scanned").tree;
        let is_file = |path: &str, follow| {
            let found = tree.locate(path.as_bytes(), follow);
            found.map(|id| matches!(tree.inode(id).kind, Kind::File { .. }))
        };
        for path in ["a/b/file", "/a//b/./file", "up/b/file", "rooted/file", "up/../../rooted/../b/other", "a/b/last"] {
            assert_eq!(is_file(path, true), Some(true), "{path}");
        }
        assert_eq!(is_file("a/b/last", false), Some(false));
        assert_eq!(is_file("up", true), Some(false));
        for path in ["loop", "loop/x", "a/z/x", "a/b/nope", "nope"] {
            assert_eq!(is_file(path, true), None, "{path}");
        }
        assert_eq!(tree.locate(b"/", true), Some(ROOT));
    }
}
