//! The main verbs through the stock CLI. One daemon for all; needs root.

use std::sync::OnceLock;

use compat_tests::Daemon;

/// Containers of different tests have different names; the daemon is ended by the last test's process end, so each
/// binary cleans up in a test of its own that runs alone (`everything`).
fn everything_on(daemon: &mut Daemon) {
    runs_and_exit_codes(daemon);
    streams(daemon);
    long_lived(daemon);
    volumes(daemon);
    images(daemon);
    events_and_errors(daemon);
    survives_kill(daemon);
}

#[test]
fn privileged_stock_cli_against_our_daemon() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        let mut daemon = Daemon::start().expect("daemon");
        everything_on(&mut daemon);
        assert_eq!(daemon.docker(&["ps", "-aq"]).out, "", "containers are left");
        assert_eq!(daemon.leftovers(), Vec::<String>::new(), "mounts are left");
    });
}

fn runs_and_exit_codes(daemon: &Daemon) {
    assert_eq!(daemon.run(&["echo", "hello"]).out, "hello");
    for (arguments, code) in [(&["true"][..], 0), (&["false"], 1), (&["sh", "-c", "exit 42"], 42), (&["nope"], 127)] {
        assert_eq!(daemon.run(arguments).code, code, "{arguments:?}");
    }
    let missing = daemon.run(&["nope"]);
    assert!(missing.err.contains("exec: \"nope\": executable file not found in $PATH"), "{}", missing.err);
    assert_eq!(daemon.run(&["/etc"]).code, 126);
    let options = |options: &[&str], command: &[&str]| {
        daemon.docker(&[&["run", "--rm", "--network", "none"], options, &["busybox"], command].concat())
    };
    assert_eq!(options(&["-e", "A=b", "-w", "/tmp"], &["sh", "-c", "echo $A; pwd"]).out, "b\n/tmp");
    assert_eq!(options(&["--hostname", "box"], &["hostname"]).out, "box");
    assert_eq!(options(&["-u", "nobody"], &["id", "-u"]).out, "65534");
    assert!(options(&["--read-only"], &["touch", "/x"]).err.contains("Read-only file system"));
    assert_eq!(options(&["--init"], &["sh", "-c", "exit 7"]).code, 7);
    assert_eq!(options(&["--entrypoint", "echo"], &["entry"]).out, "entry");
    assert_eq!(options(&["--ulimit", "nofile=99"], &["sh", "-c", "ulimit -n"]).out, "99");
    assert_eq!(
        options(&["--shm-size", "1m"], &["sh", "-c", "df -k /dev/shm | tail -1 | awk '{print $2}'"]).out,
        "1024"
    );
    assert_eq!(options(&["--tmpfs", "/x"], &["sh", "-c", "grep -c ' /x tmpfs' /proc/mounts"]).out, "1");
    let caps = options(&["--cap-drop", "ALL"], &["grep", "CapEff", "/proc/self/status"]).out;
    assert!(caps.ends_with("0000000000000000"), "{caps}");
    let caps = options(&[], &["grep", "CapEff", "/proc/self/status"]).out;
    assert!(caps.ends_with("00000000a80425fb"), "{caps}");
    assert_eq!(options(&[], &["grep", "Seccomp:", "/proc/self/status"]).out, "Seccomp:\t2");
    assert_eq!(
        options(&["--security-opt", "seccomp=unconfined"], &["grep", "Seccomp:", "/proc/self/status"]).out,
        "Seccomp:\t0"
    );
}

fn streams(daemon: &Daemon) {
    let cat = daemon.docker_with(&["run", "-i", "--rm", "--network", "none", "busybox", "cat"], "input\n");
    assert_eq!((cat.out.as_str(), cat.code), ("input", 0));
    assert_eq!(daemon.docker(&["run", "-t", "--rm", "--network", "none", "busybox", "tty"]).out, "/dev/pts/0");
    let both = daemon.run(&["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.out.as_str(), both.err.as_str()), ("out", "err"));
    let many = daemon.run(&["seq", "1", "20000"]);
    assert_eq!(many.out.lines().count(), 20000);
}

fn long_lived(daemon: &Daemon) {
    let script = "echo one; echo two; exec sleep 1000";
    let run = ["run", "-d", "--name", "long", "--label", "k=v", "--network", "none", "busybox", "sh", "-c", script];
    assert_eq!(daemon.docker(&run).code, 0);
    let status = ["inspect", "-f", "{{.State.Status}}", "long"];
    assert_eq!(daemon.docker(&status).out, "running");
    daemon.wait_for(&["logs", "--tail", "1", "long"], "two").expect("logged");
    assert_eq!(daemon.docker(&["exec", "long", "echo", "inside"]).out, "inside");
    assert_eq!(daemon.docker(&["exec", "long", "sh", "-c", "exit 5"]).code, 5);
    assert_eq!(daemon.docker(&["exec", "long", "nope"]).code, 127);
    assert_eq!(daemon.docker(&["ps", "--format", "{{.Names}}", "--filter", "label=k=v"]).out, "long");
    assert!(daemon.docker(&["top", "long"]).out.contains("sleep 1000"));
    assert_eq!(daemon.docker(&["pause", "long"]).code, 0);
    assert_eq!(daemon.docker(&status).out, "paused");
    assert_eq!(daemon.docker(&["unpause", "long"]).code, 0);
    assert_eq!(daemon.docker(&["rename", "long", "longer"]).code, 0);
    let refused = daemon.docker(&["rm", "longer"]);
    assert!(refused.err.contains("container is running"), "{}", refused.err);
    assert_eq!(daemon.docker(&["stop", "-t", "0", "longer"]).code, 0);
    assert_eq!(daemon.docker(&["inspect", "-f", "{{.State.ExitCode}}", "longer"]).out, "137");
    assert_eq!(daemon.docker(&["start", "longer"]).code, 0);
    assert_eq!(daemon.docker(&["kill", "longer"]).code, 0);
    assert_eq!(daemon.docker(&["wait", "longer"]).out, "137");
    assert_eq!(daemon.docker(&["rm", "longer"]).code, 0);
    let retry = ["run", "-d", "--restart", "on-failure:2", "--name", "retry", "--network", "none", "busybox", "false"];
    assert_eq!(daemon.docker(&retry).code, 0);
    daemon.wait_for(&["inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "retry"], "2 exited").expect("retried");
    assert_eq!(daemon.docker(&["rm", "-f", "retry"]).code, 0);
}

fn volumes(daemon: &Daemon) {
    let use_volume = |script: &str| {
        daemon.docker(&["run", "--rm", "--network", "none", "-v", "vol:/data", "busybox", "sh", "-c", script])
    };
    assert_eq!(use_volume("cat /data/from-image; echo kept > /data/file").out, "copied");
    assert_eq!(use_volume("cat /data/file").out, "kept");
    assert_eq!(daemon.docker(&["volume", "ls", "-q"]).out, "vol");
    assert_eq!(daemon.docker(&["volume", "rm", "vol"]).code, 0);
    let host = daemon.dir().join("shared");
    std::fs::create_dir(&host).expect("directory");
    std::fs::write(host.join("file"), "host\n").expect("file");
    let bind = format!("{}:/host:ro", host.display());
    let run = ["run", "--rm", "--network", "none", "-v", &bind, "busybox", "sh", "-c", "cat /host/file; touch /host/x"];
    let ran = daemon.docker(&run);
    assert_eq!(ran.out, "host");
    assert!(ran.err.contains("Read-only file system"), "{}", ran.err);
}

fn images(daemon: &Daemon) {
    let id = daemon.docker(&["images", "-q", "--no-trunc", "busybox"]).out;
    let tar = daemon.dir().join("saved.tar").to_string_lossy().into_owned();
    assert_eq!(daemon.docker(&["tag", "busybox", "other:tag"]).code, 0);
    assert_eq!(daemon.docker(&["save", "-o", &tar, "busybox"]).code, 0);
    assert!(daemon.docker(&["rmi", "other:tag"]).out.contains("Untagged: other:tag"));
    assert!(daemon.docker(&["rmi", "busybox"]).out.contains("Deleted: sha256:"));
    assert!(daemon.run(&["true"]).err.contains("not implemented"), "a pull must be refused clearly");
    assert_eq!(daemon.docker(&["load", "-i", &tar]).out, "Loaded image: busybox:latest");
    assert_eq!(daemon.docker(&["images", "-q", "--no-trunc", "busybox"]).out, id, "the id survives a round trip");
    assert_eq!(daemon.run(&["echo", "again"]).out, "again");
    std::fs::write(daemon.dir().join("bad.tar"), b"no tar at all").expect("file");
    let bad = daemon.dir().join("bad.tar").to_string_lossy().into_owned();
    assert_ne!(daemon.docker(&["load", "-i", &bad]).code, 0);
}

fn events_and_errors(daemon: &Daemon) {
    let events = daemon.docker(&["events", "--since", "10m", "--until", "0s", "--filter", "event=die"]);
    assert!(events.out.contains("container die"), "{}", events.out);
    for (arguments, words) in [
        (&["inspect", "--type", "container", "missing"][..], "No such container: missing"),
        (&["start", "missing"], "No such container: missing"),
        (&["rmi", "missing"], "No such image: missing:latest"),
        (&["run", "--network", "none", "-m", "1m", "busybox"], "Minimum memory limit allowed is 6MB"),
    ] {
        let ran = daemon.docker(arguments);
        assert!(ran.code != 0 && ran.err.contains(words), "{arguments:?}: {}", ran.err);
    }
}

fn survives_kill(daemon: &mut Daemon) {
    let script = "i=0; while true; do echo $i; i=$((i+1)); usleep 2000; done";
    let run = ["run", "-d", "--name", "count", "--network", "none", "busybox", "sh", "-c", script];
    assert_eq!(daemon.docker(&run).code, 0);
    let brief =
        ["run", "-d", "--name", "brief", "--network", "none", "busybox", "sh", "-c", "read x < /dev/null; exit 9"];
    assert_eq!(daemon.docker(&brief).code, 0);
    daemon.kill_and_restart().expect("restarted");
    assert_eq!(daemon.docker(&["inspect", "-f", "{{.State.Status}}", "count"]).out, "running");
    assert_eq!(daemon.docker(&["wait", "brief"]).out, "9");
    assert_eq!(daemon.docker(&["exec", "count", "echo", "alive"]).out, "alive");
    assert_eq!(daemon.docker(&["rm", "-f", "count", "brief"]).code, 0);
}
