//! The daemon dies and comes back: no container, exit code or line of output is lost, and nothing is left over. Ours only:
//! each test has a daemon of its own and kills it.

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use compat_tests::daemon::Daemon;
use compat_tests::host::Host;
use compat_tests::leaks::{Holdings, Watch};
use compat_tests::network::Network;
use compat_tests::suite;
use compat_tests::{Case, LIMIT, PAUSE, Suite, tests};

fn main() -> ExitCode {
    if std::env::var_os("COMPAT_HOST").is_some() {
        eprintln!("suite kill: for a daemon of ours only");
        return ExitCode::SUCCESS;
    }
    Suite {
        name: "kill",
        flags: &[],
        tests: tests![
            no_line_is_lost,
            exit_codes_while_down,
            containers_stay_usable,
            state_survives,
            auto_remove_while_down,
            restart_policies_while_down,
            during_many_starts,
            during_creates_and_removes,
            right_after_removals,
            supervisor_is_killed,
            graceful_stop_ends_containers,
            networks_are_taken_over,
            user_networks_are_taken_over,
            first_network_of_a_daemon_without_a_bridge,
            networks_made_and_removed_meanwhile,
        ],
    }
    .main()
}

/// A daemon with the image `busybox`, and what to say to it.
struct Own {
    daemon: Daemon,
}

impl Own {
    fn start() -> Result<Self> {
        Self::with(&[])
    }

    fn with(flags: &[&str]) -> Result<Self> {
        let daemon = Daemon::start(flags)?;
        let image = suite::import(daemon.host(), "kill")?;
        let own = Self { daemon };
        own.ok(&["tag", &image, "busybox"])?;
        Ok(own)
    }

    fn host(&self) -> &Host {
        self.daemon.host()
    }

    fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.host().docker(arguments, "").ok().with_context(|| format!("{arguments:?}"))
    }

    fn run(&self, name: &str, options: &[&str], script: &str) -> Result<String> {
        let head = ["run", "-d", "--network", "none", "--name", name];
        self.ok(&[&head, options, &["busybox", "sh", "-c", script]].concat())
    }

    fn inspect(&self, name: &str, template: &str) -> Result<String> {
        self.ok(&["inspect", "-f", template, name])
    }

    fn wait_for(&self, arguments: &[&str], wanted: impl Fn(&str) -> bool) -> Result<()> {
        let begun = Instant::now();
        loop {
            let out = self.host().docker(arguments, "").out;
            if wanted(&out) {
                return Ok(());
            }
            ensure!(begun.elapsed() < LIMIT, "{arguments:?} still prints {out:?}");
            std::thread::sleep(PAUSE);
        }
    }

    /// What there is before a test, once a first container has had made what is kept for the next ones.
    fn observed(&self) -> Result<(Watch, Holdings)> {
        let watch = Watch::begin(self.host())?;
        self.ok(&["run", "--rm", "--network", "none", "busybox", "true"])?;
        let before = Holdings::settled(&self.daemon, &watch)?;
        Ok((watch, before))
    }

    /// Removes all containers; then nothing of them may be left, also not after the daemon's end.
    fn finish(mut self, watch: &Watch, before: &Holdings) -> Result<()> {
        for id in self.ok(&["ps", "-aq", "--no-trunc"])?.lines() {
            // It may be an earlier daemon's, whose events are gone with it.
            watch.add(id);
            self.ok(&["rm", "-f", "-v", id])?;
        }
        let unchanged = before.assert_unchanged(&self.daemon, watch);
        self.daemon.stop()?;
        unchanged?;
        Holdings::assert_nothing_is_left(self.daemon.dir(), watch)
    }
}

/// Waits until the process of a container is gone, while nobody is there to ask.
fn wait_gone(pid: &str) -> Result<()> {
    let begun = Instant::now();
    let stat = format!("/proc/{pid}/stat");
    // A zombie is waited for by nobody but its parent, which may be the daemon that is down.
    while std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
        ensure!(begun.elapsed() < LIMIT, "process {pid} does not end");
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn no_line_is_lost(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    // Quick enough that there is always one on its way, and it goes on for as long as it takes.
    let script =
        "i=0; until test -e /stop; do echo $i; i=$((i+1)); test $((i % 20)) = 0 && usleep 2000; done; echo end $i";
    own.run("count", &[], script)?;
    for _ in 0..3 {
        let before = own.ok(&["logs", "--tail", "1", "count"])?;
        own.wait_for(&["logs", "--tail", "1", "count"], |out| out != before)?;
        own.daemon.kill()?;
        own.daemon.restart()?;
    }
    // The container may end, and the command with it, before that is told.
    own.host().docker(&["exec", "count", "touch", "/stop"], "");
    assert_eq!(own.ok(&["wait", "count"])?, "0");
    let out = own.ok(&["logs", "count"])?;
    let (lines, end) = out.rsplit_once("\nend ").context("the last line is missing")?;
    let total: u32 = end.parse()?;
    ensure!(total > 100, "only {total} lines");
    let lines = lines.lines().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let seen: BTreeSet<u32> = lines.iter().copied().collect();
    let missing: Vec<u32> = (0..total).filter(|number| !seen.contains(number)).collect();
    ensure!(missing.is_empty(), "{} lines are missing: {:?}", missing.len(), &missing[..missing.len().min(20)]);
    ensure!(lines.len() == total as usize, "{} of {total} lines, so some stand there twice", lines.len());
    ensure!(lines.is_sorted(), "lines are out of order");
    Ok(())
}

fn exit_codes_while_down(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    let mut pids = Vec::new();
    for code in 0..5 {
        let name = format!("c{code}");
        own.run(&name, &[], &format!("until test -e /go; do sleep 0.01; done; echo last words; exit {code}"))?;
        pids.push(own.inspect(&name, "{{.State.Pid}}")?);
    }
    for code in 0..5 {
        // They end shortly after, when the daemon is gone.
        own.ok(&["exec", "-d", &format!("c{code}"), "sh", "-c", "sleep 0.3; touch /go"])?;
    }
    own.daemon.kill()?;
    for pid in &pids {
        wait_gone(pid)?;
    }
    own.daemon.restart()?;
    for code in 0..5 {
        let name = format!("c{code}");
        assert_eq!(own.ok(&["wait", &name])?, code.to_string());
        assert_eq!(own.inspect(&name, "{{.State.Status}} {{.State.ExitCode}}")?, format!("exited {code}"));
        assert_eq!(own.ok(&["logs", &name])?, "last words", "{name}");
    }
    Ok(())
}

fn containers_stay_usable(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    own.run("box", &["-v", "kept:/v", "-i"], "while read line; do echo got $line; done")?;
    own.run("paused", &[], "sleep 1000")?;
    own.ok(&["pause", "paused"])?;
    let pid = own.inspect("box", "{{.State.Pid}}")?;
    own.daemon.kill()?;
    own.daemon.restart()?;
    assert_eq!(own.inspect("box", "{{.State.Status}} {{.State.Pid}}")?, format!("running {pid}"));
    assert_eq!(own.inspect("paused", "{{.State.Status}}")?, "paused");
    assert_eq!(own.ok(&["exec", "box", "echo", "alive"])?, "alive");
    assert!(own.ok(&["top", "box"])?.contains("while read line"));
    let refused = own.host().docker(&["volume", "rm", "kept"], "");
    assert!(refused.err.contains("volume is in use"), "{}", refused.err);
    // Its input is still there.
    let mut attach = own.host().command("timeout");
    let attach = attach.args(["60", "docker", "attach", "box"]);
    let (input, output) = (std::process::Stdio::piped(), std::process::Stdio::null());
    let mut child = attach.stdin(input).stdout(output).stderr(std::process::Stdio::null()).spawn()?;
    let mut stdin = child.stdin.take().context("stdin")?;
    std::io::Write::write_all(&mut stdin, b"hello\n")?;
    own.wait_for(&["logs", "box"], |out| out == "got hello")?;
    drop(stdin);
    own.ok(&["unpause", "paused"])?;
    own.ok(&["stop", "-t", "0", "box", "paused"])?;
    assert_eq!(own.inspect("box", "{{.State.ExitCode}}")?, "137");
    child.wait()?;
    own.ok(&["start", "box"])?;
    Ok(())
}

fn state_survives(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    own.ok(&["create", "--name", "made", "-l", "a=1", "busybox", "true"])?;
    own.ok(&["volume", "create", "--label", "b=2", "vol"])?;
    own.run("failed", &["--restart", "on-failure:1"], "exit 3")?;
    own.wait_for(&["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", "failed"], |out| out == "exited 1")?;
    own.ok(&["rename", "made", "named"])?;
    own.ok(&["tag", "busybox", "other:tag"])?;
    let all = |own: &Own| -> Result<Vec<serde_json::Value>> {
        let mut out = Vec::new();
        for path in
            ["/containers/named/json", "/containers/failed/json", "/volumes", "/images/json", "/containers/json?all=1"]
        {
            let mut value = own.host().http("GET", path)?.json()?;
            if path.contains("all=1") {
                // "Exited (3) 2 seconds ago".
                value.as_array_mut().into_iter().flatten().for_each(|entry| entry["Status"] = "".into());
            }
            out.push(value);
        }
        Ok(out)
    };
    let before = all(&own)?;
    own.daemon.kill()?;
    own.daemon.restart()?;
    same(&all(&own)?, &before).context("after a kill")?;
    own.daemon.stop()?;
    own.daemon.restart()?;
    same(&all(&own)?, &before).context("after a graceful stop")?;
    Ok(())
}

/// Says where two states differ, briefly.
fn same(now: &[serde_json::Value], before: &[serde_json::Value]) -> Result<()> {
    let mut differences = Vec::new();
    for (index, (before, now)) in before.iter().zip(now).enumerate() {
        compat_tests::golden::compare(&index.to_string(), before, now, &mut differences);
    }
    let list: Vec<String> = differences.iter().map(|(path, what)| format!("{path}: {what}")).collect();
    ensure!(list.is_empty(), "{}", list.join("\n  "));
    Ok(())
}

fn auto_remove_while_down(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    own.run("gone", &["--rm", "-v", "/anonymous"], "until test -e /go; do sleep 0.01; done")?;
    let pid = own.inspect("gone", "{{.State.Pid}}")?;
    own.ok(&["exec", "-d", "gone", "sh", "-c", "sleep 0.3; touch /go"])?;
    own.daemon.kill()?;
    wait_gone(&pid)?;
    own.daemon.restart()?;
    own.wait_for(&["ps", "-aq"], str::is_empty)?;
    own.wait_for(&["volume", "ls", "-q"], str::is_empty)?;
    Ok(())
}

fn restart_policies_while_down(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    let script = "until test -e /go; do sleep 0.01; done; rm /go; exit 1";
    let mut pids = Vec::new();
    for (name, policy) in
        [("always", "always"), ("never", "no"), ("failure", "on-failure"), ("stopped", "unless-stopped")]
    {
        own.run(name, &["--restart", policy], script)?;
        pids.push(own.inspect(name, "{{.State.Pid}}")?);
    }
    own.ok(&["stop", "-t", "0", "stopped"])?;
    for name in ["always", "never", "failure"] {
        own.ok(&["exec", "-d", name, "sh", "-c", "sleep 0.3; touch /go"])?;
    }
    own.daemon.kill()?;
    for pid in &pids {
        wait_gone(pid)?;
    }
    own.daemon.restart()?;
    for (name, status) in [("always", "running"), ("failure", "running"), ("never", "exited"), ("stopped", "exited")] {
        own.wait_for(&["inspect", "-f", "{{.State.Status}}", name], |out| out == status).context(name)?;
    }
    Ok(())
}

fn during_many_starts(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    let (_, before) = own.observed()?;
    for round in 0..4 {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let host = own.host().clone();
                std::thread::spawn(move || {
                    (0..20).for_each(|n| {
                        let name = format!("r{round}-{client}-{n}");
                        let options = ["run", "-d", "--network", "none", "--name", &name, "busybox", "sleep", "1000"];
                        host.docker(&options, "");
                    });
                })
            })
            .collect();
        own.wait_for(&["ps", "-q"], |out| out.lines().count() >= 5 * (round + 1))?;
        own.daemon.kill()?;
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        }
        own.daemon.restart()?;
        consistent(&own)?;
    }
    // Daemons before the last are gone, and their event streams with them; ids are read off the list instead.
    let watch = Watch::begin(own.host())?;
    own.finish(&watch, &before)
}

/// What the daemon says of its containers agrees with itself and with the machine.
fn consistent(own: &Own) -> Result<()> {
    let list = own.host().http("GET", "/containers/json?all=1")?.json()?;
    let mut pids = BTreeSet::new();
    for entry in list.as_array().into_iter().flatten() {
        let id = entry["Id"].as_str().unwrap_or_default();
        let answer = own.host().http("GET", &format!("/containers/{id}/json"))?;
        ensure!(answer.status == 200, "{id} is listed and not there");
        let value = answer.json()?;
        let (status, pid) = (&value["State"]["Status"], &value["State"]["Pid"]);
        if status == "running" {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
            ensure!(line.starts_with("sleep"), "{id} runs {line:?} as {pid}");
            ensure!(pids.insert(pid.to_string()), "{pid} is two containers'");
        } else {
            ensure!(status == "created" || status == "exited", "{id} is {status}");
            ensure!(pid == 0, "{id} is {status} and has process {pid}");
        }
    }
    Ok(())
}

fn during_creates_and_removes(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    let (_, before) = own.observed()?;
    for round in 0..4 {
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let host = own.host().clone();
                std::thread::spawn(move || {
                    let begun = Instant::now();
                    let body = serde_json::json!({"Image": "busybox", "HostConfig": {"NetworkMode": "none", "Binds": ["/anonymous"]}});
                    for n in 0.. {
                        let name = format!("r{round}-{client}-{n}");
                        let made = host.http_json("POST", &format!("/containers/create?name={name}"), &body);
                        let removed = host.http("DELETE", &format!("/containers/{name}?v=1"));
                        if made.is_err() || removed.is_err() || begun.elapsed() > LIMIT {
                            return;
                        }
                    }
                })
            })
            .collect();
        // In the middle of it, wherever that is.
        std::thread::sleep(PAUSE * (7 + 5 * round));
        own.daemon.kill()?;
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
        }
        own.daemon.restart()?;
        consistent(&own)?;
    }
    let watch = Watch::begin(own.host())?;
    for volume in own.ok(&["volume", "ls", "-q"])?.lines() {
        own.host().docker(&["volume", "rm", volume], "");
    }
    own.finish(&watch, &before)
}

/// What a removal leaves to be done later is done by the next daemon.
fn right_after_removals(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    let (watch, before) = own.observed()?;
    for round in 0..3 {
        let names: Vec<String> = (0..4).map(|n| format!("gone-{round}-{n}")).collect();
        for name in &names {
            watch.add(&own.run(name, &[], "exec sleep 1000")?);
        }
        let remove: Vec<&str> = ["rm", "-f"].into_iter().chain(names.iter().map(String::as_str)).collect();
        own.ok(&remove)?;
        own.daemon.kill()?;
        own.daemon.restart()?;
    }
    own.finish(&watch, &before)
}

fn supervisor_is_killed(_: &Case<'_>) -> Result<()> {
    let own = Own::start()?;
    own.run("box", &[], "trap 'exit 0' TERM; while :; do sleep 0.01; done")?;
    let pid = own.inspect("box", "{{.State.Pid}}")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).context("no parent")?;
    assert!(
        std::fs::read_to_string(format!("/proc/{parent}/cmdline"))?.contains("supervisor"),
        "{parent} is the supervisor"
    );
    ensure!(Command::new("kill").args(["-9", parent]).status()?.success(), "kill failed");
    // The container lives on and can be stopped; new ones can be started.
    own.wait_for(&["run", "--rm", "--network", "none", "busybox", "echo", "new"], |out| out == "new")?;
    assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "the container died with the supervisor");
    assert_eq!(own.inspect("box", "{{.State.Status}} {{.State.Pid}}")?, format!("running {pid}"));
    own.ok(&["stop", "-t", "5", "box"])?;
    assert_eq!(own.inspect("box", "{{.State.Status}}")?, "exited");
    own.ok(&["rm", "box"])?;
    Ok(())
}

fn graceful_stop_ends_containers(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    let watch = Watch::begin(own.host())?;
    own.run("ends", &[], "trap 'exit 4' TERM; echo ready; while :; do sleep 0.01; done")?;
    own.run("again", &["--restart", "always"], "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done")?;
    for name in ["ends", "again"] {
        own.wait_for(&["logs", name], |out| out == "ready")?;
    }
    own.daemon.stop()?;
    Holdings::assert_nothing_is_left(own.daemon.dir(), &watch)?;
    own.daemon.restart()?;
    assert_eq!(own.inspect("ends", "{{.State.Status}} {{.State.ExitCode}}")?, "exited 4");
    own.wait_for(&["inspect", "-f", "{{.State.Status}}", "again"], |out| out == "running")?;
    Ok(())
}

fn networks_are_taken_over(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    // A first container makes what is kept for the next ones.
    own.ok(&["run", "--rm", "--network", "none", "busybox", "true"])?;
    let before = Holdings::settled(&own.daemon, &Watch::begin(own.host())?)?;
    let serve = "echo hello >/tmp/index.html; httpd -f -h /tmp";
    own.ok(&["run", "-d", "--name", "web", "-p", "18080:80", "busybox", "sh", "-c", serve])?;
    let ask = ["run", "--rm", "--network", "host", "busybox", "wget", "-qO-", "http://127.0.0.1:18080"];
    own.wait_for(&ask, |out| out == "hello")?;
    let settings = |own: &Own| own.inspect("web", "{{json .NetworkSettings}}");
    let known = settings(&own)?;
    own.daemon.kill()?;
    own.daemon.restart()?;
    let watch = Watch::begin(own.host())?;
    assert_eq!(settings(&own)?, known);
    own.wait_for(&ask, |out| out == "hello")?;
    let second = own.host().docker(&["run", "--rm", "-p", "18080:80", "busybox", "true"], "");
    ensure!(second.err.contains("port is already allocated"), "{}", second.err);
    assert_eq!(own.ok(&["run", "--rm", "busybox", "hostname", "-i"])?, "172.17.0.3", "the other one is taken");
    own.ok(&["rm", "-f", "web"])?;
    let refused = own.host().docker(&ask, "");
    ensure!(refused.err.contains("refused"), "{}", refused.err);
    own.finish(&watch, &before)
}

/// A container on two networks of users' stays on them, and can be taken off and put on others by the next daemon.
fn user_networks_are_taken_over(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    own.ok(&["run", "--rm", "--network", "none", "busybox", "true"])?;
    let before = Holdings::settled(&own.daemon, &Watch::begin(own.host())?)?;
    for (network, subnet) in [("one", "10.71.0.0/24"), ("two", "10.72.0.0/24"), ("three", "10.73.0.0/24")] {
        own.ok(&["network", "create", "--subnet", subnet, network])?;
    }
    let serve = "echo hello >/tmp/index.html; httpd -f -h /tmp";
    let networks = ["--network", "one", "--network", "two"];
    let run = ["run", "-d", "--name", "web", "-p", "18080:80"];
    own.ok(&[&run, &networks[..], &["busybox", "sh", "-c", serve]].concat())?;
    let ask = ["run", "--rm", "--network", "host", "busybox", "wget", "-qO-", "http://127.0.0.1:18080"];
    own.wait_for(&ask, |out| out == "hello")?;
    let settings = |own: &Own| own.inspect("web", "{{json .NetworkSettings}}");
    let described = |own: &Own| own.ok(&["network", "inspect", "one", "two", "three"]);
    let known = (settings(&own)?, described(&own)?);
    own.daemon.kill()?;
    own.daemon.restart()?;
    let watch = Watch::begin(own.host())?;
    assert_eq!((settings(&own)?, described(&own)?), known);
    own.wait_for(&ask, |out| out == "hello")?;
    assert_eq!(
        own.ok(&["run", "--rm", "--network", "two", "busybox", "hostname", "-i"])?,
        "10.72.0.3",
        "the other one is taken"
    );
    own.ok(&["network", "disconnect", "one", "web"])?;
    own.ok(&["network", "connect", "three", "web"])?;
    own.wait_for(&ask, |out| out == "hello")?;
    own.ok(&["exec", "web", "ping", "-c", "1", "10.73.0.1"])?;
    let routes = own.ok(&["exec", "web", "ip", "route"])?;
    ensure!(routes.starts_with("default via 10.73.0.1") || routes.starts_with("default via 10.72.0.1"), "{routes}");
    own.ok(&["rm", "-f", "web"])?;
    own.ok(&["network", "rm", "one", "two", "three"])?;
    own.finish(&watch, &before)
}

/// The packet filter is left alone until there is something to filter, and has its rules from then on.
fn first_network_of_a_daemon_without_a_bridge(_: &Case<'_>) -> Result<()> {
    let mut own = Own::with(&["--bridge", "none"])?;
    let network = Network::of(own.host())?;
    let table = || network.command("nft").args(["list", "table", "inet", "dockerd-rs"]).output();
    ensure!(!table()?.status.success(), "there is a table already");
    let serve = "echo hello >/tmp/index.html; httpd -f -h /tmp";
    for (name, subnet) in [("one", "10.74.0.0/24"), ("two", "10.75.0.0/24")] {
        own.ok(&[
            "network",
            "create",
            "--subnet",
            subnet,
            "-o",
            &format!("com.docker.network.bridge.name=br-{name}"),
            name,
        ])?;
        own.ok(&["run", "-d", "--name", name, "--network", name, "-p", "80", "busybox", "sh", "-c", serve])?;
    }
    for _ in 0..2 {
        let rules = String::from_utf8_lossy(&table()?.stdout).into_owned();
        for link in ["br-one", "br-two"] {
            ensure!(rules.contains(&format!("\"{link}\" : goto entering__{link}")), "{rules}");
        }
        let port = own.ok(&["port", "one", "80/tcp"])?;
        let url = format!(
            "http://127.0.0.1:{}",
            port.lines().next().unwrap_or_default().rsplit(':').next().unwrap_or_default()
        );
        let ask = ["run", "--rm", "--network", "host", "busybox", "wget", "-qO-", &url];
        own.wait_for(&ask, |out| out == "hello")?;
        own.ok(&["exec", "one", "ping", "-c", "1", "10.74.0.1"])?;
        let other = own.host().docker(&["exec", "one", "wget", "-qO-", "-T", "2", "http://10.75.0.2"], "");
        ensure!(other.code != 0, "one network reaches the other: {}", other.out);
        own.daemon.kill()?;
        own.daemon.restart()?;
    }
    own.ok(&["rm", "-f", "one", "two"])?;
    own.ok(&["network", "rm", "one", "two"])?;
    Ok(())
}

/// Whatever a kill interrupts: a network that is listed has its bridge, and no other bridge is left.
fn networks_made_and_removed_meanwhile(_: &Case<'_>) -> Result<()> {
    let mut own = Own::start()?;
    let (_, before) = own.observed()?;
    for round in 0..4 {
        let host = own.host().clone();
        let client = std::thread::spawn(move || {
            for n in 0.. {
                let name = format!("n{round}-{n}");
                let made = host.http_json("POST", "/networks/create", &serde_json::json!({"Name": name}));
                // Every third one stays.
                let removed = if n % 3 == 0 { made } else { host.http("DELETE", &format!("/networks/{name}")) };
                if removed.is_err() || n > 10_000 {
                    return;
                }
            }
        });
        // In the middle of it, wherever that is.
        std::thread::sleep(PAUSE * (7 + 5 * round));
        own.daemon.kill()?;
        client.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
        own.daemon.restart()?;
        let ids = own.ok(&["network", "ls", "-q", "--filter", "type=custom"])?;
        let listed: BTreeSet<String> = ids.lines().map(|id| format!("br-{id}")).collect();
        let links = own.ok(&["run", "--rm", "--network", "host", "busybox", "ls", "/sys/class/net"])?;
        let bridges: BTreeSet<String> =
            links.split_whitespace().filter(|l| l.starts_with("br-")).map(str::to_owned).collect();
        ensure!(listed == bridges, "{listed:?} are listed, {bridges:?} are there");
        own.ok(&["network", "prune", "-f"])?;
    }
    let watch = Watch::begin(own.host())?;
    own.finish(&watch, &before)
}
