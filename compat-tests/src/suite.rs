//! Runs the cases of one test binary: starts a daemon or uses the one it is given, runs the cases side by side, holds
//! them to the list of expected failures, and at the end looks whether the daemon let go of everything.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, anyhow, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

use crate::case::Case;
use crate::daemon::Daemon;
use crate::expected::Expected;
use crate::host::{Host, Kind};
use crate::image;
use crate::leaks::{Holdings, Watch};
use crate::private::Private;

/// Names the daemon under test; without it one of ours is started.
const HOST: &str = "COMPAT_HOST";
/// Cases that run at once: most wait for the daemon, not for the processor.
const THREADS: usize = 6;

/// A test.
pub type Test = fn(&Case<'_>) -> Result<()>;

/// The tests of one binary.
#[derive(Debug)]
pub struct Suite {
    /// Its name.
    pub name: &'static str,
    /// Flags for a daemon of ours.
    pub flags: &'static [&'static str],
    /// Tests by name.
    pub tests: &'static [(&'static str, Test)],
}

/// Lists tests by the names of their functions.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as $crate::suite::Test)),*] };
}

/// A test with its place in the list, which sets it apart from those beside it.
#[derive(Debug, Clone, Copy)]
struct Numbered<'a> {
    full: &'a str,
    number: u16,
    test: Test,
}

/// A daemon and the image tests run on it.
#[derive(Debug)]
struct Session {
    prefix: String,
    image: String,
    host: Host,
    own: Option<Own>,
    /// Keeps a stock daemon with flags running; dropped last.
    private: Option<Private>,
}

/// Which stock daemon a suite is run against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Against {
    /// The one that is given.
    Given,
    /// One more beside it, with the suite's flags.
    Private,
}

/// What is there only when the daemon is one of ours.
#[derive(Debug)]
struct Own {
    daemon: Daemon,
    watch: Watch,
    before: Holdings,
}

impl Suite {
    /// Runs it as a test binary's `main`.
    pub fn main(self) -> ExitCode {
        self.run(Against::Given)
    }

    /// The same, where the flags matter to the tests: they are given to a stock daemon too, which is started beside the one
    /// that is named, with a network of its own.
    pub fn main_with_flags(self) -> ExitCode {
        self.run(Against::Private)
    }

    fn run(self, against: Against) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert(THREADS);
        let session = Arc::new(Mutex::new(None));
        let expected = match Expected::load() {
            Ok(expected) => Arc::new(expected),
            Err(error) => {
                eprintln!("{error:#}");
                return ExitCode::FAILURE;
            }
        };
        let trials = self.tests.iter().zip(0..).map(|((name, test), number)| {
            let (session, expected, flags, test) = (session.clone(), expected.clone(), self.flags, *test);
            let full = format!("{}::{name}", self.name);
            Trial::test(full.clone(), move || {
                let session = started(&session, flags, against).map_err(|error| Failed::from(format!("{error:#}")))?;
                judge(&session, &expected, Numbered { full: &full, number, test })
            })
        });
        let conclusion = libtest_mimic::run(&arguments, trials.collect());
        let session = session.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        let ended = session.map_or(Ok(()), finish);
        if let Err(error) = &ended {
            eprintln!("\nafter suite {}: {error:#}", self.name);
        }
        if conclusion.has_failed() || ended.is_err() { ExitCode::from(101) } else { ExitCode::SUCCESS }
    }
}

/// The session, begun by the first test that needs it.
fn started(session: &Mutex<Option<Arc<Session>>>, flags: &[&str], against: Against) -> Result<Arc<Session>> {
    let mut slot = session.lock().map_err(|_| anyhow!("the daemon could not be started"))?;
    if let Some(session) = &*slot {
        return Ok(session.clone());
    }
    let session = Arc::new(begin(flags, against)?);
    *slot = Some(session.clone());
    Ok(session)
}

fn begin(flags: &[&str], against: Against) -> Result<Session> {
    let prefix = prefix()?;
    let mut session = match std::env::var(HOST) {
        Ok(address) => {
            let socket = address.strip_prefix("unix://").context("COMPAT_HOST must be unix://...")?;
            let given = Host::new(Kind::Stock, Path::new(socket))?;
            let with_flags = against == Against::Private;
            let private = with_flags.then(|| Private::start(&given, flags, None)).transpose()?;
            let host = private.as_ref().map_or(given, |private| private.host().clone());
            Session { image: String::new(), host, own: None, prefix, private }
        }
        Err(_) => {
            let daemon = Daemon::start(flags)?;
            let host = daemon.host().clone();
            let watch = Watch::begin(&host)?;
            let own = Own { daemon, watch, before: Holdings::default() };
            Session { image: String::new(), host, own: Some(own), prefix, private: None }
        }
    };
    session.image = import(&session.host, &session.prefix)?;
    if session.own.is_none()
        && let Err(error) = commands_stay_inside(&session.host, &session.image, &session.prefix)
    {
        session.host.http("DELETE", &format!("/images/{}?force=1", session.image))?;
        return Err(error);
    }
    if let Some(own) = &mut session.own {
        // A first container makes what is kept for the next ones.
        let ran = session.host.docker(&["run", "--rm", "--network", crate::NETWORK, &session.image, "true"], "");
        ensure!(ran.code == 0, "the first container: {}", ran.err);
        own.before = Holdings::settled(&own.daemon, &own.watch)?;
    }
    Ok(session)
}

/// Refuses a daemon whose `exec` does not enter the container: under one that was started by chroot(1) it runs at the
/// root of the mount namespace, which is this machine's, and tests write and remove files.
fn commands_stay_inside(host: &Host, image: &str, prefix: &str) -> Result<()> {
    let name = format!("{prefix}-inside");
    let run = ["run", "-d", "--name", &name, "--network", crate::NETWORK, image, "sleep", "1000"];
    let started = host.docker(&run, "");
    let seen = host.docker(&["exec", &name, "cat", image::OWN_FILE], "");
    host.http("DELETE", &format!("/containers/{name}?force=1"))?;
    ensure!(started.code == 0, "the first container: {}", started.err);
    let is_inside = seen.code == 0 && seen.out == image::OWN_TEXT.trim();
    ensure!(is_inside, "exec does not enter the container, so no test is run: {} {}", seen.out, seen.err);
    Ok(())
}

/// Nobody else's names begin like this.
fn prefix() -> Result<String> {
    let mut random = [0; 3];
    fs::File::open("/dev/urandom").and_then(|mut file| std::io::Read::read_exact(&mut file, &mut random))?;
    let [a, b, c] = random;
    Ok(format!("compat{a:02x}{b:02x}{c:02x}"))
}

/// Gives the daemon the image of this run.
pub fn import(host: &Host, prefix: &str) -> Result<String> {
    let dir = tempfile::tempdir()?;
    let tar: PathBuf = dir.path().join("image.tar");
    image::build(&tar)?;
    let name = format!("{prefix}-image:latest");
    let made = host.docker(&["import", "--change", "CMD [\"sh\"]", &tar.to_string_lossy(), &name], "");
    ensure!(made.code == 0, "import failed: {}", made.err);
    Ok(name)
}

/// Runs one test and decides whether it ended as it should.
fn judge(session: &Session, expected: &Expected, numbered: Numbered<'_>) -> Result<(), Failed> {
    let Numbered { full, number, test } = numbered;
    let short = full.rsplit(':').next().unwrap_or(full).replace('_', "-");
    let case = Case::new(&session.host, &session.image, format!("{}-{short}", session.prefix), number);
    let result = catch_unwind(AssertUnwindSafe(|| test(&case)));
    drop(case);
    let result = match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
        }
    };
    let known = if session.host.kind == Kind::Ours { expected.failure(full) } else { None };
    match (result, known) {
        (Ok(()), None) => Ok(()),
        (Err(text), None) => Err(text.into()),
        (Err(text), Some(reason)) => {
            eprintln!("{full} fails as expected ({reason}): {}", text.lines().next().unwrap_or_default());
            Ok(())
        }
        (Ok(()), Some(_)) => Err("passes, though it is in expected-failures.toml: remove it there".into()),
    }
}

/// Removes the image, looks for leaks, stops the daemon, looks again.
fn finish(session: Arc<Session>) -> Result<()> {
    let Ok(session) = Arc::try_unwrap(session) else { bail!("a test is still running") };
    // By image, as some are made without a name.
    let list = format!("/containers/json?all=1&filters={}", ancestor(&session.image));
    let left = session.host.http("GET", &list)?.json()?;
    let left: Vec<&Value> = left.as_array().into_iter().flatten().collect();
    for id in left.iter().filter_map(|item| item["Id"].as_str()) {
        session.host.http("DELETE", &format!("/containers/{id}?force=1&v=1"))?;
    }
    let left: Vec<String> = left.iter().map(|item| format!("{} {}", item["Names"], item["Status"])).collect();
    ensure!(left.is_empty(), "containers are left: {left:?}");
    let Some(own) = session.own else {
        let removed = session.host.http("DELETE", &format!("/images/{}?force=1", session.image))?;
        ensure!(removed.status == 200, "remove the image: {}", removed.message());
        drop(session.private);
        return Ok(());
    };
    let mut daemon = own.daemon;
    let result = own.before.assert_unchanged(&daemon, &own.watch);
    daemon.stop()?;
    result?;
    Holdings::assert_nothing_is_left(daemon.dir(), &own.watch)
}

/// The filter `ancestor=IMAGE`, percent-encoded.
fn ancestor(image: &str) -> String {
    format!("%7B%22ancestor%22%3A%5B%22{image}%22%5D%7D")
}
