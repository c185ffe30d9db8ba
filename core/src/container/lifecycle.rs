//! Which verb may run in which state, and where it leads. Pure: no I/O, no clock, no locks; the container's task asks
//! here before it acts.
//!
//! ```text
//!              start                exit, no restart
//!  Created ------------> Running ----------------------> Exited --start--> Running
//!     |                  |   ^  \                          |
//!     |            pause |   |   \ exit, restart           | remove
//!     |                  v   |    v                        v
//!     |                  Paused   Restarting --due--> Running        Removing --> gone
//!     |  remove                       |  stop                           ^  \ failed
//!     +-------------------------------+-> Exited                        |   v
//!     +-----------------------------------------------------------------+  Dead --remove--> Removing
//! ```

use dockerd_types::container::Status;

/// Something a client or the kernel wants of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// A client starts it.
    Start,
    /// A client stops, kills or restarts it: is there something to send a signal to?
    Signal,
    /// A client freezes it.
    Pause,
    /// A client thaws it.
    Unpause,
    /// A client removes it.
    Remove {
        /// Even if it runs.
        force: bool,
    },
    /// Its process ended.
    Exited {
        /// The restart policy will start it again.
        restart: bool,
    },
    /// The restart policy's delay is over.
    RestartDue,
    /// A restart by the policy failed, or was called off by a stop.
    RestartCancelled,
    /// Removal got stuck.
    RemovalFailed,
}

/// Why a verb may not run now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Already so.
    NotModified,
    /// Needs a process.
    NotRunning,
    /// Not while frozen.
    Paused,
    /// Not while a restart is under way.
    Restarting,
    /// Not while being removed, or after that failed.
    Removing,
    /// Not while it runs.
    Running,
}

/// The state after `verb`, or why it may not run. [`Verb::Signal`] leaves the state as it is.
pub fn next(status: Status, verb: Verb) -> Result<Status, Refusal> {
    match verb {
        Verb::Start => start(status),
        Verb::Signal => signal(status),
        Verb::Pause => pause(status),
        Verb::Unpause => unpause(status),
        Verb::Remove { force } => remove(status, force),
        Verb::Exited { restart } => exited(status, restart),
        Verb::RestartDue => only(status, Status::Restarting, Status::Running),
        Verb::RestartCancelled => only(status, Status::Restarting, Status::Exited),
        Verb::RemovalFailed => only(status, Status::Removing, Status::Dead),
    }
}

fn start(status: Status) -> Result<Status, Refusal> {
    match status {
        Status::Created | Status::Exited => Ok(Status::Running),
        Status::Running | Status::Restarting => Err(Refusal::NotModified),
        Status::Paused => Err(Refusal::Paused),
        Status::Removing | Status::Dead => Err(Refusal::Removing),
    }
}

fn signal(status: Status) -> Result<Status, Refusal> {
    match status {
        Status::Running | Status::Paused | Status::Restarting => Ok(status),
        Status::Created | Status::Exited | Status::Removing | Status::Dead => Err(Refusal::NotRunning),
    }
}

fn pause(status: Status) -> Result<Status, Refusal> {
    match status {
        Status::Running => Ok(Status::Paused),
        Status::Paused => Err(Refusal::Paused),
        Status::Restarting => Err(Refusal::Restarting),
        Status::Created | Status::Exited | Status::Removing | Status::Dead => Err(Refusal::NotRunning),
    }
}

fn unpause(status: Status) -> Result<Status, Refusal> {
    match status {
        Status::Paused => Ok(Status::Running),
        Status::Created | Status::Running | Status::Restarting | Status::Exited | Status::Removing | Status::Dead => {
            Err(Refusal::NotModified)
        }
    }
}

fn remove(status: Status, force: bool) -> Result<Status, Refusal> {
    match status {
        Status::Created | Status::Exited | Status::Dead => Ok(Status::Removing),
        Status::Running | Status::Paused | Status::Restarting if force => Ok(Status::Removing),
        Status::Running | Status::Paused | Status::Restarting => Err(Refusal::Running),
        Status::Removing => Err(Refusal::Removing),
    }
}

fn exited(status: Status, restart: bool) -> Result<Status, Refusal> {
    match status {
        Status::Running | Status::Paused => Ok(if restart { Status::Restarting } else { Status::Exited }),
        // A forced removal killed it; the removal goes on.
        Status::Removing => Ok(Status::Removing),
        Status::Created | Status::Restarting | Status::Exited | Status::Dead => Err(Refusal::NotRunning),
    }
}

fn only(status: Status, from: Status, to: Status) -> Result<Status, Refusal> {
    if status == from { Ok(to) } else { Err(Refusal::NotModified) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Status; 7] = [
        Status::Created,
        Status::Running,
        Status::Paused,
        Status::Restarting,
        Status::Removing,
        Status::Exited,
        Status::Dead,
    ];
    const VERBS: [Verb; 11] = [
        Verb::Start,
        Verb::Signal,
        Verb::Pause,
        Verb::Unpause,
        Verb::Remove { force: false },
        Verb::Remove { force: true },
        Verb::Exited { restart: false },
        Verb::Exited { restart: true },
        Verb::RestartDue,
        Verb::RestartCancelled,
        Verb::RemovalFailed,
    ];

    #[test]
    fn every_pair() {
        // Columns follow VERBS; a lower-case letter is the refusal, an upper-case one the state led to.
        let expected = [
            (Status::Created, "Rnn-GGnn---"),
            (Status::Running, "-RP-rGER---"),
            (Status::Paused, "pPpRrGER---"),
            (Status::Restarting, "-Tt-rGnnRE-"),
            (Status::Removing, "gnn-ggGG--D"),
            (Status::Exited, "Rnn-GGnn---"),
            (Status::Dead, "gnn-GGnn---"),
        ];
        for (status, row) in expected {
            for (verb, want) in VERBS.iter().zip(row.chars()) {
                let got = letter(next(status, *verb), *verb);
                assert_eq!(got, want, "{status:?} {verb:?}");
            }
        }
    }

    fn letter(result: Result<Status, Refusal>, verb: Verb) -> char {
        match result {
            Ok(Status::Running) => 'R',
            Ok(Status::Paused) => 'P',
            Ok(Status::Restarting) if matches!(verb, Verb::Exited { .. }) => 'R',
            Ok(Status::Restarting) => 'T',
            Ok(Status::Removing) => 'G',
            Ok(Status::Exited) => 'E',
            Ok(Status::Dead) => 'D',
            Ok(Status::Created) => 'C',
            Err(Refusal::NotModified) => '-',
            Err(Refusal::NotRunning) => 'n',
            Err(Refusal::Paused) => 'p',
            Err(Refusal::Restarting) => 't',
            Err(Refusal::Removing) => 'g',
            Err(Refusal::Running) => 'r',
        }
    }

    proptest! {
        /// Whatever the order of verbs: never back to created, frozen only out of running, and gone only by removal.
        #[test]
        fn walks_stay_sane(verbs in proptest::collection::vec(0..VERBS.len(), 0..64)) {
            let mut status = Status::Created;
            for index in verbs {
                let verb = VERBS[index];
                let Ok(after) = next(status, verb) else { continue };
                prop_assert!(after != Status::Created || status == Status::Created);
                prop_assert!(after != Status::Paused || matches!(status, Status::Running | Status::Paused));
                let by_removal = matches!(verb, Verb::Remove { .. }) || status == Status::Removing;
                prop_assert!(after != Status::Removing || by_removal);
                prop_assert!(after != Status::Dead || status == Status::Removing || status == Status::Dead);
                status = after;
            }
            prop_assert!(ALL.contains(&status));
        }
    }
}
