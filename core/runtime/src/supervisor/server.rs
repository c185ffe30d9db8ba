//! The supervisor process: one thread, one epoll loop. Starts children, keeps their pidfds and streams, collects them,
//! tells the daemon. Parses nothing that comes from outside: its only peer is the daemon.
//!
//! ```text
//! epoll: child signals | listener | daemon's connection | one sync socket per launch under way | pidfds of processes
//!        taken over from a supervisor that was lost
//! ```
//!
//! What is under way belongs to the connection it was asked on: a daemon that comes later is not answered questions of
//! one that died, and is told what there is only once all of that has come to its end.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dockerd_sys::fdpass;
use dockerd_sys::process::{self, ChildSignals, Cloned, Ended, SingleThreaded};
use dockerd_types::Timestamp;
use rustix::event::epoll;

use super::command;
use super::protocol::{
    AdoptPlan, CommandPlan, Envelope, FIRST_WITH_STORED, MAX_MESSAGE, Message, Reply, Request, VERSION,
};
use super::saved::{Saved, SavedProcess, SavedStored};
use super::stored::Stored;
use super::table::{Table, Watched};
use crate::driver::{ExitCode, PhaseTimings, ProcessExit, ProcessKey};
use crate::launch::child::{self, ChildMessage};
use crate::launch::plan::{CgroupJoin, ExecPlan, FdIndex, LaunchPlan, SetupFailure, StdioPlan};

const SIGNALS: u64 = 0;
const LISTENER: u64 = 1;
const DAEMON: u64 = 2;
/// Tokens from here on are launches under way and processes taken over.
const FIRST_LAUNCH: u64 = 16;
/// How long launches of a dead daemon may hold up the next one's list before they are killed.
const LAUNCH_LIMIT: Duration = Duration::from_secs(10);
/// How long a daemon that does not read is waited for before its connection is given up, in milliseconds.
const SEND_LIMIT: i64 = 5000;

/// Who wants an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asker {
    /// Which connection it was, counted.
    connection: u64,
    request: u64,
}

/// A child between `clone3` and `execve`.
struct Pending {
    asker: Asker,
    key: ProcessKey,
    pid: i32,
    pidfd: OwnedFd,
    sync: OwnedFd,
    tty: bool,
    streams: [Option<OwnedFd>; 3],
    master: Option<OwnedFd>,
    timings: PhaseTimings,
    /// Set when the child has ended before its socket did.
    ended: Option<Ended>,
}

/// A command of an external runtime.
struct RunningCommand {
    asker: Asker,
    adopt: Option<Adoption>,
}

/// What a command leaves behind.
struct Adoption {
    key: ProcessKey,
    pid_file: String,
    tty: bool,
    streams: [Option<OwnedFd>; 3],
}

/// The whole state; what of it survives an upgrade is in [`Saved`].
pub(super) struct Server {
    proof: SingleThreaded,
    epoll: OwnedFd,
    signals: ChildSignals,
    listener: OwnedFd,
    daemon: Option<OwnedFd>,
    connection: u64,
    /// A list that waits for what an earlier daemon has begun, and until when it does.
    listing: Option<(Asker, Instant)>,
    table: Table,
    stored: Stored,
    /// Processes taken over, by token.
    foreign: HashMap<u64, ProcessKey>,
    pending: HashMap<u64, Pending>,
    commands: HashMap<i32, RunningCommand>,
    next_token: u64,
    own_pid_ns: OwnedFd,
    buffer: Vec<u8>,
    done: bool,
}

impl Server {
    pub(super) fn new(listener: OwnedFd, journal: PathBuf) -> io::Result<Self> {
        let proof = SingleThreaded::check()?.ok_or_else(|| io::Error::other("several threads"))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let signals = ChildSignals::open()?;
        let watch =
            |fd: BorrowedFd<'_>, token| epoll::add(&epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN);
        watch(signals.as_fd(), SIGNALS)?;
        watch(listener.as_fd(), LISTENER)?;
        Ok(Self {
            proof,
            signals,
            listener,
            daemon: None,
            connection: 0,
            listing: None,
            table: Table::new(journal),
            stored: Stored::default(),
            foreign: HashMap::new(),
            pending: HashMap::new(),
            commands: HashMap::new(),
            next_token: FIRST_LAUNCH,
            own_pid_ns: dockerd_sys::ns::open(Path::new("/proc/self/ns/pid"))?,
            buffer: vec![0; MAX_MESSAGE],
            done: false,
            epoll,
        })
    }

    /// Serves until told to end.
    pub(super) fn run(&mut self) -> io::Result<()> {
        // Children may have ended before the signals were watched (upgrade).
        self.collect();
        let mut events = Vec::with_capacity(32);
        while !self.done {
            let limit = self.listing.map(|(_, until)| timespec(until.saturating_duration_since(Instant::now())));
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    SIGNALS => {
                        self.signals.drain();
                        self.collect();
                    }
                    LISTENER => self.accept(),
                    DAEMON => self.receive(),
                    token if self.foreign.contains_key(&token) => self.foreign_ended(token),
                    token => self.progress(token),
                }
            }
            self.list_if_due();
        }
        Ok(())
    }

    fn accept(&mut self) {
        let Ok(connection) = fdpass::accept(&self.listener) else { return };
        let data = epoll::EventData::new_u64(DAEMON);
        if epoll::add(&self.epoll, &connection, data, epoll::EventFlags::IN).is_ok() {
            // The newest connection is the daemon's; an older one belongs to a daemon that is gone.
            self.daemon = Some(connection);
            self.connection += 1;
            self.listing = None;
        }
    }

    fn receive(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        match fdpass::receive(daemon, &mut self.buffer) {
            Ok((0, _)) => self.daemon = None,
            Ok((length, fds)) => match decode(&self.buffer[..length], &fds) {
                Ok(envelope) => self.serve(envelope.id, envelope.request, fds),
                Err(_) => self.daemon = None,
            },
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.daemon = None,
        }
    }

    fn serve(&mut self, id: u64, request: Request, fds: Vec<OwnedFd>) {
        let id = Asker { connection: self.connection, request: id };
        match request {
            Request::Hello => {
                self.reply(id, Reply::Hello(VERSION, env!("CARGO_PKG_VERSION").to_owned()), &[]);
            }
            Request::Upgrade => {
                let error = self.upgrade(fds);
                self.reply(id, Reply::Error(format!("upgrade: {error}")), &[]);
            }
            Request::Launch(plan) => self.launch(id, &plan, fds),
            Request::Exec(plan) => self.exec(id, &plan, fds),
            Request::Command(plan) => self.command(id, plan, fds),
            Request::Hold { key, streams } => {
                if let Some(watched) = self.table.get_mut(&key) {
                    watched.streams = pick(streams, fds);
                }
            }
            Request::Keep(key) => {
                if let Some(watched) = self.table.get_mut(&key) {
                    watched.kept = fds;
                }
            }
            Request::Adopt { key, pid, tty } => self.take_over(key, pid, tty, fds),
            Request::CloseStdin(key) => {
                if let Some(watched) = self.table.get_mut(&key) {
                    watched.streams[0] = None;
                }
            }
            Request::Acknowledge(key) => self.table.acknowledge(&key),
            Request::List => self.listing = Some((id, Instant::now() + LAUNCH_LIMIT)),
            Request::Shutdown => {
                self.done = !self.table.is_busy() && self.pending.is_empty();
                let answer = if self.done { Reply::Done } else { Reply::Error("processes are running".to_owned()) };
                self.reply(id, answer, &[]);
            }
            Request::Store { name, note, count } => {
                let result = self.stored.put(name, note, count, fds);
                let answer = result.map_or_else(|error| Reply::Error(error.to_string()), |()| Reply::Done);
                self.reply(id, answer, &[]);
            }
            Request::ListStored => self.list_stored(id),
            Request::Release(name) => {
                self.stored.release(&name);
                self.reply(id, Reply::Done, &[]);
            }
        }
    }

    fn launch(&mut self, id: Asker, plan: &LaunchPlan, fds: Vec<OwnedFd>) {
        // The cgroup namespace is made by the child once it is in its cgroups.
        let flags = plan.clone_flags & !process::NEW_CGROUP;
        let joined = plan.join.iter().find(|join| join.kind == process::NEW_PID).map(|join| join.fd);
        let start = |sync: OwnedFd| child::launch(self.proof, plan, &fds, sync);
        let cloned = self.born_in(joined, &fds, || self.clone_child(flags, &plan.cgroup, &fds, start));
        self.started(id, plan.key.clone(), plan.stdio, cloned, fds);
    }

    fn exec(&mut self, id: Asker, plan: &ExecPlan, fds: Vec<OwnedFd>) {
        let start = |sync: OwnedFd| child::exec(plan, &fds, sync);
        let cloned = self.born_in(Some(plan.target), &fds, || self.clone_child(0, &plan.cgroup, &fds, start));
        self.started(id, plan.key.clone(), plan.stdio, cloned, fds);
    }

    /// Makes a child in the PID namespace behind `target`: a process stays in its own for ever, only its children are born
    /// in the one that was entered last. This process itself stays where it is.
    fn born_in<T>(
        &self,
        target: Option<FdIndex>,
        fds: &[OwnedFd],
        clone: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(target) = target else { return clone() };
        let target = fds.get(usize::from(target)).ok_or(io::ErrorKind::InvalidInput)?;
        dockerd_sys::ns::enter(target, process::NEW_PID)?;
        let cloned = clone();
        dockerd_sys::ns::enter(&self.own_pid_ns, process::NEW_PID)?;
        cloned
    }

    fn clone_child(
        &self,
        flags: u64,
        cgroup: &CgroupJoin,
        fds: &[OwnedFd],
        run: impl FnOnce(OwnedFd),
    ) -> io::Result<(i32, OwnedFd, OwnedFd, u32)> {
        let before = Instant::now();
        let (ours, theirs) = fdpass::pair()?;
        let index = cgroup.clone_into.map(usize::from);
        let cgroup = index.map(|index| fds.get(index).ok_or(io::ErrorKind::InvalidInput)).transpose()?;
        match process::clone(self.proof, flags, cgroup.map(AsFd::as_fd))? {
            Cloned::Child => {
                drop(ours);
                // A child must never come back into this loop, whatever a plan makes it do.
                let _ = catch_unwind(AssertUnwindSafe(|| run(theirs)));
                process::exit_now(1)
            }
            Cloned::Parent { pid, pidfd } => Ok((pid, pidfd, ours, micros(before))),
        }
    }

    fn started(
        &mut self,
        id: Asker,
        key: ProcessKey,
        stdio: StdioPlan,
        cloned: io::Result<(i32, OwnedFd, OwnedFd, u32)>,
        fds: Vec<OwnedFd>,
    ) {
        let (pid, pidfd, sync, clone) = match cloned {
            Ok(cloned) => cloned,
            Err(error) => return self.reply(id, Reply::Error(format!("clone: {error}")), &[]),
        };
        let streams = pick(stdio.daemon, fds);
        let token = self.next_token;
        self.next_token += 1;
        if let Err(error) = epoll::add(&self.epoll, &sync, epoll::EventData::new_u64(token), epoll::EventFlags::IN) {
            let _ = process::pidfd_signal(&pidfd, 9);
            return self.reply(id, Reply::Error(format!("epoll: {error}")), &[]);
        }
        let timings = PhaseTimings { clone, ..PhaseTimings::default() };
        let tty = stdio.request.tty;
        let pending = Pending { asker: id, key, pid, pidfd, sync, tty, streams, master: None, timings, ended: None };
        self.pending.insert(token, pending);
    }

    /// A launch under way has said something, or its socket has ended without a word.
    fn progress(&mut self, token: u64) {
        let Some(pending) = self.pending.get_mut(&token) else { return };
        let received = fdpass::receive(&pending.sync, &mut self.buffer);
        let (length, mut fds) = received.unwrap_or_default();
        if length == 0 {
            return self.settle(token, None);
        }
        match postcard::from_bytes(&self.buffer[..length]) {
            Ok(ChildMessage::Terminal) => pending.master = fds.pop(),
            // All that can be refused has passed. What `execve` itself says goes to the workload's standard error, so
            // nobody need wait for it.
            Ok(ChildMessage::Ready(micros)) => {
                pending.timings.setup = micros;
                self.settle(token, None);
            }
            Ok(ChildMessage::Failed(failure)) => self.settle(token, Some(Ok(failure))),
            Err(error) => self.settle(token, Some(Err(error.to_string()))),
        }
    }

    fn settle(&mut self, token: u64, failure: Option<Result<SetupFailure, String>>) {
        let Some(pending) = self.pending.remove(&token) else { return };
        let Pending { asker, key, pid, pidfd, sync, tty, mut streams, master, timings, ended } = pending;
        // Children cloned meanwhile hold copies of this end until their execve, so closing ours would not end the watch.
        let _ = epoll::delete(&self.epoll, &sync);
        drop(sync);
        // A child killed during set-up closes its socket without a word and without having set its time.
        let silent = failure.is_none() && timings.setup == 0;
        if failure.is_some() || silent {
            let _ = process::pidfd_signal(&pidfd, 9);
            let how = ended.or_else(|| process::wait_for(pid).ok());
            let answer = match failure {
                Some(Ok(failure)) => Reply::Failed(failure),
                Some(Err(text)) => Reply::Error(text),
                None => Reply::Error(format!("the container's first process ended during set-up: {how:?}")),
            };
            return self.reply(asker, answer, &[]);
        }
        if let Some(master) = &master {
            streams = [master.try_clone().ok(), master.try_clone().ok(), None];
        }
        let mut fds = vec![pidfd.as_fd()];
        fds.extend(master.as_ref().map(AsFd::as_fd));
        self.reply(asker, Reply::Started { pid, timings }, &fds);
        self.table.insert(key, watched(pid, pidfd, tty, streams));
        if let Some(ended) = ended {
            self.exited(pid, ended);
        }
    }

    fn command(&mut self, id: Asker, plan: CommandPlan, fds: Vec<OwnedFd>) {
        match command::start(self.proof, &plan, &fds) {
            Ok(pid) => {
                let adopt = plan.adopt.map(|AdoptPlan { key, pid_file, tty, streams }| Adoption {
                    key,
                    pid_file,
                    tty,
                    streams: pick(streams, fds),
                });
                self.commands.insert(pid, RunningCommand { asker: id, adopt });
            }
            Err(error) => self.reply(id, Reply::Error(error.to_string()), &[]),
        }
    }

    fn command_ended(&mut self, command: RunningCommand, ended: Ended) {
        let RunningCommand { asker, adopt } = command;
        match adopt.filter(|_| ended == Ended::Exited(0)) {
            Some(adoption) => self.adopt(asker, adoption),
            None => self.reply(asker, Reply::Ended(docker_code(ended)), &[]),
        }
    }

    fn adopt(&mut self, asker: Asker, adoption: Adoption) {
        let Adoption { key, pid_file, tty, streams } = adoption;
        let text = std::fs::read_to_string(&pid_file);
        let pid = text.and_then(|text| text.trim().parse::<i32>().map_err(io::Error::other));
        match pid.and_then(|pid| Ok((pid, process::pidfd_open(pid)?))) {
            Ok((pid, pidfd)) => {
                self.reply(asker, Reply::Started { pid, timings: PhaseTimings::default() }, &[pidfd.as_fd()]);
                self.table.insert(key, watched(pid, pidfd, tty, streams));
            }
            Err(error) => self.reply(asker, Reply::Error(format!("process of {pid_file}: {error}")), &[]),
        }
    }

    /// Watches a process that is another's child: its end can be seen, its exit code cannot.
    fn take_over(&mut self, key: ProcessKey, pid: i32, tty: bool, fds: Vec<OwnedFd>) {
        let Some(pidfd) = fds.into_iter().next() else { return };
        let token = self.next_token;
        self.next_token += 1;
        if epoll::add(&self.epoll, &pidfd, epoll::EventData::new_u64(token), epoll::EventFlags::IN).is_ok() {
            self.foreign.insert(token, key.clone());
            self.table.insert_foreign(key, watched(pid, pidfd, tty, [None, None, None]));
        }
    }

    fn foreign_ended(&mut self, token: u64) {
        if let Some(key) = self.foreign.remove(&token) {
            self.report(ProcessExit { key, code: ExitCode::Unknown, at: Timestamp::now(), oom_killed: false });
        }
    }

    /// Answers a list once nothing is under way that an earlier daemon has asked for.
    fn list_if_due(&mut self) {
        let Some((asker, until)) = self.listing else { return };
        let is_older = |other: &Asker| other.connection != asker.connection;
        let launches = self.pending.values().filter(|pending| is_older(&pending.asker));
        let commands = self.commands.values().filter(|command| command.adopt.is_some() && is_older(&command.asker));
        if launches.clone().count() + commands.count() == 0 {
            self.listing = None;
            self.list(asker);
        } else if Instant::now() >= until {
            launches.for_each(|pending| drop(process::pidfd_signal(&pending.pidfd, 9)));
            self.listing = None;
            self.list(asker);
        }
    }

    fn list(&mut self, id: Asker) {
        let Some(daemon) = &self.daemon else { return };
        for (key, watched) in self.table.iter() {
            let streams = watched.streams.iter().flatten();
            let fds: Vec<BorrowedFd<'_>> =
                watched.pidfd.iter().chain(streams).chain(&watched.kept).map(AsFd::as_fd).collect();
            let reply = Reply::Process {
                key: key.clone(),
                pid: watched.pid,
                tty: watched.tty,
                streams: [0, 1, 2].map(|i| watched.streams[i].is_some()),
                exited: watched.exited.clone(),
            };
            if send(daemon, &Message::Reply(id.request, reply), &fds).is_err() {
                break;
            }
        }
        self.reply(id, Reply::Done, &[]);
    }

    fn list_stored(&mut self, id: Asker) {
        let Some(daemon) = &self.daemon else { return };
        for (name, entry) in self.stored.iter() {
            let fds: Vec<BorrowedFd<'_>> = entry.fds.iter().map(AsFd::as_fd).collect();
            // No more than are taken.
            let count = u8::try_from(fds.len()).unwrap_or(u8::MAX);
            let reply = Reply::Stored { name: name.clone(), note: entry.note.clone(), count };
            if send(daemon, &Message::Reply(id.request, reply), &fds).is_err() {
                break;
            }
        }
        self.reply(id, Reply::Done, &[]);
    }

    /// Collects every child that has ended. While a command runs whose process is to be adopted, children nobody knows
    /// are left alone: one of them may be that process, and what is collected cannot be adopted any more.
    fn collect(&mut self) {
        while self.commands.values().any(|command| command.adopt.is_some()) {
            let known =
                self.commands.keys().copied().chain(self.pending.values().map(|p| p.pid)).chain(self.table.pids());
            let ended = known.collect::<Vec<_>>().into_iter().find_map(|pid| Some((pid, process::collect(pid).ok()??)));
            match ended {
                Some((pid, ended)) => self.collected(pid, ended),
                None => return,
            }
        }
        while let Ok(Some((pid, ended))) = process::collect_any() {
            self.collected(pid, ended);
        }
    }

    fn collected(&mut self, pid: i32, ended: Ended) {
        if let Some(command) = self.commands.remove(&pid) {
            self.command_ended(command, ended);
        } else if let Some(pending) = self.pending.values_mut().find(|pending| pending.pid == pid) {
            // Its socket may still hold the words that say why.
            pending.ended = Some(ended);
        } else {
            // Or it is a process a container left behind, which only had to be collected.
            self.exited(pid, ended);
        }
    }

    fn exited(&mut self, pid: i32, ended: Ended) {
        let Some(key) = self.table.key_of(pid).cloned() else { return };
        let code = match ended {
            Ended::Exited(code) => ExitCode::Exited(code),
            Ended::Signaled(signal) => ExitCode::Signaled(signal),
        };
        self.report(ProcessExit { key, code, at: Timestamp::now(), oom_killed: false });
    }

    /// Tells the daemon of an exit, and puts it on record for the next one.
    fn report(&mut self, exit: ProcessExit) {
        if let Some(daemon) = &self.daemon
            && send(daemon, &Message::Exited(exit.clone()), &[]).is_err()
        {
            self.daemon = None;
        }
        self.table.record(&exit);
    }

    fn reply(&mut self, to: Asker, reply: Reply, fds: &[BorrowedFd<'_>]) {
        // Who asked on an earlier connection is gone; the number may be somebody else's by now.
        let Some(daemon) = self.daemon.as_ref().filter(|_| to.connection == self.connection) else { return };
        if send(daemon, &Message::Reply(to.request, reply), fds).is_err() {
            self.daemon = None;
        }
    }

    /// Executes the program behind the first descriptor with this state; returns only on failure.
    fn upgrade(&mut self, fds: Vec<OwnedFd>) -> io::Error {
        if !self.pending.is_empty() || !self.commands.is_empty() {
            return io::Error::other("launches are under way");
        }
        let mut fds = fds.into_iter();
        let Some(program) = fds.next() else { return io::ErrorKind::InvalidInput.into() };
        let takes_stored = fds.next().and_then(|fd| protocol_of(&fd)).is_some_and(|takes| takes >= FIRST_WITH_STORED);
        match self.save(takes_stored).and_then(|saved| super::entry::exec_resumed(&program, saved)) {
            Ok(never) => match never {},
            Err(error) => {
                // What was made ready for the other program must not go to children of this one.
                let _ = process::close_untaken();
                error
            }
        }
    }

    fn save(&self, with_stored: bool) -> io::Result<OwnedFd> {
        let keep = |fd: &OwnedFd| fd.try_clone().and_then(process::keep_over_exec);
        let mut saved = Saved {
            listener: keep(&self.listener)?,
            daemon: self.daemon.as_ref().map(keep).transpose()?,
            processes: Vec::new(),
            stored: Vec::new(),
        };
        for (name, entry) in self.stored.iter().filter(|_| with_stored) {
            let fds = entry.fds.iter().map(keep).collect::<io::Result<_>>()?;
            saved.stored.push(SavedStored { name: name.clone(), note: entry.note.clone(), fds });
        }
        for (key, watched) in self.table.iter() {
            let mut streams = [None; 3];
            for (slot, stream) in streams.iter_mut().zip(&watched.streams) {
                *slot = stream.as_ref().map(keep).transpose()?;
            }
            saved.processes.push(SavedProcess {
                key: key.clone(),
                pid: watched.pid,
                pidfd: watched.pidfd.as_ref().map(keep).transpose()?,
                tty: watched.tty,
                streams,
                kept: watched.kept.iter().map(keep).collect::<io::Result<_>>()?,
                is_foreign: self.foreign.values().any(|foreign| foreign == key),
                exited: watched.exited.clone(),
            });
        }
        saved.into_file()
    }

    /// The state an earlier program of this process has saved.
    pub(super) fn resume(saved: OwnedFd, journal: PathBuf) -> io::Result<Self> {
        let saved = Saved::from_file(saved)?;
        let mut server = Self::new(process::take_inherited(saved.listener)?, journal)?;
        if let Some(daemon) = saved.daemon {
            let daemon = process::take_inherited(daemon)?;
            epoll::add(&server.epoll, &daemon, epoll::EventData::new_u64(DAEMON), epoll::EventFlags::IN)?;
            server.daemon = Some(daemon);
        }
        for old in saved.processes {
            let take = |fd: Option<i32>| fd.map(process::take_inherited).transpose();
            let SavedProcess { key, pid, pidfd, tty, streams: [stdin, stdout, stderr], kept, is_foreign, exited } = old;
            let streams = [take(stdin)?, take(stdout)?, take(stderr)?];
            let kept = kept.into_iter().map(process::take_inherited).collect::<io::Result<_>>()?;
            let pidfd = take(pidfd)?;
            if is_foreign && exited.is_none() {
                server.take_over(key.clone(), pid, tty, pidfd.into_iter().collect());
                if let Some(watched) = server.table.get_mut(&key) {
                    (watched.streams, watched.kept) = (streams, kept);
                }
            } else {
                server.table.insert(key, Watched { pid, pidfd, tty, streams, kept, exited });
            }
        }
        for SavedStored { name, note, fds } in saved.stored {
            let fds = fds.into_iter().map(process::take_inherited).collect::<io::Result<Vec<_>>>()?;
            let count = u8::try_from(fds.len()).unwrap_or(u8::MAX);
            // A later program may take more than this one does; what is refused is closed.
            let _ = server.stored.put(name, note, count, fds);
        }
        process::close_untaken()?;
        Ok(server)
    }
}

/// What a daemon says of the program it sends.
fn protocol_of(file: &OwnedFd) -> Option<u32> {
    String::from_utf8(dockerd_sys::memory::unsealed(file, 10).ok()?).ok()?.parse().ok()
}

fn watched(pid: i32, pidfd: OwnedFd, tty: bool, streams: [Option<OwnedFd>; 3]) -> Watched {
    Watched { pid, pidfd: Some(pidfd), tty, streams, kept: Vec::new(), exited: None }
}

fn timespec(duration: Duration) -> rustix::event::Timespec {
    let tv_sec = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    rustix::event::Timespec { tv_sec, tv_nsec: duration.subsec_nanos().into() }
}

/// Takes the descriptors at these positions out of a message.
fn pick(streams: [Option<u8>; 3], fds: Vec<OwnedFd>) -> [Option<OwnedFd>; 3] {
    let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
    streams.map(|index| index.and_then(|i| fds.get_mut(usize::from(i)).and_then(Option::take)))
}

/// A message, or where it is only a mark, the message in the memory file that came last.
fn decode(bytes: &[u8], fds: &[OwnedFd]) -> io::Result<Envelope> {
    if bytes != super::client::IN_FILE {
        return postcard::from_bytes(bytes).map_err(io::Error::other);
    }
    let file = fds.last().ok_or(io::ErrorKind::InvalidData)?;
    let mut content = Vec::new();
    File::from(file.try_clone()?).read_to_end(&mut content)?;
    postcard::from_bytes(&content).map_err(io::Error::other)
}

/// Sends, waiting a little for a daemon that is slow to read.
fn send(daemon: &OwnedFd, message: &Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    loop {
        match fdpass::send(daemon, &bytes, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut poll = [rustix::event::PollFd::new(daemon, rustix::event::PollFlags::OUT)];
                let limit = rustix::event::Timespec { tv_sec: SEND_LIMIT / 1000, tv_nsec: 0 };
                if rustix::event::poll(&mut poll, Some(&limit))? == 0 {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            other => return other,
        }
    }
}

fn docker_code(ended: Ended) -> i32 {
    match ended {
        Ended::Exited(code) => code,
        Ended::Signaled(signal) => 128 + signal,
    }
}

fn micros(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX)
}
