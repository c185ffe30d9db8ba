//! Containers through the stock CLI: what `run` takes and gives back, and what the other verbs do to them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use compat_tests::golden::Golden;
use compat_tests::{Case, Suite, tests};

fn main() -> ExitCode {
    Suite {
        name: "containers",
        flags: &[],
        tests: tests![
            exit_codes,
            exit_texts,
            environment,
            working_directory,
            users,
            hostname_and_entrypoint,
            read_only,
            tmpfs,
            ulimits,
            init,
            standard_input,
            terminal,
            output_streams,
            large_output,
            cid_file,
            env_file_and_labels,
            name_conflicts,
            pause_and_rename,
            stop_and_kill,
            stop_signal,
            stop_timeout,
            start_again,
            wait,
            wait_removed,
            restart_on_failure,
            restart_always,
            restart_not_after_stop,
            restart_unless_stopped,
            exec,
            exec_options,
            exec_that_ends_the_container,
            exec_streams,
            exec_errors,
            top,
            diff,
            remove,
            prune,
            copy,
            attach,
            attach_without_stdin,
            auto_remove,
            verb_errors,
            create_errors,
            volumes_from_and_links,
        ],
    }
    .main()
}

fn exit_codes(t: &Case<'_>) -> Result<()> {
    let cases: [(&[&str], i32); 9] = [
        (&["true"], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 42"], 42),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["sh", "-c", "kill -15 $$; sleep 9"], 143),
        (&["nope"], 127),
        (&["/nope"], 127),
        (&["/etc"], 126),
        (&["/bin/not-executable"], 126),
    ];
    for (command, code) in cases {
        // A signal that process 1 sends itself is ignored; so it must not be process 1.
        assert_eq!(t.run(&["--init"], command).code, code, "{command:?} under init");
        if code < 137 {
            assert_eq!(t.run(&[], command).code, code, "{command:?}");
        }
    }
    assert_eq!(t.run(&["--no-such-flag"], &[]).code, 125);
    assert_eq!(t.run(&["-m", "1m"], &[]).code, 125);
    assert_eq!(t.docker(&["run", "--rm", "no-such-image:never", "true"]).code, 125);
    Ok(())
}

fn exit_texts(t: &Case<'_>) -> Result<()> {
    let commands = [
        "run --rm --network none {image} nope",
        "run --rm --network none {image} /nope",
        "run --rm --network none {image} /etc",
        "run --rm --network none {image} /bin/not-executable",
        "run --rm --network none -w /bin/sh {image} true",
        "run --rm --network none --user nobody2 {image} true",
        "run --rm --network none --user 0:nogroup2 {image} true",
        "run --rm --network none -m 1m {image} true",
        "run --rm --network none --cap-add NOPE {image} true",
        "run --rm --network none --security-opt nope {image} true",
        "run --rm --network none --security-opt nope=x {image} true",
        "run --rm --network none --runtime nope {image} true",
        "run --rm --network none --log-driver nope {image} true",
        "run --rm --network none --log-opt nope=1 {image} true",
        "run --rm --network none --ulimit nope=1 {image} true",
        "run --rm --network none --sysctl nope=1 {image} true",
        "run --rm --network none --device /dev/nope {image} true",
        "run --rm --network none --shm-size 0 {image} true",
        "run --rm --network none --ipc nope {image} true",
        "run --rm --network none --pid nope {image} true",
        "run --rm --network none --uts nope {image} true",
        "run --rm --network none --ipc container:nope {image} true",
        "run --rm --network container:nope {image} true",
        "run --rm --network none --restart always {image} true",
        "run --network none --restart nope {image} true",
        "run --network none --restart always:3 {image} true",
        "run --rm --network none --name / {image} true",
        "run --rm --network none -v /nope {image} true",
        "run --rm --network none -v relative/path:/x {image} true",
        "run --rm --network none -v a:b {image} true",
        "run --rm --network none -v /tmp:/x:nope {image} true",
        "run --rm --network none -v /tmp:/x -v /tmp:/x {image} true",
        "run --rm --network none --mount type=bind,source=/nope,target=/x {image} true",
        "run --rm --network none --mount type=volume,target=relative {image} true",
        "run --rm --network none --mount type=nope,target=/x {image} true",
        "run --rm --network none --mount type=bind,target=/x {image} true",
        "run --rm --network none --mount type=tmpfs,source=/y,target=/x {image} true",
        "run --rm --network none --tmpfs relative {image} true",
        "run --rm --network none --hostname '' {image} true",
        "run --rm --network none --memory 64m --memory-swap 32m {image} true",
        "run --rm --network none --memory-swap 64m {image} true",
        "run --rm --network none --memory 64m --memory-reservation 128m {image} true",
        "run --rm --network none --pids-limit -5 {image} true",
        "run --rm --network none --oom-score-adj 2000 {image} true",
        "run --rm --network none --cgroup-parent {cgroup} {image} true",
        "run --rm --network none --stop-signal nope {image} true",
        "run --rm --network none --gpus all {image} true",
        "run --rm --network none --volumes-from nope {image} true",
        "run --rm --network none --add-host nope {image} true",
        "run --rm --network none --dns nope {image} true",
        "run --rm --network none --mac-address nope {image} true",
        "run --rm --network none --cpu-period 10 {image} true",
        "run --rm --network none --cpus 1 --cpu-quota 1000 {image} true",
        "run --rm --network none --memory-swappiness 200 {image} true",
        "run --rm --network none --userns nope {image} true",
        "run --rm --network none --storage-opt size=1g {image} true",
    ];
    Golden::new(t).check_commands(t, "exit-texts", &commands)?;
    let processors = std::thread::available_parallelism()?;
    let text = format!("range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available");
    let refused = t.run(&["--cpus", "1000"], &["true"]);
    assert!(refused.code == 125 && refused.err.contains(&text), "{}", refused.err);
    let refused = t.run(&["--cpuset-cpus", "1000"], &["true"]);
    assert!(refused.err.contains("Requested CPUs are not available - requested 1000, available: "), "{}", refused.err);
    Ok(())
}

fn environment(t: &Case<'_>) -> Result<()> {
    let all = t.shell(&["-e", "A=b", "-e", "EMPTY=", "--hostname", "box"], "env | sort")?;
    let lines: Vec<&str> =
        all.lines().filter(|line| !line.starts_with("SHLVL=") && !line.starts_with("PWD=")).collect();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["A=b", "EMPTY=", "HOME=/root", "HOSTNAME=box", path]);
    assert_eq!(t.run(&["-t"], &["sh", "-c", "echo $TERM"]).out, "xterm");
    assert_eq!(t.shell(&["-u", "user"], "echo $HOME")?, "/home/user");
    assert_eq!(t.shell(&["-u", "4711"], "echo $HOME")?, "/");
    assert_eq!(t.shell(&["-e", "PATH=/bin", "-e", "HOME=/x"], "echo $PATH $HOME")?, "/bin /x");
    Ok(())
}

fn working_directory(t: &Case<'_>) -> Result<()> {
    assert_eq!(t.shell(&[], "pwd")?, "/");
    assert_eq!(t.shell(&["-w", "/tmp"], "pwd")?, "/tmp");
    assert_eq!(t.shell(&["-w", "/made/for/it"], "pwd; stat -c '%a %u' /made")?, "/made/for/it\n755 0");
    let relative = t.run(&["-w", "relative"], &["true"]);
    assert_eq!(relative.code, 125);
    assert!(relative.err.contains("the working directory 'relative' is invalid"), "{}", relative.err);
    Ok(())
}

fn users(t: &Case<'_>) -> Result<()> {
    let cases = [
        (&["-u", "nobody"][..], "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)"),
        (&["-u", "user"], "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)"),
        (&["-u", "user:extra"], "uid=1000(user) gid=2000(extra) groups=2000(extra)"),
        (&["-u", "1000:0"], "uid=1000(user) gid=0(root) groups=0(root)"),
        (&["-u", "4711"], "uid=4711 gid=0(root) groups=0(root)"),
        (&["-u", "0:4712"], "uid=0(root) gid=4712 groups=4712"),
        (&["--group-add", "extra", "--group-add", "4713"], "uid=0(root) gid=0(root) groups=0(root),2000(extra),4713"),
    ];
    for (options, wanted) in cases {
        assert_eq!(t.run(options, &["id"]).out, wanted, "{options:?}");
    }
    Ok(())
}

fn hostname_and_entrypoint(t: &Case<'_>) -> Result<()> {
    assert_eq!(t.run(&["--hostname", "box", "--domainname", "example.org"], &["hostname"]).out, "box");
    assert_eq!(t.shell(&["--domainname", "example.org"], "cat /proc/sys/kernel/domainname")?, "example.org");
    assert_eq!(t.run(&["--entrypoint", "echo"], &["entry", "point"]).out, "entry point");
    let name = t.container("id");
    let hostname = t.docker(&["run", "--network", "none", "--name", &name, t.image(), "hostname"]).ok()?;
    let id = t.inspect(&name, "{{.Id}}");
    assert_eq!(hostname, id[..12]);
    let cleared = t.run(&["--entrypoint", ""], &["echo", "cleared"]);
    assert_eq!(cleared.out, "cleared");
    Ok(())
}

fn read_only(t: &Case<'_>) -> Result<()> {
    let refused = t.run(&["--read-only"], &["touch", "/x"]);
    assert!(refused.code == 1 && refused.err.contains("Read-only file system"), "{}", refused.err);
    let script = "touch /tmp/x /dev/shm/x && echo written; touch /etc/hosts || true";
    let ran = t.run(&["--read-only", "--tmpfs", "/tmp"], &["sh", "-c", script]);
    assert_eq!(ran.out, "written");
    assert!(ran.err.contains("/etc/hosts: Read-only file system"), "{}", ran.err);
    Ok(())
}

fn tmpfs(t: &Case<'_>) -> Result<()> {
    let options = |option: &str| t.shell(&["--tmpfs", option], "grep ' /x ' /proc/mounts");
    assert_eq!(options("/x")?, "tmpfs /x tmpfs rw,nosuid,nodev,noexec,relatime 0 0");
    assert_eq!(options("/x:size=1m,mode=700,exec")?, "tmpfs /x tmpfs rw,nosuid,nodev,relatime,size=1024k,mode=700 0 0");
    let mount = ["--mount", "type=tmpfs,target=/x,tmpfs-size=2m,tmpfs-mode=1770"];
    let seen = t.shell(&mount, "df -k /x | tail -1 | awk '{print $2}'; stat -c %a /x")?;
    assert_eq!(seen, "2048\n1770");
    Ok(())
}

fn ulimits(t: &Case<'_>) -> Result<()> {
    assert_eq!(t.shell(&["--ulimit", "nofile=99:199"], "ulimit -Sn; ulimit -Hn")?, "99\n199");
    assert_eq!(t.shell(&["--ulimit", "core=0"], "ulimit -c")?, "0");
    assert_eq!(t.shell(&["--ulimit", "nofile=77"], "ulimit -Sn; ulimit -Hn")?, "77\n77");
    Ok(())
}

fn init(t: &Case<'_>) -> Result<()> {
    assert_eq!(t.run(&["--init"], &["sh", "-c", "exit 7"]).code, 7);
    assert_eq!(t.shell(&["--init"], "test $$ -ne 1 && echo not-first")?, "not-first");
    // An orphan is reaped by process 1: no zombie is left.
    let script = "sh -c 'sleep 0.01 & true'; sleep 0.1; grep -l 'Z (zombie)' /proc/[0-9]*/status 2>/dev/null | wc -l";
    assert_eq!(t.shell(&["--init"], script)?, "0");
    // What ps shows of it; names of the host's are nobody's business there.
    let shown = t.shell(&["--init"], "tr '\\0' ' ' </proc/1/cmdline")?;
    assert!(shown.starts_with("/sbin/docker-init -- sh -c tr"), "{shown}");
    let name = t.start("term", &["--init"], &["sleep", "1000"])?;
    t.docker(&["stop", &name]).ok()?;
    assert_eq!(t.inspect(&name, "{{.State.ExitCode}}"), "143");
    Ok(())
}

fn standard_input(t: &Case<'_>) -> Result<()> {
    let cat = |options: &[&str], input: &str| {
        let options = [&["run", "--rm", "--network", "none"], options, &[t.image(), "cat"]].concat();
        t.docker_with(&options, input)
    };
    assert_eq!(cat(&["-i"], "input\n").out, "input");
    assert_eq!(cat(&["-i"], "").code, 0);
    assert_eq!(cat(&[], "not read\n").out, "");
    let large = "0123456789abcde\n".repeat(64 * 1024);
    let wc = ["run", "-i", "--rm", "--network", "none", t.image(), "wc", "-c"];
    assert_eq!(t.docker_with(&wc, &large).out, large.len().to_string());
    let slow = ["run", "-i", "--rm", "--network", "none", t.image(), "sh", "-c", "sleep 0.1; cat; echo end"];
    assert_eq!(t.docker_with(&slow, "late").out, "lateend");
    Ok(())
}

fn terminal(t: &Case<'_>) -> Result<()> {
    assert_eq!(t.run(&["-t"], &["tty"]).out, "/dev/pts/0");
    assert_eq!(t.run(&["-t"], &["ls", "-l", "/dev/console"]).code, 0);
    let both = t.run(&["-t"], &["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.out.as_str(), both.err.as_str()), ("out\r\nerr", ""));
    let refused = t.run(&["-i", "-t"], &["true"]);
    assert_eq!((refused.code, refused.err.as_str()), (1, "the input device is not a TTY"));
    Ok(())
}

fn output_streams(t: &Case<'_>) -> Result<()> {
    let both = t.run(&[], &["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.out.as_str(), both.err.as_str()), ("out", "err"));
    let one = t.run(&["-a", "stderr"], &["sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((one.out.as_str(), one.err.as_str()), ("", "err"));
    let unfinished = t.run(&[], &["printf", "no newline"]);
    assert_eq!(unfinished.out, "no newline");
    Ok(())
}

fn large_output(t: &Case<'_>) -> Result<()> {
    let out = t.run(&[], &["seq", "1", "200000"]).out;
    ensure!(out.lines().count() == 200_000, "{} lines", out.lines().count());
    ensure!(out.lines().enumerate().all(|(index, line)| line == (index + 1).to_string()), "lines are mixed up");
    let line = t.shell(&[], "head -c 100000 /dev/zero | tr '\\0' x")?;
    assert_eq!(line.len(), 100_000);
    Ok(())
}

fn cid_file(t: &Case<'_>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("cid");
    let name = t.create("c", &["--cidfile", &file.to_string_lossy()], &["true"])?;
    assert_eq!(fs::read_to_string(file)?, t.inspect(&name, "{{.Id}}"));
    Ok(())
}

fn env_file_and_labels(t: &Case<'_>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (environment, labels) = (dir.path().join("env"), dir.path().join("labels"));
    fs::write(&environment, "# comment\nONE=1\nTWO=two words\n")?;
    fs::write(&labels, "from.file=yes\n")?;
    let (environment, labels) = (environment.to_string_lossy(), labels.to_string_lossy());
    let options = ["--env-file", &environment, "--label-file", &labels, "-l", "own=1", "-l", "bare"];
    let name = t.start("c", &options, &["sh", "-c", "echo $ONE $TWO"])?;
    t.docker(&["wait", &name]).ok()?;
    assert_eq!(t.docker(&["logs", &name]).out, "1 two words");
    let labels = t.inspect(&name, "{{json .Config.Labels}}");
    assert_eq!(labels, r#"{"bare":"","from.file":"yes","own":"1"}"#);
    Ok(())
}

fn name_conflicts(t: &Case<'_>) -> Result<()> {
    t.create("taken", &[], &["true"])?;
    t.create("other", &[], &["true"])?;
    let commands = [
        "create --name {taken} --network none {image}",
        "run --name {taken} --network none {image} true",
        "rename {other} {taken}",
        "rename {other} {other}",
        "rename {other} ''",
        "rename {other} /",
        "rename {other} -x",
        "rename nope {free}",
        "create --name a --network none {image}",
        "create --name .a --network none {image}",
        "create --name 'a b' --network none {image}",
    ];
    Golden::new(t).check_commands(t, "name-conflicts", &commands)
}

fn pause_and_rename(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("first", &[])?;
    let state = "{{.State.Status}} {{.State.Running}} {{.State.Paused}}";
    t.docker(&["pause", &name]).ok()?;
    assert_eq!(t.inspect(&name, state), "paused true true");
    assert!(t.docker(&["ps", "--format", "{{.Status}}", "-f", &format!("name={name}")]).out.ends_with("(Paused)"));
    let refused = t.docker(&["exec", &name, "true"]);
    assert!(refused.err.contains("is paused, unpause the container before exec"), "{}", refused.err);
    t.docker(&["unpause", &name]).ok()?;
    assert_eq!(t.inspect(&name, state), "running true false");
    let second = t.container("second");
    t.docker(&["rename", &name, &second]).ok()?;
    assert_eq!(t.inspect(&second, "{{.Name}}"), format!("/{second}"));
    assert_ne!(t.docker(&["inspect", &name]).code, 0);
    // A paused container can be stopped and removed.
    t.docker(&["pause", &second]).ok()?;
    t.docker(&["rm", "-f", &second]).ok()?;
    Ok(())
}

fn stop_and_kill(t: &Case<'_>) -> Result<()> {
    let trap = t.start(
        "trap",
        &[],
        &["sh", "-c", "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.01; done"],
    )?;
    t.wait_for(&["logs", &trap], "ready")?;
    t.docker(&["stop", &trap]).ok()?;
    assert_eq!(t.inspect(&trap, "{{.State.ExitCode}} {{.State.Status}}"), "3 exited");
    assert_eq!(t.docker(&["logs", &trap]).out, "ready\ncaught");
    t.docker(&["stop", &trap]).ok().context("stopping what is stopped")?;
    let refused = t.docker(&["kill", &trap]);
    assert!(refused.code == 1 && refused.err.contains("is not running"), "{}", refused.err);

    let deaf = t.sleeper("deaf", &[])?;
    t.docker(&["stop", "-t", "0", &deaf]).ok()?;
    assert_eq!(t.inspect(&deaf, "{{.State.ExitCode}}"), "137");
    let hup = t.start("hup", &[], &["sh", "-c", "trap 'echo hup' HUP; echo ready; while :; do sleep 0.01; done"])?;
    t.wait_for(&["logs", &hup], "ready")?;
    for signal in ["HUP", "SIGHUP", "1"] {
        t.docker(&["kill", "-s", signal, &hup]).ok()?;
    }
    t.wait_until(&["logs", &hup], |ran| ran.out.starts_with("ready\nhup"))?;
    assert_eq!(t.inspect(&hup, "{{.State.Status}}"), "running");
    let bad = t.docker(&["kill", "-s", "NOPE", &hup]);
    assert!(bad.err.contains("invalid signal: NOPE"), "{}", bad.err);
    t.docker(&["kill", &hup]).ok()?;
    t.docker(&["wait", &hup]).ok()?;
    assert_eq!(t.inspect(&hup, "{{.State.ExitCode}}"), "137");
    Ok(())
}

fn stop_signal(t: &Case<'_>) -> Result<()> {
    let script = "trap 'exit 12' USR1; echo ready; while :; do sleep 0.01; done";
    let name = t.start("c", &["--stop-signal", "USR1"], &["sh", "-c", script])?;
    t.wait_for(&["logs", &name], "ready")?;
    t.docker(&["stop", &name]).ok()?;
    assert_eq!(t.inspect(&name, "{{.State.ExitCode}} {{.Config.StopSignal}}"), "12 USR1");
    t.docker(&["start", &name]).ok()?;
    t.wait_for(&["logs", &name], "ready\nready")?;
    t.docker(&["stop", "-s", "KILL", &name]).ok()?;
    assert_eq!(t.inspect(&name, "{{.State.ExitCode}}"), "137");
    Ok(())
}

fn stop_timeout(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &["--stop-timeout", "0"])?;
    t.docker(&["stop", &name]).ok()?;
    assert_eq!(t.inspect(&name, "{{.State.ExitCode}} {{.Config.StopTimeout}}"), "137 0");
    Ok(())
}

fn start_again(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["sh", "-c", "echo run >> /runs; wc -l < /runs; exit $(wc -l < /runs)"])?;
    assert_eq!(t.inspect(&name, "{{.State.Status}} {{.State.StartedAt}}"), "created 0001-01-01T00:00:00Z");
    for (code, out) in [(1, "1"), (2, "2"), (3, "3")] {
        let ran = t.docker(&["start", "-a", &name]);
        assert_eq!((ran.code, ran.out.as_str()), (code, out));
    }
    assert_eq!(t.docker(&["logs", &name]).out, "1\n2\n3");
    let sleeper = t.sleeper("s", &[])?;
    let pid = t.inspect(&sleeper, "{{.State.Pid}}");
    t.docker(&["start", &sleeper]).ok().context("starting what runs")?;
    assert_eq!(t.inspect(&sleeper, "{{.State.Pid}}"), pid);
    t.docker(&["restart", "-t", "0", &sleeper]).ok()?;
    assert_ne!(t.inspect(&sleeper, "{{.State.Pid}}"), pid);
    Ok(())
}

fn wait(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &[], &["sh", "-c", "sleep 0.2; exit 6"])?;
    assert_eq!(t.docker(&["wait", &name]).out, "6");
    assert_eq!(t.docker(&["wait", &name]).out, "6");
    let status = |condition: &str| -> Result<_> {
        t.http("POST", &format!("/containers/{name}/wait?condition={condition}"))?.json()
    };
    assert_eq!(status("not-running")?["StatusCode"], 6);
    let bad = t.http("POST", &format!("/containers/{name}/wait?condition=nope"))?;
    assert_eq!((bad.status, bad.message().as_str()), (400, "invalid condition: \"nope\""));
    Ok(())
}

fn wait_removed(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &["--rm"], &["sh", "-c", "sleep 0.1; exit 5"])?;
    let path = format!("/containers/{name}/wait?condition=removed");
    // The head must come before the container has run.
    let waiting = compat_tests::http::open(&t.host().socket, "POST", &path, &[], b"")?;
    assert_eq!(waiting.head.status, 200);
    t.docker(&["start", &name]).ok()?;
    let mut body = String::new();
    let mut reader = waiting.reader;
    std::io::Read::read_to_string(&mut reader, &mut body)?;
    assert!(body.contains("{\"StatusCode\":5}"), "{body}");
    assert_eq!(t.http("GET", &format!("/containers/{name}/json"))?.status, 404);
    Ok(())
}

fn restart_on_failure(t: &Case<'_>) -> Result<()> {
    let name = t.start("fails", &["--restart", "on-failure:2"], &["false"])?;
    let template = "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}";
    t.wait_for(&["inspect", "-f", template, &name], "2 exited 1")?;
    let fine = t.start("fine", &["--restart", "on-failure"], &["true"])?;
    t.wait_for(&["inspect", "-f", template, &fine], "0 exited 0")?;
    Ok(())
}

fn restart_always(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &["--restart", "always"], &["sh", "-c", "echo run; exit 0"])?;
    t.wait_until(&["logs", &name], |ran| ran.out.lines().count() >= 2)?;
    let policy = t.inspect(&name, "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}");
    assert_eq!(policy, "always 0");
    t.docker(&["stop", "-t", "0", &name]).ok()?;
    assert_eq!(t.inspect(&name, "{{.State.Status}}"), "exited");
    t.docker(&["rm", &name]).ok()?;
    Ok(())
}

fn restart_not_after_stop(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &["--restart", "always"])?;
    t.docker(&["stop", "-t", "0", &name]).ok()?;
    let state = "{{.State.Status}} {{.RestartCount}}";
    assert_eq!(t.inspect(&name, state), "exited 0");
    // By the user's kill, too; but not by a signal from elsewhere.
    t.docker(&["start", &name]).ok()?;
    t.docker(&["kill", &name]).ok()?;
    t.wait_for(&["inspect", "-f", state, &name], "exited 0")?;
    Ok(())
}

fn restart_unless_stopped(t: &Case<'_>) -> Result<()> {
    let script = "test -e /once && exec sleep 1000; touch /once; exit 1";
    let name = t.start("c", &["--restart", "unless-stopped"], &["sh", "-c", script])?;
    t.wait_for(&["inspect", "-f", "{{.State.Status}} {{.RestartCount}}", &name], "running 1")?;
    Ok(())
}

fn exec(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &["-e", "A=container", "-w", "/tmp", "--hostname", "box"])?;
    let exec = |arguments: &[&str]| t.docker(&[&["exec", &name], arguments].concat());
    assert_eq!(exec(&["echo", "inside"]).out, "inside");
    assert_eq!(exec(&["sh", "-c", "echo $A; pwd; hostname"]).out, "container\n/tmp\nbox");
    for (command, code) in [(&["sh", "-c", "exit 5"][..], 5), (&["sh", "-c", "kill -9 $$"], 137), (&["nope"], 127)] {
        assert_eq!(exec(command).code, code, "{command:?}");
    }
    assert_eq!(exec(&["/etc"]).code, 126);
    let status = exec(&["grep", "-E", "^(CapEff|Seccomp|NoNewPrivs):", "/proc/self/status"]).out;
    assert_eq!(status, "CapEff:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2");
    // Where it runs is where the container runs.
    for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let link = format!("/proc/self/ns/{kind}");
        assert_eq!(exec(&["readlink", &link]).out, exec(&["readlink", &link.replace("self", "1")]).out, "{kind}");
    }
    assert_eq!(exec(&["cat", "/proc/self/cgroup"]).out, exec(&["cat", "/proc/1/cgroup"]).out);
    Ok(())
}

/// An exec that ends its container has an exit code all the same.
fn exec_that_ends_the_container(t: &Case<'_>) -> Result<()> {
    let script = "until test -e /go; do :; done";
    for round in 0..5 {
        let name = t.start(&format!("c{round}"), &[], &["sh", "-c", script])?;
        let ran = t.docker(&["exec", &name, "sh", "-c", "touch /go; exit 3"]);
        // It may be killed with the container before it comes to its own end.
        assert!(ran.code == 3 || ran.code == 137, "{} {}", ran.code, ran.err);
    }
    let name = t.start("kept", &[], &["sh", "-c", "until test -e /go; do sleep 0.01; done"])?;
    let body = serde_json::json!({"Cmd": ["sh", "-c", "touch /go; sleep 1000"]});
    let id = t.http_json("POST", &format!("/containers/{name}/exec"), &body)?.json()?["Id"].take();
    let id = id.as_str().context("no id")?;
    t.http_json("POST", &format!("/exec/{id}/start"), &serde_json::json!({"Detach": true}))?;
    t.docker(&["wait", &name]).ok()?;
    t.wait_for(&["inspect", "-f", "{{.ExecIDs}}", &name], "[]")?;
    let exec = t.http("GET", &format!("/exec/{id}/json"))?.json()?;
    assert_eq!((&exec["Running"], &exec["ExitCode"]), (&false.into(), &137.into()));
    t.docker(&["rm", &name]).ok()?;
    assert_eq!(t.http("GET", &format!("/exec/{id}/json"))?.status, 404);
    Ok(())
}

fn exec_options(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &["-e", "A=container", "-u", "user"])?;
    let exec = |options: &[&str], command: &[&str]| t.docker(&[&["exec"], options, &[&name], command].concat());
    assert_eq!(exec(&["-e", "A=exec", "-e", "B=2"], &["sh", "-c", "echo $A $B"]).out, "exec 2");
    assert_eq!(exec(&["-w", "/etc"], &["pwd"]).out, "/etc");
    assert_eq!(exec(&[], &["id", "-u"]).out, "1000");
    assert_eq!(exec(&["-u", "0"], &["id", "-u"]).out, "0");
    assert_eq!(exec(&["-u", "nobody"], &["sh", "-c", "id -un; echo $HOME"]).out, "nobody\n/");
    assert_eq!(exec(&["-t"], &["tty"]).out, "/dev/pts/0");
    let caps = exec(&["--privileged", "-u", "0"], &["grep", "CapEff", "/proc/self/status"]).out;
    let all = fs::read_to_string(format!("/proc/{}/status", t.host().pid))?;
    let all = all.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default().trim();
    assert_eq!(caps, format!("CapEff:\t{all}"));
    assert_eq!(exec(&["-d", "-u", "0"], &["sh", "-c", "echo done > /made"]).out, "");
    t.wait_for(&["exec", &name, "cat", "/made"], "done")?;
    Ok(())
}

fn exec_streams(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let cat = t.docker_with(&["exec", "-i", &name, "cat"], "to exec\n");
    assert_eq!((cat.out.as_str(), cat.code), ("to exec", 0));
    let both = t.docker(&["exec", &name, "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((both.out.as_str(), both.err.as_str()), ("out", "err"));
    assert_eq!(t.docker(&["exec", &name, "seq", "1", "50000"]).out.lines().count(), 50_000);
    assert_eq!(t.docker(&["logs", &name]).out, "", "what an exec prints is not in the log");
    Ok(())
}

fn exec_errors(t: &Case<'_>) -> Result<()> {
    t.sleeper("up", &[])?;
    t.create("created", &[], &["true"])?;
    let commands = [
        "exec {up} nope",
        "exec {up} /etc",
        "exec {up} /bin/not-executable",
        "exec -w /nope {up} true",
        "exec -u nobody2 {up} true",
        "exec {created} true",
        "exec nope true",
    ];
    Golden::new(t).check_commands(t, "exec-errors", &commands)
}

fn top(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &[], &["sh", "-c", "sleep 4711 & exec sleep 4712"])?;
    t.wait_until(&["top", &name], |ran| ran.out.contains("sleep 4711") && ran.out.contains("sleep 4712"))?;
    let top = t.docker(&["top", &name]).ok()?;
    let head: Vec<&str> = top.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(head, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    assert_eq!(top.lines().count(), 3);
    let pids = t.docker(&["top", &name, "-o", "pid,args"]).ok()?;
    let pid = t.inspect(&name, "{{.State.Pid}}");
    assert!(pids.lines().any(|line| line.starts_with(&pid) && line.ends_with("sleep 4712")), "{pids}");
    Ok(())
}

fn diff(t: &Case<'_>) -> Result<()> {
    let name =
        t.start("c", &[], &["sh", "-c", "echo x > /tmp/new; rm /data/from-image; echo y >> /etc/passwd; mkdir /d"])?;
    t.docker(&["wait", &name]).ok()?;
    let diff = t.docker(&["diff", &name]).ok()?;
    let mut lines: Vec<&str> = diff.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A /d", "A /tmp/new", "C /data", "C /etc", "C /etc/passwd", "C /tmp", "D /data/from-image"]);
    Ok(())
}

fn remove(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let refused = t.docker(&["rm", &name]);
    let text = "container is running: stop the container before removing or force remove";
    assert!(refused.code == 1 && refused.err.contains(text), "{}", refused.err);
    let id = t.inspect(&name, "{{.Id}}");
    assert_eq!(t.docker(&["rm", "-f", &id[..12]]).out, &id[..12]);
    assert_eq!(t.docker(&["rm", "-f", &id]).code, 0, "force hides that it is gone");
    assert_eq!(t.docker(&["rm", &id]).code, 1);
    Ok(())
}

fn prune(t: &Case<'_>) -> Result<()> {
    let label = format!("prune={}", t.prefix());
    let gone = t.start("gone", &["-l", &label], &["true"])?;
    t.docker(&["wait", &gone]).ok()?;
    let id = t.inspect(&gone, "{{.Id}}");
    let kept = t.sleeper("kept", &["-l", &label])?;
    let pruned = t.docker(&["container", "prune", "-f", "--filter", &format!("label={label}")]).ok()?;
    assert!(pruned.contains(&id), "{pruned}");
    assert!(pruned.contains("Total reclaimed space"), "{pruned}");
    assert_ne!(t.docker(&["inspect", &gone]).code, 0);
    assert_eq!(t.inspect(&kept, "{{.State.Status}}"), "running");
    Ok(())
}

fn copy(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["cat", "/tmp/in"])?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("in");
    fs::write(&file, "copied in\n")?;
    t.docker(&["cp", &file.to_string_lossy(), &format!("{name}:/tmp/in")]).ok()?;
    assert_eq!(t.docker(&["start", "-a", &name]).ok()?, "copied in");
    let out = dir.path().join("out");
    t.docker(&["cp", &format!("{name}:/data/from-image"), &out.to_string_lossy()]).ok()?;
    assert_eq!(fs::read_to_string(out)?, "copied\n");
    let missing = t.docker(&["cp", &format!("{name}:/nope"), "-"]);
    assert!(missing.err.contains("Could not find the file /nope in container"), "{}", missing.err);
    Ok(())
}

fn attach(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &["-i"], &["sh", "-c", "read a; echo got $a; read b; echo got $b; exit 4"])?;
    let mut command = t.host().command("timeout");
    let command = command.args(["60", "docker", "attach", &name]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    // Kept open until the output is there: at its end the stock daemon detaches.
    let mut input = child.stdin.take().context("stdin")?;
    let mut output = BufReader::new(child.stdout.take().context("stdout")?);
    for word in ["one", "two"] {
        input.write_all(format!("{word}\n").as_bytes())?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        assert_eq!(line, format!("got {word}\n"));
    }
    assert_eq!(child.wait()?.code(), Some(4));
    let again = t.docker(&["attach", &name]);
    assert!(again.err.contains("cannot attach to a stopped container"), "{}", again.err);
    Ok(())
}

fn attach_without_stdin(t: &Case<'_>) -> Result<()> {
    let name =
        t.start("c", &[], &["sh", "-c", "until test -e /go; do sleep 0.01; done; echo out; echo err >&2; exit 9"])?;
    let mut command = t.host().command("timeout");
    let attached = command.args(["60", "docker", "attach", "--no-stdin", &name]).stdin(Stdio::null());
    let child = attached.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Attached once the daemon says so.
    let filter = format!("container={name}");
    let events = ["events", "--since", "1m", "--until", "0s", "-f", "event=attach", "-f", &filter];
    t.wait_until(&events, |ran| ran.out.contains("container attach"))?;
    t.docker(&["exec", &name, "touch", "/go"]).ok()?;
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("out".to_owned(), "err".to_owned()));
    assert_eq!(output.status.code(), Some(9));
    Ok(())
}

fn auto_remove(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &["--rm"], &["sh", "-c", "sleep 0.05"])?;
    t.wait_until(&["inspect", &name], |ran| ran.err.contains("No such"))?;
    // Also when it cannot start.
    let failing = t.container("failing");
    t.docker(&["run", "--rm", "--network", "none", "--name", &failing, t.image(), "nope"]);
    t.wait_until(&["inspect", &failing], |ran| ran.err.contains("No such"))?;
    Ok(())
}

fn verb_errors(t: &Case<'_>) -> Result<()> {
    t.create("created", &[], &["true"])?;
    t.sleeper("up", &[])?;
    let commands = [
        "start nope",
        "stop nope",
        "kill nope",
        "restart nope",
        "pause nope",
        "unpause nope",
        "rm nope",
        "wait nope",
        "logs nope",
        "top nope",
        "diff nope",
        "attach nope",
        "port nope",
        "inspect nope",
        "container inspect nope",
        "exec nope true",
        "rename nope new-name",
        "pause {created}",
        "unpause {created}",
        "unpause {up}",
        "kill {created}",
        "top {created}",
        "attach {created}",
        "logs {created}",
        "port {up}",
        "stop {created}",
        "wait {up}x",
        "rmi nope",
        "image inspect nope",
        "history nope",
        "save nope -o /dev/null",
        "tag nope new",
        "tag {image} UPPER",
        "volume inspect nope",
        "volume rm nope",
        "network inspect nope",
        "logs --tail nope {up}",
        "logs --since nope {up}",
        "ps --filter nope=1",
        "ps --filter status=nope",
        "ps --filter exited=nope",
        "ps --filter health=nope",
        "images --filter nope=1",
        "volume ls --filter nope=1",
        "network ls --filter nope=1",
        "kill -s 99 {up}",
        "stop -t nope {up}",
        "ps --filter before=nope",
        "ps --filter since=nope",
        "ps --filter volume=nope -q",
        "ps --filter network=nope -q",
    ];
    Golden::new(t).check_commands(t, "verb-errors", &commands)
}

fn create_errors(t: &Case<'_>) -> Result<()> {
    let missing = t.docker(&["create", "--pull", "never", "no-such-image:never"]);
    assert!(missing.code == 1 && missing.err.contains("No such image: no-such-image:never"), "{}", missing.err);
    let commands = [
        "create --network none -p nope:80 {image}",
        "create --network none -p 70000:80 {image}",
        "create --network none --expose nope {image}",
        "create --network none -e =x {image}",
        "create --network none -u '' -w '' --name {emptied} {image}",
        "create --network none --health-cmd true --health-interval 1us {image}",
        "create --network none --name {retries} --health-cmd true --health-retries -1 {image}",
        "create --network none --link nope {image}",
        "create --network none --name {annotated} --annotation a {image}",
    ];
    Golden::new(t).check_commands(t, "create-errors", &commands)
}

fn volumes_from_and_links(t: &Case<'_>) -> Result<()> {
    let volume = t.volume("v");
    let first = t.create("first", &["-v", &format!("{volume}:/data"), "--tmpfs", "/scratch"], &["true"])?;
    assert_eq!(t.shell(&["--volumes-from", &first], "cat /data/from-image; echo 1 > /data/n")?, "copied");
    let from = format!("{first}:ro");
    let refused = t.run(&["--volumes-from", &from], &["touch", "/data/x"]);
    assert!(refused.err.contains("Read-only file system"), "{}", refused.err);
    Ok(())
}
