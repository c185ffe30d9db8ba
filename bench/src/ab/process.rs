//! Which processes a daemon consists of, and what memory they hold, read from `/proc`.
//!
//! Ours: the daemon, what it forked, and the supervisor, which left its parentage. Stock: dockerd with containerd and the
//! port proxies below it, and the shim of each container. Workloads are not counted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Milliseconds of the unit of times in `/proc` (`USER_HZ`, 100 on everything we run on).
const TICK: f64 = 10.0;

/// Memory of some processes, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident; pages shared by two processes count twice.
    pub(crate) resident: u64,
    /// Proportional: a page shared by two processes counts half for each.
    pub(crate) proportional: u64,
}

/// A process as far as it matters here.
#[derive(Debug)]
struct Process {
    pid: i32,
    parent: i32,
    program: Option<PathBuf>,
    arguments: Vec<String>,
}

/// The process that listens on `socket`.
pub(crate) fn listener(socket: &Path) -> Result<i32> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    Ok(rustix::net::sockopt::socket_peercred(&stream)?.pid.as_raw_nonzero().get())
}

/// Memory of the daemon `daemon` and of everything that serves `containers` for it.
pub(crate) fn memory(daemon: i32, containers: &[String]) -> Result<Memory> {
    let processes = all()?;
    let mut sum = Memory::default();
    for pid in members(&processes, daemon, containers) {
        // Port proxies and shims may end meanwhile.
        if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            let memory = parse_rollup(&text);
            sum.resident += memory.resident;
            sum.proportional += memory.proportional;
        }
    }
    Ok(sum)
}

/// The processes of the daemon `daemon`, without those of containers.
pub(crate) fn pids(daemon: i32) -> Result<Vec<i32>> {
    Ok(members(&all()?, daemon, &[]).into_iter().collect())
}

/// Resident bytes of one process, the quick way; none if it has ended.
pub(crate) fn resident(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&text, "VmRSS:")
}

/// Processor time that the daemon `daemon` has used, in milliseconds, its children that have ended included.
pub(crate) fn processor_time(daemon: i32) -> Result<f64> {
    let stats = pids(daemon)?.into_iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let ticks: u64 = stats.filter_map(|stat| ticks(&stat)).sum();
    Ok(ticks as f64 * TICK)
}

/// Fields 14 to 17 of `stat`: user and system time, its own and that of ended children.
fn ticks(stat: &str) -> Option<u64> {
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
    fields.map(|field| field.parse::<u64>().ok()).sum()
}

fn all() -> Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let dir = Path::new("/proc").join(name);
        let (Ok(stat), Ok(line)) = (fs::read_to_string(dir.join("stat")), fs::read(dir.join("cmdline"))) else {
            continue;
        };
        let arguments = line.split(|byte| *byte == 0).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        processes.push(Process {
            pid,
            parent: parent(&stat).unwrap_or(0),
            program: fs::read_link(dir.join("exe")).ok(),
            arguments: arguments.collect(),
        });
    }
    Ok(processes)
}

/// Fourth field of `stat`; the second one may contain anything, in parentheses.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn members(processes: &[Process], daemon: i32, containers: &[String]) -> BTreeSet<i32> {
    let mut members = BTreeSet::from([daemon]);
    loop {
        let below = processes.iter().filter(|process| members.contains(&process.parent)).map(|process| process.pid);
        let more: Vec<i32> = below.filter(|pid| !members.contains(pid)).collect();
        if more.is_empty() {
            break;
        }
        members.extend(more);
    }
    let Some(main) = processes.iter().find(|process| process.pid == daemon) else { return members };
    let supervisors = processes.iter().filter(|process| is_supervisor(process, main));
    let shims = processes.iter().filter(|process| is_shim(process, containers));
    members.extend(supervisors.chain(shims).map(|process| process.pid));
    members
}

fn is_supervisor(process: &Process, daemon: &Process) -> bool {
    process.program.is_some()
        && process.program == daemon.program
        && process.arguments.get(1).is_some_and(|mode| mode == "supervisor")
        && process.arguments.last_chunk().is_some_and(|[root, _]: &[String; 2]| daemon.arguments.contains(root))
}

fn is_shim(process: &Process, containers: &[String]) -> bool {
    process.arguments.first().is_some_and(|program| program.contains("containerd-shim"))
        && process.arguments.iter().any(|argument| containers.contains(argument))
}

fn parse_rollup(text: &str) -> Memory {
    Memory { resident: field(text, "Rss:"), proportional: field(text, "Pss:") }
}

/// A line of a document of `/proc` that counts kilobytes, in bytes.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, parent: i32, line: &[&str]) -> Process {
        let arguments: Vec<String> = line.iter().map(|argument| (*argument).to_owned()).collect();
        Process { pid, parent, program: Some(arguments[0].clone().into()), arguments }
    }

    #[test]
    fn the_parent_is_found_behind_odd_names() {
        assert_eq!(parent("12 (a) b) S 7 12 12 0"), Some(7));
        assert_eq!(parent("nonsense"), None);
        let stat = "12 (a) b) S 7 12 12 0 -1 4194560 100 0 0 0 30 12 5 3 20 0 1 0";
        assert_eq!(ticks(stat), Some(50));
    }

    #[test]
    fn a_rollup_has_both_sums() {
        let text = "00400000-7ffe [rollup]\nRss:    2048 kB\nPss:    1024 kB\nPss_Dirty:    5 kB\n";
        assert_eq!(parse_rollup(text), Memory { resident: 2 << 20, proportional: 1 << 20 });
    }

    #[test]
    fn members_are_found_and_workloads_are_not() {
        let table = [
            process(10, 1, &["/d", "-H", "x", "--exec-root", "/run/a", ""]),
            process(11, 10, &["/containerd", ""]),
            process(12, 11, &["/below", ""]),
            process(20, 1, &["/d", "supervisor", "--exec-root", "/run/a", ""]),
            process(21, 20, &["sleep", "1000", ""]),
            process(22, 1, &["/d", "supervisor", "--exec-root", "/run/b", ""]),
            process(30, 1, &["/usr/bin/containerd-shim-runc-v2", "-id", "abc", ""]),
            process(31, 1, &["/usr/bin/containerd-shim-runc-v2", "-id", "other", ""]),
        ];
        assert_eq!(members(&table, 10, &["abc".to_owned()]), BTreeSet::from([10, 11, 12, 20, 30]));
    }
}
