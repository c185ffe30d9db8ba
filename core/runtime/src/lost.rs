//! Finding the process of a container that nobody watches any more, after daemon and supervisor were killed together. The
//! container's cgroup says which processes are its own, so a number that was given to somebody else meanwhile is no danger.

use std::fs;
use std::os::fd::OwnedFd;

use dockerd_sys::process;

use crate::cgroup::CgroupDriver;

/// The first process in the container's cgroup and a pidfd that is surely its.
pub(crate) fn first_process(cgroups: &CgroupDriver, path: &str) -> Option<(i32, OwnedFd)> {
    let pids = cgroups.pids(path).ok()?;
    let pid = pids.iter().copied().find(|pid| is_init(*pid)).or_else(|| eldest(&pids))?;
    let pidfd = process::pidfd_open(pid).ok()?;
    // It could have ended, and its number been given away, before the pidfd was there.
    cgroups.pids(path).ok()?.contains(&pid).then_some((pid, pidfd))
}

/// Whether it is process 1 of a PID namespace of its own.
fn is_init(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let mut numbers = numbers.split_whitespace();
    numbers.next().is_some() && numbers.next_back() == Some("1")
}

/// Without a namespace of its own the first process is the one that began first.
fn eldest(pids: &[i32]) -> Option<i32> {
    pids.iter().copied().filter_map(|pid| Some((started(pid)?, pid))).min().map(|(_, pid)| pid)
}

/// When it began, in ticks since boot (proc_pid_stat(5), field 22).
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything; field 3 follows it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eldest_began_first() {
        let own = i32::try_from(std::process::id()).expect("a number");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a child");
        let younger = i32::try_from(child.id()).expect("a number");
        let (first, second) = (started(own).expect("started"), started(younger).expect("started"));
        assert!(first <= second);
        if first < second {
            assert_eq!(eldest(&[younger, own]), Some(own));
        }
        child.kill().and_then(|()| child.wait()).expect("ended");
        assert_eq!(eldest(&[]), None);
    }
}
