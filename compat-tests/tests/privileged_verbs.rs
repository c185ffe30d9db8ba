//! Logs, what can be said of an exec, statistics, and how verbs on containers refuse.

use std::io::Read;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use compat_tests::{Case, LIMIT, PAUSE, Suite, http, tests};

fn main() -> ExitCode {
    Suite {
        name: "verbs",
        flags: &[],
        tests: tests![
            logs,
            logs_refused,
            logs_of_many_files,
            exec_options,
            exec_failures,
            exec_inspected,
            statistics,
            statistics_of_what_has_ended,
            refusals,
            removal_refused,
            paused,
            changes,
        ],
    }
    .main()
}

fn ok(t: &Case<'_>, arguments: &[&str]) -> Result<String> {
    t.docker(arguments).ok().with_context(|| format!("{arguments:?}"))
}

fn said(code: u16, text: &str) -> (u16, String) {
    (code, format!(r#"{{"message":"{text}"}}"#))
}

/// Status and body of an answer.
fn api(t: &Case<'_>, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let headers: &[(&str, &str)] = if body.is_empty() { &[] } else { &[("Content-Type", "application/json")] };
    let answer = http::request(&t.host().socket, method, path, headers, body.as_bytes())?;
    Ok((answer.status, answer.text().trim().to_owned()))
}

fn logs(t: &Case<'_>) -> Result<()> {
    let options =
        ["-l", "a=b c", "-e", "X=y", "--log-opt", "labels=a", "--log-opt", "env=X", "--log-opt", "tag={{.Name}}"];
    // The pauses are long enough for the order of the lines to be that of their times, whoever reads them.
    let name = t.start("c", &options, &["sh", "-c", "echo one; sleep 0.3; echo two >&2; sleep 0.3; echo three"])?;
    ok(t, &["wait", &name])?;
    let logs = |arguments: &[&str]| {
        let ran = t.docker(&[&["logs"], arguments, &[name.as_str()]].concat());
        (ran.out, ran.err)
    };
    assert_eq!(logs(&[]), ("one\nthree".to_owned(), "two".to_owned()));
    assert_eq!(logs(&["--tail", "1"]), ("three".to_owned(), String::new()));
    assert_eq!(logs(&["--tail", "0"]), (String::new(), String::new()));
    assert_eq!(logs(&["--tail", "nonsense"]).0, "one\nthree");
    assert_eq!(logs(&["--tail", "1", "--details"]).0, format!("X=y,a=b+c,tag={name} three"));
    let stamped = logs(&["-t"]);
    let moment = stamped.1.split(' ').next().context("no time")?.to_owned();
    assert_eq!(logs(&["--since", &moment]), ("three".to_owned(), "two".to_owned()));
    assert_eq!(logs(&["--until", &moment]), ("one".to_owned(), "two".to_owned()));
    // A follower of what has ended ends.
    assert_eq!(logs(&["-f", "--tail", "1"]).0, "three");
    Ok(())
}

fn logs_refused(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["true"])?;
    let logs = |query: &str| api(t, "GET", &format!("/containers/{name}/logs{query}"), "");
    assert_eq!(logs("")?.1, said(0, "Bad parameters: you must choose at least one stream").1);
    let number = r#"strconv.ParseInt: parsing \"bogus\": invalid syntax"#;
    assert_eq!(logs("?stdout=1&since=bogus")?, said(500, number));
    let buffer = t.docker(&["create", "--name", &t.container("b"), "--log-opt", "max-buffer-size=1m", t.image()]);
    let words = "max-buffer-size option is only supported with 'mode=non-blocking'";
    assert!(buffer.err.ends_with(words), "{}", buffer.err);
    Ok(())
}

/// Many small files, while somebody follows; the newest lines are always there.
fn logs_of_many_files(t: &Case<'_>) -> Result<()> {
    // Stock's follower misses what is rotated away before it came to it, so there the lines come slowly.
    let pause = if t.is_ours() { "true" } else { "usleep 10000" };
    let script = format!("usleep 300000; i=0; while [ $i -lt 200 ]; do echo line number $i; i=$((i+1)); {pause}; done");
    let name = t.start("c", &["--log-opt", "max-size=1k", "--log-opt", "max-file=3"], &["sh", "-c", &script])?;
    let followed = t.docker(&["logs", "-f", &name]).out;
    assert!(followed.ends_with("line number 199"), "{followed}");
    assert_eq!(t.docker(&["logs", "--tail", "2", &name]).out, "line number 198\nline number 199");
    Ok(())
}

fn exec_options(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let exec = |options: &[&str], command: &[&str]| t.docker(&[&["exec"], options, &[&name], command].concat());
    assert_eq!(exec(&["-u", "nobody"], &["id", "-u"]).out, "65534");
    assert_eq!(exec(&["-w", "/etc", "-e", "A=b"], &["sh", "-c", "pwd; echo $A"]).out, "/etc\nb");
    assert!(exec(&["--privileged"], &["grep", "CapEff", "/proc/self/status"]).out.contains("ffffff"));
    assert_eq!(exec(&[], &["sh", "-c", "kill -9 $$"]).code, 137);
    Ok(())
}

fn exec_failures(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    for (arguments, code, words) in [
        (&["-u", "nosuch", &name, "true"][..], 1, "unable to find user nosuch: no matching entries in passwd file"),
        (&["-w", "etc", &name, "true"], 128, "Cwd must be an absolute path"),
        (&[&name, "/etc"], 126, "exec: \"/etc\": is a directory: permission denied"),
        (&[&name, ""], 127, "exec: \"\": executable file not found in $PATH"),
    ] {
        let ran = t.docker(&[&["exec"], arguments].concat());
        assert_eq!(ran.code, code, "{arguments:?}: {}", ran.err);
        assert!(ran.out.contains(words) || ran.err.contains(words), "{arguments:?}: {} {}", ran.out, ran.err);
    }
    Ok(())
}

fn exec_inspected(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let config = r#"{"Cmd":["sh","-c","exit 9"],"AttachStdout":true,"AttachStderr":true,"User":"nobody"}"#;
    let (status, answer) = api(t, "POST", &format!("/containers/{name}/exec"), config)?;
    assert_eq!(status, 201, "{answer}");
    let id = answer.split('"').nth(3).context("no id")?;
    api(t, "POST", &format!("/exec/{id}/start"), "{}")?;
    let path = format!("/exec/{id}/json");
    let inspect = eventually(|| Ok(api(t, "GET", &path, "")?.1), |text| text.contains(r#""ExitCode":9"#))?;
    for part in [r#""Running":false"#, r#""user":"nobody""#, r#""entrypoint":"sh""#, r#""arguments":["-c","exit 9"]"#] {
        assert!(inspect.contains(part), "{inspect}");
    }
    assert!(!inspect.contains(r#""Pid":0"#), "{inspect}");
    assert_eq!(t.inspect(&name, "{{.ExecIDs}}"), "[]", "what has ended is not listed");
    assert_eq!(api(t, "GET", &format!("/exec/{}/json", &id[..12]), "")?.0, 404, "ids are not shortened");
    Ok(())
}

/// Asks until the answer is as wanted.
fn eventually(ask: impl Fn() -> Result<String>, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let begun = Instant::now();
    loop {
        let answer = ask()?;
        if wanted(&answer) {
            return Ok(answer);
        }
        ensure!(begun.elapsed() < LIMIT, "still {answer}");
        std::thread::sleep(PAUSE);
    }
}

fn statistics(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &["-m", "64m", "--pids-limit", "50"])?;
    let once = |query: &str| api(t, "GET", &format!("/containers/{name}/stats?stream=0{query}"), "");
    let (status, text) = once("&one-shot=1")?;
    assert_eq!(status, 200, "{text}");
    assert!(text.contains(r#""limit":67108864"#) && text.contains(r#""limit":50"#), "{text}");
    assert!(text.contains(r#""preread":"0001-01-01T00:00:00Z""#), "{text}");
    assert!(!once("")?.1.contains(r#""preread":"0001-01-01T00:00:00Z""#), "a reading from before goes with it");
    let mut stream = http::open(&t.host().socket, "GET", &format!("/containers/{name}/stats"), &[], b"")?;
    let mut got = Vec::new();
    for wanted in [&b"\"preread\":\"0001"[..], b"\"preread\":\"20"] {
        while !got.windows(wanted.len()).any(|window| window == wanted) {
            let mut piece = [0; 4096];
            let length = stream.reader.read(&mut piece)?;
            ensure!(length > 0, "ended with {}", String::from_utf8_lossy(&got));
            got.extend_from_slice(&piece[..length]);
        }
    }
    drop(stream);
    let table = ["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.NetIO}}", &name];
    assert_eq!(ok(t, &table)?, format!("{name} 1 0B / 0B"));
    let both = api(t, "GET", &format!("/containers/{name}/stats?stream=1&one-shot=1"), "")?;
    assert_eq!(both, said(400, "cannot have stream=true and one-shot=true"));
    Ok(())
}

fn statistics_of_what_has_ended(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &["-m", "64m"])?;
    ok(t, &["stop", "-t", "0", &name])?;
    let (_, text) = api(t, "GET", &format!("/containers/{name}/stats?stream=0"), "")?;
    assert!(text.contains(r#""memory_stats":{}"#), "{text}");
    Ok(())
}

fn refusals(t: &Case<'_>) -> Result<()> {
    let (name, none) = (t.sleeper("c", &[])?, t.container("none"));
    let post = |path: &str| api(t, "POST", &format!("/containers/{path}"), "");
    let kill = format!("cannot kill container: {name}:");
    assert_eq!(post(&format!("{name}/kill?signal=SIGFOO"))?, said(400, &format!("{kill} invalid signal: SIGFOO")));
    assert_eq!(post(&format!("{name}/kill?signal=0"))?, said(400, &format!("{kill} invalid signal: 0")));
    let number = format!("{kill} the linux daemon does not support signal 65");
    assert_eq!(post(&format!("{name}/kill?signal=65"))?, said(400, &number));
    assert_eq!(post(&format!("{name}/kill?signal=winch"))?.0, 204);
    let missing = format!("cannot kill container: {none}: No such container: {none}");
    assert_eq!(post(&format!("{none}/kill"))?, said(404, &missing));
    let stop = format!("cannot stop container: {name}: invalid signal: FOO");
    assert_eq!(post(&format!("{name}/stop?signal=FOO"))?, said(500, &stop));
    let restart = format!("Cannot restart container {name}: invalid signal: FOO");
    assert_eq!(post(&format!("{name}/restart?signal=FOO"))?, said(500, &restart));
    let height = r#"invalid resize height \"x\": invalid syntax"#;
    assert_eq!(post(&format!("{name}/resize?h=x&w=1"))?.1, said(0, height).1);
    let wrong =
        "Error when allocating new name: Invalid container name (/b!d), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed";
    assert_eq!(post(&format!("{name}/rename?name=b!d"))?, said(400, wrong));
    assert_eq!(post(&format!("{name}/rename?name={name}"))?.0, 400);
    Ok(())
}

fn removal_refused(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let link = api(t, "DELETE", &format!("/containers/{name}?link=1"), "")?;
    assert_eq!(link, said(500, "Conflict, cannot remove the default link name of the container"));
    let running = format!(
        r#"cannot remove container \"{name}\": container is running: stop the container before removing or force remove"#
    );
    assert_eq!(api(t, "DELETE", &format!("/containers/{name}"), "")?, said(409, &running));
    ok(t, &["rm", "-f", &name]).map(drop)
}

fn paused(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    ok(t, &["pause", &name])?;
    let refused = api(t, "POST", &format!("/containers/{name}/exec"), r#"{"Cmd":["true"]}"#)?;
    assert_eq!(refused, said(409, &format!("Container {name} is paused, unpause the container before exec")));
    ok(t, &["unpause", &name])?;
    ok(t, &["rm", "-f", &name]).map(drop)
}

fn changes(t: &Case<'_>) -> Result<()> {
    let name = t.container("c");
    let script = "echo x > /new; rm /etc/group; mkdir -p /d/e; touch /etc/passwd; rm -r /data; mkdir /data";
    ok(t, &["run", "--name", &name, "--network", "none", t.image(), "sh", "-c", script])?;
    let mut changes: Vec<String> = ok(t, &["diff", &name])?.lines().map(str::to_owned).collect();
    changes.sort();
    let gone = changes.iter().any(|line| line == "D /data/from-image");
    changes.retain(|line| !line.contains("/data"));
    assert_eq!(changes, ["A /d", "A /d/e", "A /new", "C /etc", "C /etc/passwd", "D /etc/group"]);
    assert!(gone, "what an emptied directory had is gone");
    Ok(())
}
