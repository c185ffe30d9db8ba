//! Attach, exec streams, wait and logs: what goes over the wire byte for byte, and how the CLI lives with it; needs
//! root. What is expected here was seen on the stock daemon first.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use compat_tests::{LIMIT, PrivateDaemon as Daemon, Ran};

#[test]
fn privileged_streams() {
    let daemon = Daemon::start().expect("daemon");
    let bed = Bed { daemon: &daemon };
    bed.attach_on_the_wire();
    bed.exec_on_the_wire();
    bed.detach_keys();
    bed.several_clients_and_one_that_vanishes();
    bed.terminals();
    bed.waits();
    bed.logs();
    bed.exec_details();
    bed.statistics();
    bed.refusals();
    assert_eq!(daemon.docker(&["ps", "-aq"]).out, "", "containers are left");
    assert_eq!(daemon.leftovers(), Vec::<String>::new(), "mounts are left");
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
const ALL: &str = "stdin=1&stdout=1&stderr=1&stream=1";

struct Bed<'a> {
    daemon: &'a Daemon,
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

impl Bed<'_> {
    fn docker(&self, arguments: &[&str]) -> Ran {
        self.daemon.docker(arguments)
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let ran = self.docker(arguments);
        assert_eq!(ran.code, 0, "{arguments:?}: {}", ran.err);
        ran.out
    }

    fn run(&self, name: &str, options: &[&str], command: &[&str]) {
        self.ok(&[&["run", "-d", "--name", name, "--network", "none"], options, &["busybox"], command].concat());
    }

    fn remove(&self, name: &str) {
        self.ok(&["rm", "-f", name]);
    }

    fn address(&self) -> String {
        format!("unix://{}", self.daemon.dir().join("docker.sock").display())
    }

    /// `METHOD path`; `headers` are whole lines. Gives back what comes after the head as a stream.
    fn open(&self, method: &str, path: &str, headers: &str, body: &str) -> Session {
        let mut socket = UnixStream::connect(self.daemon.dir().join("docker.sock")).expect("connected");
        socket.set_read_timeout(Some(LIMIT)).expect("limit");
        let typed = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\n{typed}Content-Length: {length}\r\n{headers}\r\n{body}"
        );
        socket.write_all(request.as_bytes()).expect("sent");
        let mut session = Session { socket, head: String::new(), got: Vec::new() };
        let end = session.find(b"\r\n\r\n");
        session.head = String::from_utf8_lossy(&session.got[..end]).into_owned();
        session.got.drain(..end + 4);
        session
    }

    /// Status and body of an ordinary answer.
    fn api(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let session = self.open(method, path, "Connection: close\r\n", body);
        let status = session.head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
        (status, String::from_utf8_lossy(&session.rest()).trim().to_owned())
    }

    /// Registers an exec; `config` are further members of its description.
    fn exec(&self, container: &str, command: &str, config: &str) -> String {
        let body = format!(r#"{{"Cmd":["sh","-c","{command}"],"AttachStdout":true,"AttachStderr":true{config}}}"#);
        let (status, answer) = self.api("POST", &format!("/containers/{container}/exec"), &body);
        assert_eq!(status, 201, "{answer}");
        answer.split('"').nth(3).expect("an id").to_owned()
    }

    fn attach_on_the_wire(&self) {
        self.run("s-plain", &["-i"], &["sh", "-c", "while read l; do echo out $l; done"]);
        self.run("s-tty", &["-it"], &["cat"]);
        let framed = b"\x01\0\0\0\0\0\0\x08out line\n".to_vec();
        let framed = [&framed[..7], &[9], &framed[8..]].concat();
        for (version, multiplexed) in [("1.41", false), ("1.42", true), ("1.51", true)] {
            for (name, tty) in [("s-plain", false), ("s-tty", true)] {
                let kind = if multiplexed && !tty { "multiplexed" } else { "raw" };
                let path = format!("/v{version}/containers/{name}/attach?{ALL}");
                let mut new = self.open("POST", &path, UPGRADE, "");
                let head = format!(
                    "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.{kind}-stream\r\nConnection: Upgrade\r\nUpgrade: tcp"
                );
                assert_eq!(new.head, head);
                let mut old = self.open("POST", &path, "", "");
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream";
                assert_eq!(old.head, head, "the old way");
                // Both write, both see everything.
                let answer: &[u8] = if tty { b"line\r\n" } else { &framed };
                new.send(b"line\n");
                new.until(answer);
                old.until(answer);
                old.send(b"line\n");
                new.until(answer);
                old.until(answer);
            }
        }
        let refused = self.open("POST", &format!("/containers/s-none/attach?{ALL}"), UPGRADE, "");
        assert_eq!(refused.head, "HTTP/1.1 404 Not Found\r\nContent-Type: application/vnd.docker.raw-stream");
        assert_eq!(refused.rest(), b"No such container: s-none\r\n");
        // What was logged, and no more.
        let logged = self.open("POST", "/containers/s-plain/attach?stdout=1&logs=1", UPGRADE, "").rest();
        assert_eq!(logged, framed.repeat(6));
        assert_eq!(self.open("POST", "/containers/s-plain/attach?stream=1", UPGRADE, "").rest(), b"");
        self.ok(&["pause", "s-plain"]);
        let paused = self.open("POST", &format!("/containers/s-plain/attach?{ALL}"), "", "");
        assert!(paused.head.starts_with("HTTP/1.1 409 Conflict"), "{}", paused.head);
        assert_eq!(paused.rest(), b"container s-plain is paused, unpause the container before attach\r\n");
        self.ok(&["unpause", "s-plain"]);
        // The end of input is not the end of a process that keeps its standard input; the session ends.
        let session = self.open("POST", &format!("/containers/s-plain/attach?{ALL}"), UPGRADE, "");
        session.socket.shutdown(Shutdown::Write).expect("half closed");
        session.rest();
        assert_eq!(self.ok(&["inspect", "-f", "{{.State.Status}}", "s-plain"]), "running");
        self.remove("s-plain");
        self.remove("s-tty");
        // It is where only one client was meant to write.
        let cat =
            ["create", "-i", "-a", "stdin", "-a", "stdout", "--name", "s-once", "--network", "none", "busybox", "cat"];
        self.ok(&cat);
        let mut session = self.open("POST", "/containers/s-once/attach?stdin=1&stdout=1&stream=1", UPGRADE, "");
        self.ok(&["start", "s-once"]);
        session.send(b"all\n");
        session.socket.shutdown(Shutdown::Write).expect("half closed");
        assert_eq!(session.rest(), b"\x01\0\0\0\0\0\0\x04all\n");
        assert_eq!(self.ok(&["wait", "s-once"]), "0");
        self.remove("s-once");
    }

    fn exec_on_the_wire(&self) {
        self.run("s-exec", &[], &["sleep", "1000"]);
        for (version, multiplexed) in [("1.41", false), ("1.42", true)] {
            for tty in [false, true] {
                let kind = if multiplexed && !tty { "multiplexed" } else { "raw" };
                let start = |headers: &str| {
                    let id = self.exec("s-exec", "echo o", &format!(r#","Tty":{tty}"#));
                    let body = format!(r#"{{"Tty":{tty}}}"#);
                    self.open("POST", &format!("/v{version}/exec/{id}/start"), headers, &body)
                };
                let output: &[u8] = if tty { b"o\r\n" } else { b"\x01\0\0\0\0\0\0\x02o\n" };
                let new = start(UPGRADE);
                let head = format!(
                    "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.{kind}-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nApi-Version: 1.51\r\n"
                );
                assert!(new.head.starts_with(&head), "{}", new.head);
                assert_eq!(new.rest(), output);
                let old = start("");
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\nApi-Version: 1.51\r\n";
                assert!(old.head.starts_with(head), "{}", old.head);
                assert_eq!(old.rest(), output);
            }
        }
        let id = self.exec("s-exec", "cat", r#","AttachStdin":true"#);
        let mut session = self.open("POST", &format!("/exec/{id}/start"), UPGRADE, "{}");
        session.send(b"hello\n");
        session.socket.shutdown(Shutdown::Write).expect("half closed");
        assert_eq!(session.rest(), b"\x01\0\0\0\0\0\0\x06hello\n");
        let again = self.open("POST", &format!("/exec/{id}/start"), UPGRADE, "{}").rest();
        let text = format!("exec command {id} has already run\r\n");
        assert!(again.ends_with(text.as_bytes()), "{}", String::from_utf8_lossy(&again));
        let detached = self.api("POST", &format!("/exec/{id}/start"), r#"{"Detach":true}"#);
        assert_eq!(detached, (409, format!(r#"{{"message":"exec command {id} has already run"}}"#)));
        self.remove("s-exec");
    }

    fn detach_keys(&self) {
        self.run("s-keys", &["-it"], &["cat"]);
        let open =
            |keys: &str| self.open("POST", &format!("/containers/s-keys/attach?{ALL}&detachKeys={keys}"), UPGRADE, "");
        let mut session = open("");
        session.send(b"x\n");
        session.until(b"x\r\nx\r\n");
        session.send(b"\x10\x11lost");
        session.rest();
        let mut session = open("a,ctrl-b");
        session.send(b"\x10\x11y\n");
        session.until(b"y\r\n");
        session.send(b"a");
        session.send(b"\x02");
        session.rest();
        let wrong = open("ctrl-,,");
        assert!(wrong.head.starts_with("HTTP/1.1 400 Bad Request"), "{}", wrong.head);
        assert_eq!(wrong.rest(), b"Invalid detach keys (ctrl-,,) provided\r\n");
        assert_eq!(self.ok(&["inspect", "-f", "{{.State.Status}}", "s-keys"]), "running");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let (since, until) = ((now - 60).to_string(), (now + 1).to_string());
        let filter = format!("container={}", self.ok(&["inspect", "-f", "{{.Id}}", "s-keys"]));
        let events = ["events", "--since", &since, "--until", &until, "--format", "{{.Action}}"];
        let events = self.ok(&[&events[..], &["--filter", &filter, "--filter", "event=detach"]].concat());
        assert_eq!(events, "detach\ndetach");
        let id = self.exec("s-keys", "cat", r#","AttachStdin":true,"Tty":true,"DetachKeys":"ctrl-a""#);
        let mut session = self.open("POST", &format!("/exec/{id}/start"), UPGRADE, r#"{"Tty":true}"#);
        session.send(b"z\n");
        session.until(b"z\r\nz\r\n");
        session.send(b"\x01");
        assert!(session.rest().ends_with(b"exec attach failed: error on attach stdin: read escape sequence\r\n"));
        let (_, inspect) = self.api("GET", &format!("/exec/{id}/json"), "");
        assert!(inspect.contains(r#""DetachKeys":"AQ==""#), "{inspect}");
        self.remove("s-keys");
    }

    fn several_clients_and_one_that_vanishes(&self) {
        self.run("s-many", &["-i"], &["cat"]);
        let path = format!("/containers/s-many/attach?{ALL}");
        let mut sessions: Vec<Session> = (0..8).map(|_| self.open("POST", &path, UPGRADE, "")).collect();
        drop(sessions.pop());
        sessions[0].send(b"for all\n");
        for session in &mut sessions {
            session.until(b"for all\n");
        }
        // One that reads nothing does not keep another from detaching or the container from ending.
        drop(sessions);
        self.ok(&["stop", "-t", "0", "s-many"]);
        self.remove("s-many");
    }

    /// Runs the CLI on a terminal of its own, by script(1).
    fn on_terminal(&self, arguments: &str, input: &str) -> Ran {
        let line = format!("docker -H {} {arguments}", self.address());
        let mut child = Command::new("script");
        let child = child.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().expect("script");
        child.stdin.as_mut().expect("piped").write_all(input.as_bytes()).expect("sent");
        let output = child.wait_with_output().expect("ended");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        Ran { out, err: String::new(), code: output.status.code().unwrap_or(-1) }
    }

    fn terminals(&self) {
        let ran =
            self.on_terminal("run -it --rm --network none busybox sh -c 'tty; read x; echo got $x; exit 7'", "hello\n");
        assert!(ran.out.contains("/dev/pts/0") && ran.out.contains("got hello"), "{}", ran.out);
        assert_eq!(ran.code, 7);
        self.run("s-term", &[], &["sleep", "1000"]);
        let ran = self.on_terminal("exec -it s-term sh -c 'tty; exit 3'", "");
        assert!(ran.out.contains("/dev/pts/"), "{}", ran.out);
        assert_eq!(ran.code, 3);
        self.remove("s-term");
        let only = self.docker(&[
            "run",
            "-a",
            "stdout",
            "--rm",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "echo o; echo e >&2",
        ]);
        assert_eq!((only.out.as_str(), only.err.as_str()), ("o", ""));
    }

    fn waits(&self) {
        let create = ["create", "--name", "s-wait", "--network", "none", "busybox", "sh", "-c", "exit 3"];
        self.ok(&create);
        let wait = |condition: &str| {
            self.open("POST", &format!("/containers/s-wait/wait?condition={condition}"), "Connection: close\r\n", "")
        };
        assert!(String::from_utf8_lossy(&wait("").rest()).contains(r#"{"StatusCode":0}"#), "it never ran");
        // The head comes at once: whoever has it may start.
        let next = wait("next-exit");
        assert!(next.head.starts_with("HTTP/1.1 200 OK"), "{}", next.head);
        self.ok(&["start", "s-wait"]);
        assert!(String::from_utf8_lossy(&next.rest()).contains(r#"{"StatusCode":3}"#));
        assert!(String::from_utf8_lossy(&wait("not-running").rest()).contains(r#"{"StatusCode":3}"#));
        let removed = wait("removed");
        self.ok(&["rm", "s-wait"]);
        assert!(String::from_utf8_lossy(&removed.rest()).contains(r#"{"StatusCode":3}"#));
        self.ok(&create);
        let bogus = self.api("POST", "/v1.30/containers/s-wait/wait?condition=bogus", "");
        assert_eq!(bogus, (400, r#"{"message":"invalid condition: \"bogus\""}"#.to_owned()));
        assert_eq!(self.api("POST", "/v1.29/containers/s-wait/wait?condition=bogus", "").0, 200, "no conditions yet");
        self.remove("s-wait");
        assert_eq!(self.docker(&["wait", "s-wait"]).err, "Error response from daemon: No such container: s-wait");
    }

    fn logs(&self) {
        let options =
            ["-l", "a=b c", "-e", "X=y", "--log-opt", "labels=a", "--log-opt", "env=X", "--log-opt", "tag={{.Name}}"];
        self.run("s-logs", &options, &["sh", "-c", "echo one; usleep 20000; echo two >&2; usleep 20000; echo three"]);
        self.ok(&["wait", "s-logs"]);
        let logs = |arguments: &[&str]| {
            let ran = self.docker(&[&["logs"], arguments, &["s-logs"]].concat());
            (ran.out, ran.err)
        };
        assert_eq!(logs(&[]), ("one\nthree".to_owned(), "two".to_owned()));
        assert_eq!(logs(&["--tail", "1"]), ("three".to_owned(), String::new()));
        assert_eq!(logs(&["--tail", "0"]), (String::new(), String::new()));
        assert_eq!(logs(&["--tail", "nonsense"]).0, "one\nthree");
        assert_eq!(logs(&["--tail", "1", "--details"]).0, "X=y,a=b+c,tag=s-logs three");
        let stamped = logs(&["-t"]);
        let moment = stamped.1.split(' ').next().expect("a time").to_owned();
        assert_eq!(logs(&["--since", &moment]), ("three".to_owned(), "two".to_owned()));
        assert_eq!(logs(&["--until", &moment]), ("one".to_owned(), "two".to_owned()));
        // A follower stays over a restart that it sees as the end of the container, as under Docker.
        assert_eq!(logs(&["-f", "--tail", "1"]).0, "three");
        assert_eq!(
            self.api("GET", "/containers/s-logs/logs", "").1,
            r#"{"message":"Bad parameters: you must choose at least one stream"}"#
        );
        let wrong = self.api("GET", "/containers/s-logs/logs?stdout=1&since=bogus", "");
        assert_eq!(wrong, (500, r#"{"message":"strconv.ParseInt: parsing \"bogus\": invalid syntax"}"#.to_owned()));
        self.remove("s-logs");
        // Many small files, while somebody follows; the newest lines are always there.
        let script = "usleep 300000; i=0; while [ $i -lt 200 ]; do echo line number $i; i=$((i+1)); done";
        self.run("s-rotate", &["--log-opt", "max-size=1k", "--log-opt", "max-file=3"], &["sh", "-c", script]);
        let followed = self.docker(&["logs", "-f", "s-rotate"]).out;
        assert!(followed.ends_with("line number 199"), "{followed}");
        assert_eq!(self.docker(&["logs", "--tail", "2", "s-rotate"]).out, "line number 198\nline number 199");
        self.remove("s-rotate");
        let buffer = self.docker(&["create", "--log-opt", "max-buffer-size=1m", "busybox"]);
        assert!(
            buffer.err.ends_with("max-buffer-size option is only supported with 'mode=non-blocking'"),
            "{}",
            buffer.err
        );
    }

    fn exec_details(&self) {
        self.run("s-details", &[], &["sleep", "1000"]);
        let exec = |arguments: &[&str]| self.docker(&[&["exec"], arguments].concat());
        assert_eq!(exec(&["-u", "nobody", "s-details", "id", "-u"]).out, "65534");
        assert_eq!(exec(&["-w", "/etc", "-e", "A=b", "s-details", "sh", "-c", "pwd; echo $A"]).out, "/etc\nb");
        assert!(exec(&["--privileged", "s-details", "grep", "CapEff", "/proc/self/status"]).out.contains("ffffff"));
        assert_eq!(exec(&["s-details", "sh", "-c", "kill -9 $$"]).code, 137);
        let wrong = [
            (
                &["-u", "nosuch", "s-details", "true"][..],
                1,
                "unable to find user nosuch: no matching entries in passwd file",
            ),
            (&["-w", "etc", "s-details", "true"], 128, "Cwd must be an absolute path"),
            (&["s-details", "/etc"], 126, "exec: \"/etc\": is a directory: permission denied"),
            (&["s-details", ""], 127, "exec: \"\": executable file not found in $PATH"),
        ];
        for (arguments, code, words) in wrong {
            let ran = exec(arguments);
            assert_eq!(ran.code, code, "{arguments:?}: {}", ran.err);
            assert!(ran.out.contains(words) || ran.err.contains(words), "{arguments:?}: {} {}", ran.out, ran.err);
        }
        let id = self.exec("s-details", "exit 9", r#","User":"nobody""#);
        self.open("POST", &format!("/exec/{id}/start"), "", "{}").rest();
        self.wait_for_exec(&id, r#""ExitCode":9"#);
        let (_, inspect) = self.api("GET", &format!("/exec/{id}/json"), "");
        for part in
            [r#""Running":false"#, r#""user":"nobody""#, r#""entrypoint":"sh""#, r#""arguments":["-c","exit 9"]"#]
        {
            assert!(inspect.contains(part), "{inspect}");
        }
        assert!(!inspect.contains(r#""Pid":0"#), "{inspect}");
        assert_eq!(self.ok(&["inspect", "-f", "{{.ExecIDs}}", "s-details"]), "[]", "what has ended is not listed");
        assert_eq!(self.api("GET", &format!("/exec/{}/json", &id[..12]), "").0, 404, "ids are not shortened");
        self.remove("s-details");
    }

    fn statistics(&self) {
        self.run("s-stats", &["-m", "64m", "--pids-limit", "50"], &["sleep", "1000"]);
        let once = |query: &str| self.api("GET", &format!("/containers/s-stats/stats?stream=0{query}"), "");
        let (status, text) = once("&one-shot=1");
        assert_eq!(status, 200, "{text}");
        assert!(text.contains(r#""limit":67108864"#) && text.contains(r#""limit":50"#), "{text}");
        assert!(text.contains(r#""preread":"0001-01-01T00:00:00Z""#), "{text}");
        assert!(!once("").1.contains(r#""preread":"0001-01-01T00:00:00Z""#), "a reading from before goes with it");
        let mut stream = self.open("GET", "/containers/s-stats/stats", "", "");
        stream.until(b"\"preread\":\"0001");
        stream.until(b"\"preread\":\"20");
        drop(stream);
        let table = ["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.NetIO}}", "s-stats"];
        assert_eq!(self.ok(&table), "s-stats 1 0B / 0B");
        self.ok(&["stop", "-t", "0", "s-stats"]);
        assert!(once("").1.contains(r#""memory_stats":{}"#));
        let both = self.api("GET", "/containers/s-stats/stats?stream=1&one-shot=1", "");
        assert_eq!(both, (400, r#"{"message":"cannot have stream=true and one-shot=true"}"#.to_owned()));
        self.remove("s-stats");
    }

    fn wait_for_exec(&self, id: &str, wanted: &str) {
        let begun = std::time::Instant::now();
        while !self.api("GET", &format!("/exec/{id}/json"), "").1.contains(wanted) {
            assert!(begun.elapsed() < LIMIT, "{id} has not come to {wanted}");
        }
    }

    fn refusals(&self) {
        self.run("s-verbs", &[], &["sleep", "1000"]);
        let said = |code: u16, text: &str| (code, format!(r#"{{"message":"{text}"}}"#));
        let post = |path: &str| self.api("POST", &format!("/containers/{path}"), "");
        let kill = "cannot kill container: s-verbs:";
        assert_eq!(post("s-verbs/kill?signal=SIGFOO"), said(400, &format!("{kill} invalid signal: SIGFOO")));
        assert_eq!(post("s-verbs/kill?signal=0"), said(400, &format!("{kill} invalid signal: 0")));
        let number = format!("{kill} the linux daemon does not support signal 65");
        assert_eq!(post("s-verbs/kill?signal=65"), said(400, &number));
        assert_eq!(post("s-verbs/kill?signal=winch").0, 204);
        assert_eq!(post("s-none/kill"), said(404, "cannot kill container: s-none: No such container: s-none"));
        assert_eq!(post("s-verbs/stop?signal=FOO"), said(500, "cannot stop container: s-verbs: invalid signal: FOO"));
        let restart = "Cannot restart container s-verbs: invalid signal: FOO";
        assert_eq!(post("s-verbs/restart?signal=FOO"), said(500, restart));
        assert_eq!(post("s-verbs/resize?h=x&w=1").1, r#"{"message":"invalid resize height \"x\": invalid syntax"}"#);
        let name =
            "Error when allocating new name: Invalid container name (/b!d), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed";
        assert_eq!(post("s-verbs/rename?name=b!d"), said(400, name));
        assert!(post("s-verbs/rename?name=s-verbs").0 == 400);
        let link = self.api("DELETE", "/containers/s-verbs?link=1", "");
        assert_eq!(link, said(500, "Conflict, cannot remove the default link name of the container"));
        let running = "cannot remove container \\\"s-verbs\\\": container is running: stop the container before removing or force remove";
        assert_eq!(self.api("DELETE", "/containers/s-verbs", ""), said(409, running));
        self.ok(&["pause", "s-verbs"]);
        let paused = self.api("POST", "/containers/s-verbs/exec", r#"{"Cmd":["true"]}"#);
        assert_eq!(paused, said(409, "Container s-verbs is paused, unpause the container before exec"));
        self.ok(&["unpause", "s-verbs"]);
        self.remove("s-verbs");
        let script = "echo x > /new; rm /etc/group; mkdir -p /d/e; touch /etc/passwd; rm -r /data; mkdir /data";
        self.ok(&["run", "--name", "s-diff", "--network", "none", "busybox", "sh", "-c", script]);
        let mut changes: Vec<String> = self.ok(&["diff", "s-diff"]).lines().map(str::to_owned).collect();
        changes.sort();
        let gone = changes.iter().any(|line| line == "D /data/from-image");
        changes.retain(|line| !line.contains("/data"));
        assert_eq!(changes, ["A /d", "A /d/e", "A /new", "C /etc", "C /etc/passwd", "D /etc/group"]);
        assert!(gone, "what an emptied directory had is gone");
        self.remove("s-diff");
    }
}
