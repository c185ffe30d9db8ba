//! What a daemon of ours holds of the machine: mounts, network namespaces, links, firewall rules, control groups,
//! processes, descriptors, files. After a suite that removed its containers it must hold what it held before.
//!
//! The daemon keeps some network namespaces with their links ready for the next containers, more of them when many were
//! started lately. Each is a descriptor of the daemon's, so as many links as it has such descriptors are no leak. It also keeps
//! a few snapshots and control groups ready, under names that tell them from those of containers; not more than it says it
//! does, and no control group of them beyond its end.
//!
//! Control groups are told from other daemons' by the ids of containers, which [`Watch`] reads off the daemon's events.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::LIMIT;
use crate::daemon::Daemon;
use crate::host::Host;
use crate::http;

/// Where control groups are.
pub(crate) const CGROUPS: &str = "/sys/fs/cgroup";
/// What a descriptor of a network namespace is called.
const NAMESPACE: &str = "net";
/// Network namespaces the daemon may keep ready, for both kinds of network, and its own.
const MOST_PREPARED: usize = 2 * 32 + 1;
/// Snapshots and control groups the daemon may keep ready, of each.
const MOST_SPARES: usize = 2;
/// Where snapshots are in a driver's directory, and how the names of those kept ready begin.
const SPARE_SNAPSHOT: &str = "/snapshots/.tmp-";
/// How names of control groups kept ready begin, before the daemon's process id.
const SPARE_CGROUP: &str = "dockerd-rs-spare-";
/// What the root of a file system that is mounted nowhere is called.
const DETACHED_ROOT: &str = "/";
/// The note that the daemon made the host pass IPv6 packets on, and the rule that goes with it.
const ROUTES_IPV6: &str = "exec/ip-forward.v6";
const DROP_FOREIGN_IPV6: &str = "meta nfproto ipv6 drop";
/// How names of containers' links on the host begin.
const PORT: &str = "veth";
/// Time between two looks at what is being torn down.
const PAUSE: Duration = Duration::from_millis(50);
/// Looks in a row that must find the same before it is taken for settled.
const CALM: usize = 4;

/// Remembers the ids of all containers a daemon makes.
#[derive(Debug)]
pub struct Watch {
    ids: Arc<Mutex<BTreeSet<String>>>,
    /// Control groups that other daemons had left behind before this began.
    foreign: BTreeSet<String>,
}

impl Watch {
    /// Follows the daemon's events on a thread that ends with the connection.
    pub fn begin(host: &Host) -> Result<Self> {
        let path =
            "/events?since=0&filters=%7B%22type%22%3A%5B%22container%22%5D%2C%22event%22%3A%5B%22create%22%5D%7D";
        let stream = http::open(&host.socket, "GET", path, &[], b"")?;
        ensure!(stream.head.status == 200, "events answers {}", stream.head.status);
        stream.reader.get_ref().set_read_timeout(None)?;
        let ids = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&ids);
        std::thread::spawn(move || follow(stream.reader, &seen));
        Ok(Self { ids, foreign: spare_cgroups(|maker| !lives(maker)) })
    }

    /// Adds one that was made before this began.
    pub fn add(&self, id: &str) {
        self.ids.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(id.to_owned());
    }

    /// Directories of control groups named after one of the containers.
    fn cgroups(&self) -> BTreeSet<String> {
        let ids = self.ids.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let mut out = BTreeSet::new();
        walk(Path::new(CGROUPS), &mut |path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if ids.iter().any(|id| name.contains(id.as_str())) {
                out.insert(path.to_string_lossy().into_owned());
            }
        });
        out
    }
}

fn follow(reader: BufReader<UnixStream>, seen: &Mutex<BTreeSet<String>>) {
    // Chunk sizes are lines of their own and no JSON.
    for line in reader.lines() {
        let Ok(line) = line else { return };
        let event: Value = serde_json::from_str(&line).unwrap_or_default();
        if let Some(id) = event["Actor"]["ID"].as_str() {
            seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(id.to_owned());
        }
    }
}

/// What a daemon holds, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings(BTreeMap<&'static str, BTreeSet<String>>);

impl Holdings {
    /// What it holds once that no longer changes.
    pub fn settled(daemon: &Daemon, watch: &Watch) -> Result<Self> {
        let begun = Instant::now();
        let mut last = Self::of(daemon, watch)?;
        let mut calm = 0;
        loop {
            std::thread::sleep(PAUSE);
            let now = Self::of(daemon, watch)?;
            calm = if now == last { calm + 1 } else { 0 };
            if calm == CALM {
                return Ok(now);
            }
            ensure!(begun.elapsed() < LIMIT, "what the daemon holds keeps changing: {now:?}");
            last = now;
        }
    }

    /// Waits for the daemon to hold what this says, as it tears down in the background.
    pub fn assert_unchanged(&self, daemon: &Daemon, watch: &Watch) -> Result<()> {
        let begun = Instant::now();
        loop {
            let now = Self::of(daemon, watch)?;
            let leaks = self.leaks(&now);
            if leaks.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT, "leaks:\n  {}", leaks.join("\n  "));
            std::thread::sleep(PAUSE);
        }
    }

    /// After the daemon ended: no process, mount or control group of its is left.
    pub fn assert_nothing_is_left(dir: &Path, watch: &Watch) -> Result<()> {
        let begun = Instant::now();
        loop {
            let processes = processes(dir)?.into_values().collect();
            let mounts = mounts(Path::new("/proc/self"), dir)?;
            let spares = spare_cgroups(|maker| !lives(maker));
            let cgroups = spares.difference(&watch.foreign).chain(&watch.cgroups()).cloned().collect();
            let left = Self(BTreeMap::from([("process", processes), ("mount", mounts), ("cgroup", cgroups)]));
            let leaks = Self::default().leaks(&left);
            if leaks.is_empty() {
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT, "left after the daemon's end:\n  {}", leaks.join("\n  "));
            std::thread::sleep(PAUSE);
        }
    }

    fn of(daemon: &Daemon, watch: &Watch) -> Result<Self> {
        let (dir, pid) = (daemon.dir(), daemon.host().pid);
        let proc = Path::new("/proc").join(pid.to_string());
        let processes = processes(dir)?;
        let mut files = BTreeSet::new();
        for root in ["data", "exec"] {
            walk_all(&dir.join(root), &mut |path| {
                files.insert(path.strip_prefix(dir).unwrap_or(path).to_string_lossy().into_owned());
            });
        }
        let spares = take_spares(&mut files);
        forget_notes(&mut files);
        // From the first network with IPv6 on the host is a router for its containers.
        let routes_ipv6 = files.remove(ROUTES_IPV6);
        let mut cgroups = watch.cgroups();
        let spare_cgroups = spare_cgroups(|maker| maker == pid);
        let names: BTreeSet<&str> = spare_cgroups.iter().filter_map(|path| path.rsplit('/').next()).collect();
        if names.len() > MOST_SPARES {
            cgroups.extend(spare_cgroups.iter().cloned());
        }
        let mut namespaces = BTreeSet::new();
        let mut descriptors = BTreeSet::new();
        let mut prepared = 0;
        for (process, name) in &processes {
            let proc = Path::new("/proc").join(process.to_string());
            if let Ok(namespace) = fs::read_link(proc.join("ns/net")) {
                namespaces.insert(namespace.to_string_lossy().into_owned());
            }
            let mut open = open_files(&proc);
            if *process == pid {
                prepared += open.remove(NAMESPACE).unwrap_or(0);
                open.retain(|what, _| !spare_cgroups.iter().any(|directory| what.starts_with(directory.as_str())));
                if let Some(roots) = open.get_mut(DETACHED_ROOT) {
                    *roots = roots.saturating_sub(spares);
                }
            }
            for (what, count) in open {
                descriptors.extend((1..=count).map(|number| format!("{what}, number {number} in {name}")));
            }
        }
        let inside = |arguments: &[&str]| -> Result<BTreeSet<String>> {
            let mut command = Command::new("nsenter");
            let output = command.args(["-t", &pid.to_string(), "-n"]).args(arguments).output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            Ok(text.lines().map(|line| line.trim().to_owned()).collect())
        };
        ensure!(prepared <= MOST_PREPARED, "the daemon holds {prepared} network namespaces");
        let mut links = inside(&["ip", "-br", "link"])?;
        if links.iter().filter(|link| link.starts_with(PORT)).count() <= prepared {
            links.retain(|link| !link.starts_with(PORT));
        }
        let mut rules = inside(&["nft", "-s", "list", "ruleset"])?;
        if routes_ipv6 {
            rules.remove(DROP_FOREIGN_IPV6);
        }
        Ok(Self(BTreeMap::from([
            ("process", processes.into_values().collect()),
            ("network namespace", namespaces),
            ("descriptor", descriptors),
            ("mount", mounts(&proc, dir)?),
            ("cgroup", cgroups),
            ("file", files),
            ("link", links),
            ("firewall rule", rules),
        ])))
    }

    /// What is in `now` and not here. Less is no leak.
    fn leaks(&self, now: &Self) -> Vec<String> {
        let none = BTreeSet::new();
        let mut out = Vec::new();
        for (kind, items) in &now.0 {
            let before = self.0.get(kind).unwrap_or(&none);
            out.extend(items.difference(before).map(|item| format!("{kind}: {item}")));
        }
        out
    }
}

/// Directories of control groups that were made ahead by processes of these ids.
fn spare_cgroups(wanted: impl Fn(u32) -> bool) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    walk(Path::new(CGROUPS), &mut |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let maker = name.strip_prefix(SPARE_CGROUP).and_then(|rest| rest.split('-').next()?.parse().ok());
        if maker.is_some_and(&wanted) {
            out.insert(path.to_string_lossy().into_owned());
        }
    });
    out
}

/// Whether there is such a process. One that has ended but was not collected has no program any more.
fn lives(pid: u32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// Takes what lies in snapshots that are kept ready out of `files`, unless they are too many, and counts them.
fn take_spares(files: &mut BTreeSet<String>) -> usize {
    let inside = |path: &str| {
        path.strip_prefix("data/").and_then(|path| path.split_once(SPARE_SNAPSHOT)).map(|(_, rest)| rest.contains('/'))
    };
    let spare = |path: &String| inside(path).is_some();
    let tops = files.iter().filter(|path| inside(path) == Some(false)).count();
    if tops > MOST_SPARES {
        return 0;
    }
    files.retain(|path| !spare(path));
    tops
}

/// Takes notes about registries out of `files` that are of layers which are there.
fn forget_notes(files: &mut BTreeSet<String>) {
    let is_there = |note: &str| {
        let hex = note.strip_prefix("data/image/distribution/").and_then(|name| name.strip_suffix(".json"));
        hex.is_some_and(|hex| files.contains(&format!("data/image/content/sha256/{hex}")))
    };
    let notes: Vec<String> = files.iter().filter(|path| is_there(path)).cloned().collect();
    notes.iter().for_each(|note| _ = files.remove(note));
}

/// The daemon, its supervisor and all below them: process ids and what they are.
fn processes(dir: &Path) -> Result<BTreeMap<u32, String>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()) else { continue };
        let (Ok(stat), Ok(line)) = (fs::read_to_string(path.join("stat")), fs::read(path.join("cmdline"))) else {
            continue;
        };
        let Some(parent) = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok()) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned();
        let comm = stat.split_once('(').and_then(|(_, rest)| Some(rest.rsplit_once(')')?.0)).unwrap_or_default();
        let name = if line.is_empty() { format!("[{comm}]") } else { line };
        all.insert(pid, (parent, name));
    }
    let dir = dir.to_string_lossy();
    let mut ours: BTreeMap<u32, String> = BTreeMap::new();
    loop {
        let before = ours.len();
        for (pid, (parent, name)) in &all {
            if name.contains(&*dir) || ours.contains_key(parent) {
                ours.insert(*pid, name.clone());
            }
        }
        if ours.len() == before {
            return Ok(ours);
        }
    }
}

/// How many descriptors of each kind a process has. Sockets come and go with clients and are left out.
fn open_files(proc: &Path) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    let Ok(entries) = fs::read_dir(proc.join("fd")) else { return out };
    for target in entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
        let target = target.to_string_lossy().into_owned();
        let kind =
            if target.starts_with("anon_inode") { &target } else { target.split(":[").next().unwrap_or(&target) };
        let kind = kind.to_owned();
        if kind != "socket" {
            *out.entry(kind).or_default() += 1;
        }
    }
    out
}

fn mounts(proc: &Path, dir: &Path) -> Result<BTreeSet<String>> {
    let table = fs::read_to_string(proc.join("mountinfo")).context("the mount table")?;
    let dir = dir.to_string_lossy();
    let points = table.lines().filter(|line| line.contains(&*dir)).filter_map(|line| line.split(' ').nth(4));
    Ok(points.map(str::to_owned).collect())
}

/// Every directory below `dir`.
pub(crate) fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    for path in dirs.map(|entry| entry.path()).collect::<Vec<PathBuf>>() {
        visit(&path);
        walk(&path, visit);
    }
}

/// Everything below `dir`.
fn walk_all(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        visit(&path);
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk_all(&path, visit);
        }
    }
}
