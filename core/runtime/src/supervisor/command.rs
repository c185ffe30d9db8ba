//! Commands of external runtimes, run as children of the supervisor so that what they leave behind is its to collect.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;

use dockerd_sys::process::{self, Cloned, SingleThreaded};

use super::protocol::CommandPlan;

/// Starts `plan`; its process id.
pub(super) fn start(proof: SingleThreaded, plan: &CommandPlan, fds: &[OwnedFd]) -> io::Result<i32> {
    let strings = |list: &[String]| -> io::Result<Vec<CString>> {
        list.iter().map(|s| CString::new(s.as_str()).map_err(io::Error::from)).collect()
    };
    let (argv, env) = (strings(&plan.argv)?, strings(&plan.env)?);
    let Some(program) = argv.first().cloned() else { return Err(io::ErrorKind::InvalidInput.into()) };
    match process::clone(proof, 0, None)? {
        Cloned::Parent { pid, .. } => Ok(pid),
        Cloned::Child => {
            process::usual_turns();
            let ready =
                connect(plan, fds).and_then(|()| process::restore_open_files()).and_then(|()| process::reset_signals());
            if ready.is_ok() {
                let _ = process::exec(&program, &argv, &env);
            }
            // As a shell reports a command that cannot be run.
            process::exit_now(127)
        }
    }
}

fn connect(plan: &CommandPlan, fds: &[OwnedFd]) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::chdir(plan.cwd.as_str())?;
    let null: OwnedFd = std::fs::File::options().read(true).write(true).open("/dev/null")?.into();
    for (number, index) in plan.stdio.iter().enumerate() {
        let source = index.and_then(|index| fds.get(usize::from(index))).unwrap_or(&null);
        match number {
            0 => rustix::stdio::dup2_stdin(source)?,
            1 => rustix::stdio::dup2_stdout(source)?,
            _ => rustix::stdio::dup2_stderr(source)?,
        }
    }
    Ok(())
}
