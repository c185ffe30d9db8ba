//! Attach, exec streams and wait: what goes over the wire byte for byte, and how the CLI lives with it.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use compat_tests::{Case, LIMIT, Ran, Suite, tests};

fn main() -> ExitCode {
    Suite {
        name: "streams",
        flags: &[],
        tests: tests![
            attach_on_the_wire,
            attach_refused,
            attach_of_what_was_logged,
            attach_outlives_its_input,
            attach_for_one_writer,
            exec_on_the_wire,
            exec_runs_once,
            detach_keys,
            detach_keys_of_an_exec,
            several_clients_and_one_that_vanishes,
            terminal_of_run,
            terminal_of_exec,
            run_attached_to_one_stream,
            waits,
            wait_conditions_by_version,
        ],
    }
    .main()
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
const ALL: &str = "stdin=1&stdout=1&stderr=1&stream=1";
/// Answers with a line of its own to each line, without a terminal.
const ECHO: [&str; 3] = ["sh", "-c", "while read l; do echo out $l; done"];
/// What comes of `line`.
const ANSWER: &[u8] = b"\x01\0\0\0\0\0\0\x09out line\n";

fn ok(t: &Case<'_>, arguments: &[&str]) -> Result<String> {
    t.docker(arguments).ok().with_context(|| format!("{arguments:?}"))
}

fn said(code: u16, text: &str) -> (u16, String) {
    (code, format!(r#"{{"message":"{text}"}}"#))
}

/// A connection that has become a stream.
struct Session {
    socket: UnixStream,
    head: String,
    /// What came after the head.
    got: Vec<u8>,
}

impl Session {
    fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).expect("sent");
    }

    /// Reads until `wanted` has come; it and what came before is done with.
    fn until(&mut self, wanted: &[u8]) {
        let place = self.find(wanted);
        self.got.drain(..place + wanted.len());
    }

    fn find(&mut self, wanted: &[u8]) -> usize {
        loop {
            if let Some(place) = self.got.windows(wanted.len()).position(|window| window == wanted) {
                return place;
            }
            assert!(self.more() > 0, "ended with {:?}", String::from_utf8_lossy(&self.got));
        }
    }

    /// Reads to the end; everything that came.
    fn rest(mut self) -> Vec<u8> {
        while self.more() > 0 {}
        self.got
    }

    fn more(&mut self) -> usize {
        let mut piece = [0; 4096];
        match self.socket.read(&mut piece) {
            Ok(length) => {
                self.got.extend_from_slice(&piece[..length]);
                length
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("{error}: {:?}", String::from_utf8_lossy(&self.got)),
        }
    }
}

/// `METHOD path`; `headers` are whole lines. Gives back what comes after the head as a stream.
fn open(t: &Case<'_>, method: &str, path: &str, headers: &str, body: &str) -> Result<Session> {
    let mut socket = UnixStream::connect(&t.host().socket)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let typed = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: docker\r\n{typed}Content-Length: {length}\r\n{headers}\r\n{body}");
    socket.write_all(request.as_bytes())?;
    let mut session = Session { socket, head: String::new(), got: Vec::new() };
    let end = session.find(b"\r\n\r\n");
    session.head = String::from_utf8_lossy(&session.got[..end]).into_owned();
    session.got.drain(..end + 4);
    Ok(session)
}

/// `POST path` that asks for an upgrade.
fn upgrade(t: &Case<'_>, path: &str, body: &str) -> Result<Session> {
    open(t, "POST", path, UPGRADE, body)
}

/// Status and body of an ordinary answer.
fn api(t: &Case<'_>, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let session = open(t, method, path, "Connection: close\r\n", body)?;
    let status = session.head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status")?;
    Ok((status, String::from_utf8_lossy(&session.rest()).trim().to_owned()))
}

/// Registers an exec; `config` are further members of its description.
fn exec(t: &Case<'_>, container: &str, command: &str, config: &str) -> Result<String> {
    let body = format!(r#"{{"Cmd":["sh","-c","{command}"],"AttachStdout":true,"AttachStderr":true{config}}}"#);
    let (status, answer) = api(t, "POST", &format!("/containers/{container}/exec"), &body)?;
    assert_eq!(status, 201, "{answer}");
    Ok(answer.split('"').nth(3).context("no id")?.to_owned())
}

fn attach_on_the_wire(t: &Case<'_>) -> Result<()> {
    let (plain, terminal) = (t.start("plain", &["-i"], &ECHO)?, t.start("tty", &["-it"], &["cat"])?);
    for (version, multiplexed) in [("1.41", false), ("1.42", true), ("1.51", true)] {
        for (name, tty) in [(&plain, false), (&terminal, true)] {
            let kind = if multiplexed && !tty { "multiplexed" } else { "raw" };
            let path = format!("/v{version}/containers/{name}/attach?{ALL}");
            let mut new = upgrade(t, &path, "")?;
            let head = format!(
                "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.{kind}-stream\r\nConnection: Upgrade\r\nUpgrade: tcp"
            );
            assert_eq!(new.head, head);
            let mut old = open(t, "POST", &path, "", "")?;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream";
            assert_eq!(old.head, head, "the old way");
            // Both write, both see everything.
            let answer: &[u8] = if tty { b"line\r\n" } else { ANSWER };
            new.send(b"line\n");
            new.until(answer);
            old.until(answer);
            old.send(b"line\n");
            new.until(answer);
            old.until(answer);
        }
    }
    Ok(())
}

fn attach_refused(t: &Case<'_>) -> Result<()> {
    let none = t.container("none");
    let refused = upgrade(t, &format!("/containers/{none}/attach?{ALL}"), "")?;
    assert_eq!(refused.head, "HTTP/1.1 404 Not Found\r\nContent-Type: application/vnd.docker.raw-stream");
    assert_eq!(refused.rest(), format!("No such container: {none}\r\n").as_bytes());
    let name = t.start("plain", &["-i"], &ECHO)?;
    ok(t, &["pause", &name])?;
    let paused = open(t, "POST", &format!("/containers/{name}/attach?{ALL}"), "", "")?;
    assert!(paused.head.starts_with("HTTP/1.1 409 Conflict"), "{}", paused.head);
    let text = format!("container {name} is paused, unpause the container before attach\r\n");
    assert_eq!(paused.rest(), text.as_bytes());
    ok(t, &["unpause", &name]).map(drop)
}

fn attach_of_what_was_logged(t: &Case<'_>) -> Result<()> {
    let name = t.start("plain", &["-i"], &ECHO)?;
    let mut session = upgrade(t, &format!("/containers/{name}/attach?{ALL}"), "")?;
    for _ in 0..6 {
        session.send(b"line\n");
        session.until(ANSWER);
    }
    t.wait_until(&["logs", &name], |ran| ran.out.lines().count() == 6)?;
    // What was logged, and no more.
    let logged = upgrade(t, &format!("/containers/{name}/attach?stdout=1&logs=1"), "")?.rest();
    assert_eq!(logged, ANSWER.repeat(6));
    assert_eq!(upgrade(t, &format!("/containers/{name}/attach?stream=1"), "")?.rest(), b"");
    Ok(())
}

/// The end of input is not the end of a process that keeps its standard input; the session ends.
fn attach_outlives_its_input(t: &Case<'_>) -> Result<()> {
    let name = t.start("plain", &["-i"], &ECHO)?;
    let session = upgrade(t, &format!("/containers/{name}/attach?{ALL}"), "")?;
    session.socket.shutdown(Shutdown::Write)?;
    session.rest();
    assert_eq!(t.inspect(&name, "{{.State.Status}}"), "running");
    ok(t, &["rm", "-f", &name]).map(drop)
}

/// Where only one client was meant to write, the end of its input is the end of the process's.
fn attach_for_one_writer(t: &Case<'_>) -> Result<()> {
    let name = t.create("once", &["-i", "-a", "stdin", "-a", "stdout"], &["cat"])?;
    let mut session = upgrade(t, &format!("/containers/{name}/attach?stdin=1&stdout=1&stream=1"), "")?;
    ok(t, &["start", &name])?;
    session.send(b"all\n");
    session.socket.shutdown(Shutdown::Write)?;
    assert_eq!(session.rest(), b"\x01\0\0\0\0\0\0\x04all\n");
    assert_eq!(ok(t, &["wait", &name])?, "0");
    ok(t, &["rm", "-f", &name]).map(drop)
}

fn exec_on_the_wire(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    for (version, multiplexed) in [("1.41", false), ("1.42", true)] {
        for tty in [false, true] {
            let kind = if multiplexed && !tty { "multiplexed" } else { "raw" };
            let start = |headers: &str| {
                let id = exec(t, &name, "echo o", &format!(r#","Tty":{tty}"#))?;
                open(t, "POST", &format!("/v{version}/exec/{id}/start"), headers, &format!(r#"{{"Tty":{tty}}}"#))
            };
            let output: &[u8] = if tty { b"o\r\n" } else { b"\x01\0\0\0\0\0\0\x02o\n" };
            let new = start(UPGRADE)?;
            let head = format!(
                "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.{kind}-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nApi-Version: 1.51\r\n"
            );
            assert!(new.head.starts_with(&head), "{}", new.head);
            assert_eq!(new.rest(), output);
            let old = start("")?;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\nApi-Version: 1.51\r\n";
            assert!(old.head.starts_with(head), "{}", old.head);
            assert_eq!(old.rest(), output);
        }
    }
    Ok(())
}

fn exec_runs_once(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let id = exec(t, &name, "cat", r#","AttachStdin":true"#)?;
    let path = format!("/exec/{id}/start");
    let mut session = upgrade(t, &path, "{}")?;
    session.send(b"hello\n");
    session.socket.shutdown(Shutdown::Write)?;
    assert_eq!(session.rest(), b"\x01\0\0\0\0\0\0\x06hello\n");
    let again = upgrade(t, &path, "{}")?.rest();
    let text = format!("exec command {id} has already run\r\n");
    assert!(again.ends_with(text.as_bytes()), "{}", String::from_utf8_lossy(&again));
    let detached = api(t, "POST", &path, r#"{"Detach":true}"#)?;
    assert_eq!(detached, said(409, &format!("exec command {id} has already run")));
    Ok(())
}

fn detach_keys(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &["-it"], &["cat"])?;
    let attach = |keys: &str| upgrade(t, &format!("/containers/{name}/attach?{ALL}&detachKeys={keys}"), "");
    let mut session = attach("")?;
    session.send(b"x\n");
    session.until(b"x\r\nx\r\n");
    session.send(b"\x10\x11lost");
    session.rest();
    let mut session = attach("a,ctrl-b")?;
    session.send(b"\x10\x11y\n");
    session.until(b"y\r\n");
    session.send(b"a");
    session.send(b"\x02");
    session.rest();
    let wrong = attach("ctrl-,,")?;
    assert!(wrong.head.starts_with("HTTP/1.1 400 Bad Request"), "{}", wrong.head);
    assert_eq!(wrong.rest(), b"Invalid detach keys (ctrl-,,) provided\r\n");
    assert_eq!(t.inspect(&name, "{{.State.Status}}"), "running");
    // Events are asked for up to a moment that is still to come; the CLI waits for it.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let (since, until) = ((now - 60).to_string(), (now + 1).to_string());
    let filter = format!("container={}", t.inspect(&name, "{{.Id}}"));
    let events = ["events", "--since", &since, "--until", &until, "--format", "{{.Action}}"];
    let events = ok(t, &[&events[..], &["--filter", &filter, "--filter", "event=detach"]].concat())?;
    assert_eq!(events, "detach\ndetach");
    Ok(())
}

fn detach_keys_of_an_exec(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &["-it"], &["cat"])?;
    let id = exec(t, &name, "cat", r#","AttachStdin":true,"Tty":true,"DetachKeys":"ctrl-a""#)?;
    let mut session = upgrade(t, &format!("/exec/{id}/start"), r#"{"Tty":true}"#)?;
    session.send(b"z\n");
    session.until(b"z\r\nz\r\n");
    session.send(b"\x01");
    let rest = session.rest();
    let text = b"exec attach failed: error on attach stdin: read escape sequence\r\n";
    assert!(rest.ends_with(text), "{}", String::from_utf8_lossy(&rest));
    let (_, inspect) = api(t, "GET", &format!("/exec/{id}/json"), "")?;
    assert!(inspect.contains(r#""DetachKeys":"AQ==""#), "{inspect}");
    Ok(())
}

fn several_clients_and_one_that_vanishes(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &["-i"], &["cat"])?;
    let path = format!("/containers/{name}/attach?{ALL}");
    let mut sessions = (0..8).map(|_| upgrade(t, &path, "")).collect::<Result<Vec<Session>>>()?;
    drop(sessions.pop());
    sessions[0].send(b"for all\n");
    for session in &mut sessions {
        session.until(b"for all\n");
    }
    // One that reads nothing does not keep another from detaching or the container from ending.
    drop(sessions);
    ok(t, &["stop", "-t", "0", &name])?;
    ok(t, &["rm", "-f", &name]).map(drop)
}

/// Runs the CLI on a terminal of its own, by script(1).
fn on_terminal(t: &Case<'_>, arguments: &str, input: &str) -> Result<Ran> {
    let line = format!("docker -H {} {arguments}", t.host().address());
    let mut child = Command::new("script");
    let child = child.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = child.spawn().context("script")?;
    child.stdin.as_mut().context("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Ran { out, err: String::new(), code: output.status.code().unwrap_or(-1) })
}

fn terminal_of_run(t: &Case<'_>) -> Result<()> {
    let script = "tty; read x; echo got $x; exit 7";
    let ran = on_terminal(t, &format!("run -it --rm --network none {} sh -c '{script}'", t.image()), "hello\n")?;
    assert!(ran.out.contains("/dev/pts/0") && ran.out.contains("got hello"), "{}", ran.out);
    assert_eq!(ran.code, 7);
    Ok(())
}

fn terminal_of_exec(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let ran = on_terminal(t, &format!("exec -it {name} sh -c 'tty; exit 3'"), "")?;
    assert!(ran.out.contains("/dev/pts/"), "{}", ran.out);
    assert_eq!(ran.code, 3);
    Ok(())
}

fn run_attached_to_one_stream(t: &Case<'_>) -> Result<()> {
    let only = t.run(&["-a", "stdout"], &["sh", "-c", "echo o; echo e >&2"]);
    assert_eq!((only.out.as_str(), only.err.as_str()), ("o", ""));
    Ok(())
}

fn waits(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["sh", "-c", "exit 3"])?;
    let wait = |condition: &str| {
        open(t, "POST", &format!("/containers/{name}/wait?condition={condition}"), "Connection: close\r\n", "")
    };
    let code = |session: Session| String::from_utf8_lossy(&session.rest()).into_owned();
    assert!(code(wait("")?).contains(r#"{"StatusCode":0}"#), "it never ran");
    // The head comes at once: whoever has it may start.
    let next = wait("next-exit")?;
    assert!(next.head.starts_with("HTTP/1.1 200 OK"), "{}", next.head);
    ok(t, &["start", &name])?;
    assert!(code(next).contains(r#"{"StatusCode":3}"#));
    assert!(code(wait("not-running")?).contains(r#"{"StatusCode":3}"#));
    let removed = wait("removed")?;
    ok(t, &["rm", &name])?;
    assert!(code(removed).contains(r#"{"StatusCode":3}"#));
    assert_eq!(t.docker(&["wait", &name]).err, format!("Error response from daemon: No such container: {name}"));
    Ok(())
}

fn wait_conditions_by_version(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["true"])?;
    let wait = |version: &str| api(t, "POST", &format!("/v{version}/containers/{name}/wait?condition=bogus"), "");
    assert_eq!(wait("1.30")?, said(400, r#"invalid condition: \"bogus\""#));
    assert_eq!(wait("1.29")?.0, 200, "no conditions yet");
    Ok(())
}
