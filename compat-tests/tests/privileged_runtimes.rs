//! External OCI runtimes, Debian's crun and runc, through the same lifecycle. Ours only: the daemon is told of them by
//! flags.

use std::process::ExitCode;

use anyhow::Result;
use compat_tests::{Case, Suite, tests};

fn main() -> ExitCode {
    if std::env::var_os("COMPAT_HOST").is_some() {
        eprintln!("suite runtimes: for a daemon of ours only");
        return ExitCode::SUCCESS;
    }
    Suite {
        name: "runtimes",
        flags: &[
            "--add-runtime",
            concat!("crun=", env!("CARGO_MANIFEST_DIR"), "/data/crun"),
            "--add-runtime",
            "debian-runc=/usr/sbin/runc",
        ],
        tests: tests![crun, runc, crun_limits, runc_limits, listed, unknown],
    }
    .main()
}

fn lifecycle(t: &Case<'_>, runtime: &str) -> Result<()> {
    let run = |options: &[&str], command: &[&str]| t.run(&[&["--runtime", runtime], options].concat(), command);
    assert_eq!(run(&[], &["echo", "hello"]).out, "hello");
    assert_eq!(run(&[], &["sh", "-c", "exit 42"]).code, 42);
    // What the CLI makes of it depends on the runtime's words.
    let name = t.create("missing", &["--runtime", runtime], &["nope"])?;
    assert_ne!(t.docker(&["start", &name]).code, 0);
    assert_eq!(t.inspect(&name, "{{.State.ExitCode}}"), "127");
    assert_eq!(run(&["-t"], &["tty"]).out, "/dev/pts/0");
    assert_eq!(
        t.docker_with(&["run", "-i", "--rm", "--network", "none", "--runtime", runtime, t.image(), "cat"], "in\n").out,
        "in"
    );
    assert_eq!(
        run(&["-u", "user", "-w", "/tmp", "-e", "A=1"], &["sh", "-c", "id -u; pwd; echo $A"]).out,
        "1000\n/tmp\n1"
    );
    let name = t.sleeper("c", &["--runtime", runtime])?;
    assert_eq!(t.inspect(&name, "{{.HostConfig.Runtime}} {{.State.Status}}"), format!("{runtime} running"));
    assert_eq!(t.docker(&["exec", &name, "echo", "inside"]).out, "inside");
    assert_eq!(t.docker(&["exec", &name, "sh", "-c", "exit 5"]).code, 5);
    assert_eq!(t.docker(&["exec", "-t", &name, "tty"]).code, 0);
    assert!(t.docker(&["top", &name]).ok()?.contains("sleep"));
    t.docker(&["pause", &name]).ok()?;
    assert_eq!(t.inspect(&name, "{{.State.Status}}"), "paused");
    t.docker(&["unpause", &name]).ok()?;
    t.docker(&["restart", "-t", "0", &name]).ok()?;
    assert_eq!(t.inspect(&name, "{{.State.Status}}"), "running");
    t.docker(&["stop", "-t", "0", &name]).ok()?;
    assert_eq!(t.inspect(&name, "{{.State.ExitCode}}"), "137");
    t.docker(&["rm", &name]).ok()?;
    Ok(())
}

fn crun(t: &Case<'_>) -> Result<()> {
    lifecycle(t, "crun")
}

fn runc(t: &Case<'_>) -> Result<()> {
    lifecycle(t, "debian-runc")
}

fn limits(t: &Case<'_>, runtime: &str) -> Result<()> {
    let seen = t.shell(
        &["--runtime", runtime, "-m", "64m", "--pids-limit", "17"],
        "ulimit -n >/dev/null; cat /proc/self/cgroup",
    )?;
    assert!(seen.contains("docker/"), "{seen}");
    let caps = t.shell(&["--runtime", runtime], "grep -E '^(CapEff|Seccomp):' /proc/self/status")?;
    assert_eq!(caps, "CapEff:\t00000000a80425fb\nSeccomp:\t2");
    Ok(())
}

fn crun_limits(t: &Case<'_>) -> Result<()> {
    limits(t, "crun")
}

fn runc_limits(t: &Case<'_>) -> Result<()> {
    limits(t, "debian-runc")
}

fn listed(t: &Case<'_>) -> Result<()> {
    let runtimes = t.http("GET", "/info")?.json()?["Runtimes"].take();
    assert_eq!(runtimes["crun"]["path"], concat!(env!("CARGO_MANIFEST_DIR"), "/data/crun"));
    assert_eq!(runtimes["debian-runc"]["path"], "/usr/sbin/runc");
    assert!(runtimes["runc"].is_object(), "{runtimes}");
    Ok(())
}

fn unknown(t: &Case<'_>) -> Result<()> {
    let refused = t.run(&["--runtime", "nope"], &["true"]);
    assert!(refused.code == 125 && refused.err.contains("unknown or invalid runtime name: nope"), "{}", refused.err);
    Ok(())
}
