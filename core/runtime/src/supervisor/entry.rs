//! How a supervisor comes to be: `dockerd-rs supervisor --exec-root DIR`, with the listening socket as standard input.
//! Leaves the daemon's session and parentage first, so that nothing the daemon's death does reaches it.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use dockerd_sys::caps;
use dockerd_sys::process::{self, Cloned, SingleThreaded};

use super::server::Server;

/// The mode's name on the command line.
pub(crate) const MODE: &str = "supervisor";
const EXEC_ROOT: &str = "--exec-root";
const RESUME: &str = "--resume";
/// The soft limit of open files that containers get, where nothing else is said.
pub(super) const OPEN_FILES: &str = "--open-files";

/// Where the journal of exits lies.
pub(crate) fn journal_dir(exec_root: &Path) -> PathBuf {
    exec_root.join("supervisor")
}

/// Runs the supervisor with the arguments after the mode's name. Must be called before the process has a second thread.
pub fn supervisor_main(arguments: impl Iterator<Item = OsString>) -> ! {
    let code = match run(arguments) {
        Ok(()) => 0,
        Err(error) => {
            // There is no log of its own; the daemon has left its standard error here.
            eprintln!("supervisor: {error}");
            1
        }
    };
    std::process::exit(code)
}

fn run(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let (mut exec_root, mut resume, mut open_files) = (None, None, None);
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some(EXEC_ROOT) => exec_root = arguments.next().map(PathBuf::from),
            Some(OPEN_FILES) => open_files = arguments.next().and_then(|n| n.to_str()?.parse::<u64>().ok()),
            Some(RESUME) => resume = arguments.next().and_then(|fd| fd.to_str()?.parse::<i32>().ok()),
            _ => return Err(io::Error::other(format!("unknown argument {}", argument.display()))),
        }
    }
    let exec_root = exec_root.ok_or_else(|| io::Error::other("--exec-root is missing"))?;
    // Both once here, so that no child need.
    process::default_signals();
    caps::last_capability();
    // Each container costs four descriptors here, one more when the daemon is away.
    process::raise_open_files(open_files)?;
    let journal = journal_dir(&exec_root);
    let mut server = match resume {
        Some(saved) => Server::resume(process::take_inherited(saved)?, journal)?,
        None => {
            let listener = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
            leave_the_daemon()?;
            Server::new(listener, journal)?
        }
    };
    // The daemon does without, containers shall not.
    process::allow_huge_pages(true)?;
    process::set_name(c"dockerd-superv");
    process::become_subreaper()?;
    server.run()
}

/// New session, parentage by init, no working directory of anybody's, standard input and output to nowhere.
fn leave_the_daemon() -> io::Result<()> {
    let proof = SingleThreaded::check()?.ok_or_else(|| io::Error::other("several threads"))?;
    if let Cloned::Parent { .. } = process::clone(proof, 0, None)? {
        process::exit_now(0);
    }
    rustix::process::setsid()?;
    rustix::process::chdir("/")?;
    let null: OwnedFd = std::fs::File::options().read(true).write(true).open("/dev/null")?.into();
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}

/// Executes `program` as this supervisor's next version, its state behind `saved`. Returns only on failure.
pub(super) fn exec_resumed(program: &OwnedFd, saved: OwnedFd) -> io::Result<Infallible> {
    let exec_root = current_exec_root()?;
    let saved = process::keep_over_exec(saved)?;
    let path = CString::new(format!("/proc/self/fd/{}", program.as_fd().as_raw_fd()))?;
    let open_files = process::open_files_before().unwrap_or(1024);
    let strings = [
        b"dockerd-rs".to_vec(),
        MODE.as_bytes().to_vec(),
        EXEC_ROOT.as_bytes().to_vec(),
        exec_root.into_vec(),
        OPEN_FILES.as_bytes().to_vec(),
        open_files.to_string().into_bytes(),
        RESUME.as_bytes().to_vec(),
        saved.to_string().into_bytes(),
    ];
    let argv = strings.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    let env: Vec<CString> = Vec::new();
    Err(process::exec(&path, &argv, &env))
}

fn current_exec_root() -> io::Result<OsString> {
    let mut arguments = std::env::args_os();
    arguments.find(|argument| argument == EXEC_ROOT);
    arguments.next().ok_or_else(|| io::Error::other("--exec-root is missing"))
}
