//! Random stacks of layers, and random changes of a snapshot, against a map of paths: what is seen must be what the map says.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory {
        mode: u32,
    },
    /// A file; equal numbers are names of the same one.
    File {
        text: String,
        number: u32,
    },
    Symlink(String),
}

impl Node {
    fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }
}

/// A tree by paths.
type Model = BTreeMap<String, Node>;

/// One entry of a layer.
#[derive(Debug, Clone)]
enum Item {
    Node(Node),
    /// Another name of the file entered before it, if there is one.
    Link,
    Whiteout,
    Opaque,
}

/// A layer: what it says of some paths.
type Layer = Vec<(String, Item)>;

fn path() -> impl Strategy<Value = String> {
    let names = prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4);
    names.prop_map(|names| names.join("/"))
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        4 => (prop::sample::select(vec![0, 1, 600, 5000]), any::<u32>()).prop_map(|(length, number)| {
            Item::Node(Node::File { text: format!("{number:08x}").repeat(length / 8 + 1)[..length].to_owned(), number })
        }),
        2 => prop::sample::select(vec![0o755, 0o700, 0o1777]).prop_map(|mode| Item::Node(Node::Directory { mode })),
        1 => path().prop_map(|target| Item::Node(Node::Symlink(target))),
        1 => Just(Item::Link),
        3 => Just(Item::Whiteout),
        1 => Just(Item::Opaque),
    ]
}

/// A layer in which every path has one meaning, and parents are directories and come first.
fn layers() -> impl Strategy<Value = Vec<Layer>> {
    let one = prop::collection::btree_map(path(), item(), 0..8).prop_map(|wanted| {
        let mut out: BTreeMap<String, Item> = BTreeMap::new();
        for (path, item) in wanted {
            let parents: Vec<&str> = path.match_indices('/').map(|(at, _)| &path[..at]).collect();
            let is_directory = |item: &Item| matches!(item, Item::Opaque | Item::Node(Node::Directory { .. }));
            // In the order of paths a parent was decided upon before what is in it.
            if parents.iter().any(|parent| out.get(*parent).is_some_and(|known| !is_directory(known))) {
                continue;
            }
            for parent in parents {
                out.entry(parent.to_owned()).or_insert(Item::Node(Node::Directory { mode: 0o755 }));
            }
            out.insert(path, item);
        }
        out.into_iter().collect()
    });
    prop::collection::vec(one, 1..5)
}

fn tar_of(entries: &Layer) -> Vec<u8> {
    let (mut out, mut last_file) = (layer(), None);
    for (path, item) in entries {
        let name = path.rsplit('/').next().expect("a name");
        let marked = |mark: &str| format!("{}{mark}", path.strip_suffix(name).expect("the end"));
        let directory = |out: LayerBuilder, mode| out.add(EntryType::Directory, path, "", b"", |h| h.set_mode(mode));
        out = match item {
            Item::Node(Node::Directory { mode }) => directory(out, *mode),
            Item::Node(Node::File { text, .. }) => {
                last_file = Some(path);
                out.file(path, text)
            }
            Item::Node(Node::Symlink(target)) => out.link(EntryType::Symlink, path, target),
            Item::Link => match last_file {
                Some(target) => out.link(EntryType::Link, path, target),
                None => out,
            },
            Item::Whiteout => out.file(&marked(&format!(".wh.{name}")), ""),
            Item::Opaque => directory(out, 0o755).file(&format!("{path}/.wh..wh..opq"), ""),
        };
    }
    out.finish()
}

fn remove_below(model: &mut Model, path: &str) {
    let prefix = format!("{path}/");
    model.retain(|other, _| !other.starts_with(&prefix));
}

/// Puts a layer on top (OCI image-spec, "layer.md").
fn apply(model: &mut Model, entries: &Layer) {
    let mut last_file = None;
    for (path, item) in entries {
        let node = match item {
            Item::Whiteout => {
                model.remove(path);
                remove_below(model, path);
                continue;
            }
            Item::Opaque => {
                remove_below(model, path);
                Node::Directory { mode: 0o755 }
            }
            Item::Link => match &last_file {
                Some(node) => Node::clone(node),
                None => continue,
            },
            Item::Node(node) => node.clone(),
        };
        if matches!(item, Item::Node(Node::File { .. })) {
            last_file = Some(node.clone());
        }
        if !node.is_directory() || !model.get(path).is_some_and(Node::is_directory) {
            remove_below(model, path);
        }
        model.insert(path.clone(), node);
    }
}

/// What is seen, in the model's terms; files are numbered by inodes.
fn look(root: &Mounted) -> Model {
    let (mut out, mut todo) = (Model::new(), vec![String::new()]);
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(root.path(&at)).expect("listed").flatten() {
            let name = entry.file_name().into_string().expect("utf-8");
            if at.is_empty() && !["a", "b", "c"].contains(&name.as_str()) {
                // A mount point.
                continue;
            }
            let path = if at.is_empty() { name } else { format!("{at}/{name}") };
            let meta = fs::symlink_metadata(entry.path()).expect("there");
            let node = if meta.is_dir() {
                todo.push(path.clone());
                Node::Directory { mode: meta.mode() & 0o7777 }
            } else if meta.is_symlink() {
                Node::Symlink(fs::read_link(entry.path()).expect("read").to_string_lossy().into_owned())
            } else {
                assert!(meta.is_file(), "{path} is something else");
                Node::File { text: fs::read_to_string(entry.path()).expect("read"), number: meta.ino() as u32 }
            };
            out.insert(path, node);
        }
    }
    out
}

/// With files numbered by the first of their names.
fn numbered(model: &Model) -> Model {
    let mut known = BTreeMap::new();
    let renumber = |node: &Node| match node {
        Node::File { text, number } => {
            let next = known.len() as u32;
            Node::File { text: text.clone(), number: *known.entry(*number).or_insert(next) }
        }
        other => other.clone(),
    };
    model.values().map(renumber).zip(model.keys()).map(|(node, path)| (path.clone(), node)).collect()
}

/// Without what files have in common.
fn alone(model: &Model) -> Model {
    let alone = |node: &Node| match node {
        Node::File { text, .. } => Node::File { text: text.clone(), number: 0 },
        other => other.clone(),
    };
    model.iter().map(|(path, node)| (path.clone(), alone(node))).collect()
}

/// Two files of different layers may have drawn the same number.
fn distinct(stack: &mut [Layer]) {
    let mut next = 0;
    for item in stack.iter_mut().flatten().map(|(_, item)| item) {
        if let Item::Node(Node::File { number, .. }) = item {
            *number = next;
            next += 1;
        }
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

pub(super) fn privileged_random_stacks_are_as_the_model_has_them(name: &'static str) {
    let Some(bed) = Bed::new(name) else { return };
    let check = |mut stack: Vec<Layer>| {
        distinct(&mut stack);
        let (mut model, mut below): (Model, Option<Digest>) = (Model::new(), None);
        for entries in &stack {
            apply(&mut model, entries);
            below = Some(bed.layer(&tar_of(entries), below.as_ref()));
        }
        let chain = below.expect("a layer");
        prop_assert_eq!(numbered(&look(&bed.view(&chain))), numbered(&model));
        // One that fails stays, and the next case has another name.
        let key = &format!("c{}", bed.driver.keys().len());
        let snapshot = bed.snapshot(key, Some(&chain));
        prop_assert_eq!(numbered(&look(&snapshot)), numbered(&model));
        prop_assert_eq!(bed.changes(key), vec![]);
        bed.driver.remove(key).expect("removed");
        Ok(())
    };
    runner(24).run(&layers(), check).unwrap_or_else(|error| panic!("{name}: {error}"));
    bed.assert_removable();
}

/// Something a container does. What it cannot do, it does not.
#[derive(Debug, Clone)]
enum Step {
    Write(String, u16),
    Remove(String),
    MakeDirectory(String),
    Link(String, String),
    Mode(String, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        3 => (path(), any::<u16>()).prop_map(|(path, text)| Step::Write(path, text)),
        3 => path().prop_map(Step::Remove),
        2 => path().prop_map(Step::MakeDirectory),
        1 => (path(), path()).prop_map(|(path, target)| Step::Link(path, target)),
        1 => (path(), prop::sample::select(vec![0o700, 0o711])).prop_map(|(path, mode)| Step::Mode(path, mode)),
    ];
    prop::collection::vec(one, 1..10)
}

/// Does it in the container and in the model.
fn step(root: &Mounted, model: &mut Model, step: &Step) {
    let (Step::Write(path, _)
    | Step::Remove(path)
    | Step::MakeDirectory(path)
    | Step::Link(path, _)
    | Step::Mode(path, _)) = step;
    // Nothing goes through links here.
    let parent = path.rsplit_once('/').map(|(parent, _)| parent);
    let reachable = parent.is_none_or(|parent| model.get(parent).is_some_and(Node::is_directory));
    let (there, at) = (model.get(path).cloned(), root.path(path));
    if !reachable {
        return;
    }
    match step {
        Step::Write(_, number) if !there.as_ref().is_some_and(Node::is_directory) => {
            if matches!(there, Some(Node::Symlink(_))) {
                fs::remove_file(&at).expect("removed");
            }
            let text = format!("written {number}");
            fs::write(&at, &text).expect("written");
            model.insert(path.clone(), Node::File { text, number: 0 });
        }
        Step::Remove(_) if there.is_some() => {
            if there.is_some_and(|node| node.is_directory()) {
                fs::remove_dir_all(&at).expect("removed");
            } else {
                fs::remove_file(&at).expect("removed");
            }
            model.remove(path);
            remove_below(model, path);
        }
        Step::MakeDirectory(_) if there.is_none() => {
            fs::create_dir(&at).expect("made");
            fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).expect("changed");
            model.insert(path.clone(), Node::Directory { mode: 0o755 });
        }
        Step::Link(_, target) if there.is_none() => {
            symlink(target, &at).expect("linked");
            model.insert(path.clone(), Node::Symlink(target.clone()));
        }
        Step::Mode(_, mode) if there.as_ref().is_some_and(Node::is_directory) => {
            fs::set_permissions(&at, fs::Permissions::from_mode(*mode)).expect("changed");
            model.insert(path.clone(), Node::Directory { mode: *mode });
        }
        _ => {}
    }
}

/// What `docker diff` says of two trees; every file that is there was either not touched or has another text.
fn told(before: &Model, after: &Model) -> Vec<(String, ChangeKind)> {
    let mut out: BTreeMap<String, ChangeKind> = BTreeMap::new();
    let paths: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for path in paths {
        let kind = match (before.get(path), after.get(path)) {
            (Some(one), Some(other)) if one == other => continue,
            (Some(_), Some(_)) => ChangeKind::Modified,
            (None, _) => ChangeKind::Added,
            (Some(_), None) => {
                // Of what is gone only the top is told, and nothing of what had been in a directory that is something else.
                let parent = path.rsplit_once('/').map(|(parent, _)| parent);
                if parent.is_some_and(|parent| !after.get(parent).is_some_and(Node::is_directory)) {
                    continue;
                }
                ChangeKind::Deleted
            }
        };
        for (at, _) in path.match_indices('/') {
            out.entry(path[..at].to_owned()).or_insert(ChangeKind::Modified);
        }
        out.insert(path.clone(), kind);
    }
    let mut out: Vec<_> = out.into_iter().collect();
    out.sort_by(|one, other| Path::new(&one.0).cmp(Path::new(&other.0)));
    out.into_iter().map(|(path, kind)| (format!("/{path}"), kind)).collect()
}

pub(super) fn privileged_random_changes_are_as_the_model_has_them(name: &'static str) {
    let Some(bed) = Bed::new(name) else { return };
    let check = |(mut stack, steps): (Vec<Layer>, Vec<Step>)| {
        // Overlayfs cuts a file off its other names when it is written to, which is no matter of layers.
        stack.iter_mut().for_each(|layer| layer.retain(|(_, item)| !matches!(item, Item::Link)));
        distinct(&mut stack);
        let mut before = Model::new();
        stack.iter().for_each(|entries| apply(&mut before, entries));
        let chain = bed.stack(&stack.iter().map(tar_of).collect::<Vec<_>>());
        let before = alone(&before);
        // One that fails stays, and the next case has another name.
        let key = &format!("c{}", bed.driver.keys().len());
        let (snapshot, mut after) = (bed.snapshot(key, Some(&chain)), before.clone());
        steps.iter().for_each(|wanted| step(&snapshot, &mut after, wanted));
        prop_assert_eq!(alone(&look(&snapshot)), after.clone());
        prop_assert_eq!(bed.changes(key), told(&before, &after));
        let committed = bed.commit(key, Some(&chain));
        prop_assert_eq!(alone(&look(&bed.view(&committed))), after);
        drop(snapshot);
        bed.driver.remove(key).expect("removed");
        Ok::<(), TestCaseError>(())
    };
    runner(24).run(&(layers(), steps()), check).unwrap_or_else(|error| panic!("{name}: {error}"));
    bed.assert_removable();
}
