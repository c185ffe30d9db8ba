//! The tiny init of `--init`: process 1 of the container that passes signals on to the workload, collects orphans, and
//! ends with the workload's exit code. It is a fork of the set-up process that never execs, so it needs no file in the
//! container's root. Reads nothing, allocates nothing after its start.

use std::io;

use dockerd_sys::process::{self, Arguments, Ended, SingleThreaded};

/// SIGCHLD, the one signal that is for init itself.
const SIGCHLD: i32 = 17;

/// Splits the calling process, which is process 1: returns in the child, which is to become the workload; the parent
/// stays init and never returns. All descriptors of the parent but the standard streams are closed, the supervisor's
/// socket among them, because its end tells that the workload runs. Shows itself as Docker's init before the command line
/// `workload`, if its own `arguments` could be found.
pub(crate) fn become_init(proof: SingleThreaded, arguments: Option<Arguments>, workload: &[String]) -> io::Result<()> {
    process::block_all_signals()?;
    // Before there is a workload that could look.
    process::set_name(c"docker-init");
    if let Some(shown) = arguments {
        let all = ["/sbin/docker-init", "--"].into_iter().chain(workload.iter().map(String::as_str));
        shown.replace(all.map(str::as_bytes));
    }
    match process::fork(proof)? {
        None => {
            if rustix::termios::isatty(rustix::stdio::stdin()) {
                take_foreground();
            }
            Ok(())
        }
        Some(pid) => process::without_descriptors(|| serve(pid)),
    }
}

/// The workload gets the terminal's foreground, as a shell would give it; SIGTTOU is blocked here.
fn take_foreground() {
    let _ = rustix::process::setpgid(None, None);
    let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpgrp());
}

/// Passes signals on until the workload has ended; its exit code.
fn serve(workload: i32) -> i32 {
    loop {
        match process::wait_signal() {
            Ok(SIGCHLD) => {
                if let Some(code) = collect(workload) {
                    return code;
                }
            }
            Ok(signal) => {
                let _ = process::kill(workload, signal);
            }
            Err(_) => {}
        }
    }
}

fn collect(workload: i32) -> Option<i32> {
    while let Ok(Some((pid, ended))) = process::collect_any() {
        if pid == workload {
            return Some(match ended {
                Ended::Exited(code) => code,
                Ended::Signaled(signal) => 128 + signal,
            });
        }
    }
    None
}
