//! Messages between daemon and supervisor: postcard in one `SOCK_SEQPACKET` message each, descriptors beside them.
//! A supervisor of another version is upgraded in place (`Request::Upgrade`) before anything else is asked of it, so
//! both ends always speak the same version; only `Hello` and `Upgrade` must stay readable for ever.

use serde::{Deserialize, Serialize};

use crate::driver::{PhaseTimings, ProcessExit, ProcessKey};
use crate::launch::plan::{ExecPlan, FdIndex, LaunchPlan, SetupFailure};

/// Raised with every change of these types.
pub(crate) const VERSION: u32 = 4;

/// The oldest protocol whose saved state this program can go on from. A supervisor of an older one is left alone and the
/// daemon refuses to start: to execute in place would lose its children.
pub(crate) const OLDEST_RESUMABLE: u32 = 3;

/// The first protocol whose program goes on from a state with [`Request::Store`]d descriptors. An earlier one would not know
/// them, and its containers would inherit them.
pub(crate) const FIRST_WITH_STORED: u32 = 4;

/// Longest message. Plans are about 10 KB; one with a huge environment travels in a memory file instead.
pub(crate) const MAX_MESSAGE: usize = 160 * 1024;

/// From the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// First on a connection; answered by [`Reply::Hello`]. The newest connection is the daemon's.
    Hello,
    /// Execute this program (descriptor 0) in place, children kept. Descriptor 1, since protocol 4: a sealed file with the
    /// program's own protocol in decimal, by which is known what it can be handed.
    Upgrade,
    /// Bring up a container; answered by `Started` or `Failed`.
    Launch(Box<LaunchPlan>),
    /// Run a process in a container; answered by `Started` or `Failed`.
    Exec(Box<ExecPlan>),
    /// Run a command on the host and collect it (external runtimes); answered by `Ended` or `Error`, or by `Started` if
    /// it left a process to adopt.
    Command(CommandPlan),
    /// Keep these duplicates of the daemon's ends of a watched process's streams (a terminal that came after adoption).
    Hold {
        /// The process.
        key: ProcessKey,
        /// Daemon's ends of stdin, stdout, stderr.
        streams: [Option<FdIndex>; 3],
    },
    /// Keep these descriptors, whatever they are, for the daemon that comes next.
    Keep(ProcessKey),
    /// Watch a process that is not this supervisor's child (the one before was lost). Descriptor: its pidfd. Its exit code
    /// cannot be known.
    Adopt {
        /// What it is known as.
        key: ProcessKey,
        /// Its process id.
        pid: i32,
        /// Whether it runs on a terminal.
        tty: bool,
    },
    /// Close the supervisor's duplicate of a process's stdin.
    CloseStdin(ProcessKey),
    /// The exit of this process is on record; forget it.
    Acknowledge(ProcessKey),
    /// Tell all processes; answered by `Process` messages and `Done`.
    List,
    /// End; refused while processes are watched. What is stored is given up.
    Shutdown,
    /// Keep these descriptors, which belong to no process, under a name, in the place of those that were there before;
    /// answered by `Done` or `Error`.
    Store {
        /// By which they are known.
        name: String,
        /// What the daemon wants to know with them.
        note: Vec<u8>,
        /// How many come along.
        count: u8,
    },
    /// Tell everything that is stored; answered by `Stored` messages and `Done`.
    ListStored,
    /// Give up what is stored under this name, if anything is; answered by `Done`.
    Release(String),
}

/// A command of an external runtime.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CommandPlan {
    /// Program (absolute path) and arguments.
    pub(crate) argv: Vec<String>,
    /// The whole environment.
    pub(crate) env: Vec<String>,
    /// Working directory.
    pub(crate) cwd: String,
    /// Its stdin, stdout, stderr; `None` is `/dev/null`.
    pub(crate) stdio: [Option<u8>; 3],
    /// What to do with the process it leaves behind when it ends with 0.
    pub(crate) adopt: Option<AdoptPlan>,
}

/// A process that outlives the command that made it and is watched from then on. It may have ended already: as long as
/// such a command runs, the supervisor collects no child it does not know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AdoptPlan {
    /// What it is known as from now on.
    pub(crate) key: ProcessKey,
    /// File in which the command leaves its process id.
    pub(crate) pid_file: String,
    /// Whether it runs on a terminal.
    pub(crate) tty: bool,
    /// Daemon's ends of stdin, stdout, stderr.
    pub(crate) streams: [Option<FdIndex>; 3],
}

/// A request with the number its answer bears.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// Chosen by the daemon.
    pub(crate) id: u64,
    /// What is asked.
    pub(crate) request: Request,
}

/// From the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Answer to the request of that number.
    Reply(u64, Reply),
    /// A process ended.
    Exited(ProcessExit),
}

/// Answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The supervisor's [`VERSION`] and program version.
    Hello(u32, String),
    /// The workload runs. Descriptors: its pidfd, then the terminal's master where there is one.
    Started {
        /// Process id in the daemon's namespace.
        pid: i32,
        /// Phases measured in supervisor and child.
        timings: PhaseTimings,
    },
    /// It could not be set up; nothing is left of it.
    Failed(SetupFailure),
    /// The supervisor could not do it.
    Error(String),
    /// A command ended with this code (128 + signal).
    Ended(i32),
    /// One watched process; more follow. Descriptors: pidfd (unless it has ended), its streams as flagged, then those
    /// of [`Request::Keep`].
    Process {
        /// What it is known as.
        key: ProcessKey,
        /// Its process id.
        pid: i32,
        /// Whether it runs on a terminal.
        tty: bool,
        /// Which of stdin, stdout, stderr come along.
        streams: [bool; 3],
        /// How it ended, when it did.
        exited: Option<ProcessExit>,
    },
    /// That is all, or it is done.
    Done,
    /// What is stored under a name; more follow. Duplicates of its descriptors come along.
    Stored {
        /// The name.
        name: String,
        /// As it was given.
        note: Vec<u8>,
        /// How many descriptors come along.
        count: u8,
    },
}
