//! What runs in the new process between `clone3` and `execve`. The parent has one thread, so ordinary code is fine here.
//! Talks to the supervisor over one close-on-exec socket: the terminal's master, a word just before `execve`, or a failure;
//! the end of the socket without a failure means that the workload runs.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use dockerd_sys::inside::{self, Missing};
use dockerd_sys::process::SingleThreaded;
use dockerd_sys::{caps, fdpass, mount, ns, process, pty, seccomp};
use serde::{Deserialize, Serialize};

use super::failure::{At, Setup, describe};
use super::plan::{CgroupJoin, ExecPlan, LaunchPlan, ProcessPlan, SetupFailure, StdioPlan, Step};
use super::{program, root};

/// `RLIMIT_NOFILE`, the same number on all our architectures.
const OPEN_FILES: u32 = 7;

/// What the child tells the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ChildMessage {
    /// The terminal's master comes with this.
    Terminal,
    /// All is set up after this many microseconds; `execve` is next.
    Ready(u32),
    /// It will not run.
    Failed(SetupFailure),
}

/// The child of a container launch. Never returns.
pub(crate) fn launch(proof: SingleThreaded, plan: &LaunchPlan, fds: &[OwnedFd], sync: OwnedFd) -> ! {
    finish(&sync, launch_inner(proof, plan, fds, &sync))
}

/// The child of an exec. Never returns.
pub(crate) fn exec(plan: &ExecPlan, fds: &[OwnedFd], sync: OwnedFd) -> ! {
    finish(&sync, exec_inner(plan, fds, &sync))
}

/// Tells the failure and ends; success has replaced this program and does not come here.
fn finish(sync: &OwnedFd, result: Setup<std::convert::Infallible>) -> ! {
    let Err(failure) = result;
    // The supervisor may be gone; there is nobody else to tell.
    let _ = tell(sync, &ChildMessage::Failed(failure), &[]);
    process::exit_now(1)
}

fn tell(sync: &OwnedFd, message: &ChildMessage, fds: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    fdpass::send(sync, &bytes, fds)
}

fn launch_inner(
    proof: SingleThreaded,
    plan: &LaunchPlan,
    fds: &[OwnedFd],
    sync: &OwnedFd,
) -> Setup<std::convert::Infallible> {
    let started = Instant::now();
    rustix::process::setsid().map_err(io::Error::from).at(Step::Namespace, "session")?;
    enter_cgroups(&plan.cgroup, fds)?;
    // This process was born in the PID namespace it is to be in.
    for join in plan.join.iter().filter(|join| join.kind != process::NEW_PID) {
        ns::enter(&fds[usize::from(join.fd)], join.kind).at(Step::Namespace, "join")?;
    }
    if plan.clone_flags & process::NEW_CGROUP != 0 {
        ns::unshare(process::NEW_CGROUP).at(Step::Namespace, "cgroup")?;
    }
    set_names(plan)?;
    set_limits(&plan.process)?;
    // Files made on the way get the modes that are asked for.
    rustix::process::umask(rustix::fs::Mode::empty());
    let rootfs = &fds[usize::from(plan.rootfs)];
    root::assemble(plan, rootfs)?;
    let terminal = open_terminal(&plan.stdio, rootfs, true, sync)?;
    root::pivot(rootfs)?;
    for (key, value) in &plan.sysctls {
        let path = format!("/proc/sys/{key}");
        std::fs::write(&path, value).at(Step::Sysctl, &path)?;
    }
    root::protect(plan, rootfs)?;
    connect_stdio(&plan.stdio, fds, terminal)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(plan.process.umask.unwrap_or(0o022)));
    let cwd = inside::locate_or_make(rootfs.as_fd(), &plan.process.cwd, Missing::Directory);
    drop(cwd.at(Step::WorkingDirectory, &plan.process.cwd)?);
    become_workload(&plan.process, plan.init.then_some(proof), started, sync)
}

fn exec_inner(plan: &ExecPlan, fds: &[OwnedFd], sync: &OwnedFd) -> Setup<std::convert::Infallible> {
    let started = Instant::now();
    rustix::process::setsid().map_err(io::Error::from).at(Step::Namespace, "session")?;
    enter_cgroups(&plan.cgroup, fds)?;
    set_limits(&plan.process)?;
    ns::enter(&fds[usize::from(plan.target)], plan.namespaces).at(Step::Namespace, "join")?;
    let here = rustix::fs::openat(
        rustix::fs::CWD,
        "/",
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    let here = here.map_err(io::Error::from).at(Step::Root, "/")?;
    let terminal = open_terminal(&plan.stdio, &here, false, sync)?;
    connect_stdio(&plan.stdio, fds, terminal)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(plan.process.umask.unwrap_or(0o022)));
    become_workload(&plan.process, None, started, sync)
}

fn enter_cgroups(join: &CgroupJoin, fds: &[OwnedFd]) -> Setup<()> {
    for tasks in &join.tasks {
        rustix::io::write(&fds[usize::from(*tasks)], b"0").map_err(io::Error::from).at(Step::Cgroup, "tasks")?;
    }
    Ok(())
}

fn set_names(plan: &LaunchPlan) -> Setup<()> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes()).map_err(io::Error::from).at(Step::Hostname, name)?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes()).map_err(io::Error::from).at(Step::Hostname, name)?;
    }
    Ok(())
}

/// Limits that need the host's privileges, and /proc of the host still in place.
fn set_limits(plan: &ProcessPlan) -> Setup<()> {
    if let Some(score) = plan.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string()).at(Step::Limits, "oom_score_adj")?;
    }
    for &(resource, soft, hard) in plan.rlimits.iter().filter(|(resource, ..)| *resource != OPEN_FILES) {
        process::set_rlimit(resource, soft, hard).at(Step::Limits, "rlimit")?;
    }
    Ok(())
}

/// The limit of open files comes last: until `execve`, all descriptors of the supervisor are open here too.
fn limit_open_files(plan: &ProcessPlan) -> Setup<()> {
    match plan.rlimits.iter().find(|(resource, ..)| *resource == OPEN_FILES) {
        Some(&(resource, soft, hard)) => process::set_rlimit(resource, soft, hard),
        None => process::restore_open_files(),
    }
    .at(Step::Limits, "rlimit")
}

/// A terminal of the container's own devpts; its master goes to the supervisor, its slave is returned.
fn open_terminal(stdio: &StdioPlan, root: &OwnedFd, console: bool, sync: &OwnedFd) -> Setup<Option<OwnedFd>> {
    if !stdio.request.tty {
        return Ok(None);
    }
    let (master, slave) = pty::open(root.as_fd(), "dev/pts/ptmx").at(Step::Terminal, "/dev/pts/ptmx")?;
    if let Some((height, width)) = stdio.request.console_size.filter(|size| *size != (0, 0)) {
        pty::resize(&master, height, width).at(Step::Terminal, "size")?;
    }
    if console {
        let target = inside::locate_or_make(root.as_fd(), "/dev/console", Missing::File);
        let attached = target.and_then(|target| mount::attach(mount::bind_fd(&slave, false)?, target));
        attached.at(Step::Terminal, "/dev/console")?;
    }
    tell(sync, &ChildMessage::Terminal, &[master.as_fd()]).at(Step::Terminal, "master")?;
    Ok(Some(slave))
}

fn connect_stdio(stdio: &StdioPlan, fds: &[OwnedFd], terminal: Option<OwnedFd>) -> Setup<()> {
    let connect = |source: &OwnedFd, number: usize| {
        match number {
            0 => rustix::stdio::dup2_stdin(source),
            1 => rustix::stdio::dup2_stdout(source),
            _ => rustix::stdio::dup2_stderr(source),
        }
        .map_err(io::Error::from)
        .at(Step::Terminal, "standard streams")
    };
    if let Some(slave) = terminal {
        pty::make_controlling(&slave).at(Step::Terminal, "controlling terminal")?;
        return (0..3).try_for_each(|number| connect(&slave, number));
    }
    for (number, end) in stdio.child.iter().enumerate() {
        match end {
            Some(index) => connect(&fds[usize::from(*index)], number)?,
            None => {
                let null = std::fs::File::options().read(true).write(true).open("/dev/null");
                connect(&null.at(Step::Terminal, "/dev/null")?.into(), number)?;
            }
        }
    }
    Ok(())
}

/// Working directory, user, capabilities, seccomp, program. The order is runc's: without no_new_privs the filter must go
/// in while the process still may, with it as late as possible.
fn become_workload(
    plan: &ProcessPlan,
    init: Option<SingleThreaded>,
    started: Instant,
    sync: &OwnedFd,
) -> Setup<std::convert::Infallible> {
    let env = environment(plan);
    // Before a filter has its say about opening files.
    let arguments = init.as_ref().and_then(|_| process::Arguments::find().ok());
    limit_open_files(plan)?;
    if plan.no_new_privileges {
        process::no_new_privileges().at(Step::Privileges, "no_new_privs")?;
    } else {
        install_seccomp(plan)?;
    }
    give_streams_to(plan.uid);
    let sets = plan.capabilities;
    caps::limit_bounding(sets.bounding).at(Step::Privileges, "bounding set")?;
    caps::keep_over_setuid(true).at(Step::Privileges, "keepcaps")?;
    process::become_user(plan.uid, plan.gid, &plan.groups).at(Step::User, &plan.uid.to_string())?;
    caps::keep_over_setuid(false).at(Step::Privileges, "keepcaps")?;
    // A user other than root changes directory with the rights the workload has; root's are its capabilities.
    rustix::process::chdir(plan.cwd.as_str()).map_err(io::Error::from).at(Step::WorkingDirectory, &plan.cwd)?;
    caps::set(sets.effective, sets.permitted, sets.inheritable).at(Step::Privileges, "capabilities")?;
    caps::set_ambient(sets.ambient).at(Step::Privileges, "ambient set")?;
    let file = program::find(&plan.argv[0], &env)?;
    let strings = |list: &[String]| -> io::Result<Vec<CString>> {
        list.iter().map(|s| CString::new(s.as_str()).map_err(io::Error::from)).collect()
    };
    let (argv, env) = (strings(&plan.argv).at(Step::Exec, "argv")?, strings(&env).at(Step::Exec, "environment")?);
    if plan.no_new_privileges {
        install_seccomp(plan)?;
    }
    // Zero would mean "not set up yet" to the supervisor.
    let micros = u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX).max(1);
    tell(sync, &ChildMessage::Ready(micros), &[]).at(Step::Exec, "ready")?;
    process::usual_turns();
    if let Some(proof) = init {
        crate::init::become_init(proof, arguments, &plan.argv).at(Step::Exec, "init")?;
    }
    process::reset_signals().at(Step::Exec, "signals")?;
    let error = process::exec(&file, &argv, &env);
    // As under runc: by now the container counts as started; the words go to its own stderr.
    let _ = writeln!(io::stderr(), "exec {}: {}", plan.argv[0], describe(&error));
    process::exit_now(255)
}

/// A workload that is not root must be able to open /dev/stdout again, as runc allows it. Devices keep their owner.
fn give_streams_to(uid: u32) {
    let owner = Some(rustix::fs::Uid::from_raw(uid));
    let give = |fd: std::os::fd::BorrowedFd<'_>| {
        let pipe = rustix::fs::fstat(fd).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo && stat.st_uid != uid
        });
        if pipe {
            let _ = rustix::fs::fchown(fd, owner, None);
        }
    };
    give(rustix::stdio::stdin());
    give(rustix::stdio::stdout());
    give(rustix::stdio::stderr());
}

fn install_seccomp(plan: &ProcessPlan) -> Setup<()> {
    if plan.seccomp.is_empty() {
        return Ok(());
    }
    seccomp::install(&plan.seccomp, plan.seccomp_flags).map(drop).at(Step::Privileges, "seccomp")
}

/// The environment with `HOME` from the container's /etc/passwd where it is not set, `/` where that does not tell.
fn environment(plan: &ProcessPlan) -> Vec<String> {
    let mut env = plan.env.clone();
    if !env.iter().any(|variable| variable.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        env.retain(|variable| !variable.starts_with("HOME="));
        env.push(format!("HOME={}", home_of(plan.uid).unwrap_or_else(|| "/".to_owned())));
    }
    env
}

fn home_of(uid: u32) -> Option<String> {
    let uid = uid.to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let home = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 6 && fields[2] == uid).then(|| fields[5].to_owned())
    })?;
    (!home.is_empty()).then_some(home)
}
