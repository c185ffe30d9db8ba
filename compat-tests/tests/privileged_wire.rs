//! Streams and upgraded connections as they are on the wire: attach, exec, logs, wait, events, archives.

use std::io::{BufRead, Read, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::http;
use compat_tests::{Case, Suite, tests};
use serde_json::{Value, json};

fn main() -> ExitCode {
    Suite {
        name: "wire",
        flags: &[],
        tests: tests![
            attach_upgrade,
            attach_old_way,
            attach_terminal,
            exec_upgrade,
            exec_stdin_half_close,
            logs_framing,
            logs_terminal,
            client_that_disappears,
            keep_alive,
            wait_conditions,
            resize,
            events_stream,
            import_and_load_streams,
        ],
    }
    .main()
}

const UPGRADE: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "tcp")];

/// The frames of a multiplexed stream: number of the stream and content.
fn frames(bytes: &[u8]) -> Result<Vec<(u8, String)>> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some((head, tail)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        ensure!(head[1..4] == [0, 0, 0] && tail.len() >= length, "bad frame {head:?} of {} bytes", tail.len());
        out.push((head[0], String::from_utf8_lossy(&tail[..length]).into_owned()));
        rest = &tail[length..];
    }
    ensure!(rest.is_empty(), "{rest:?} is left");
    Ok(out)
}

/// What frames say, by stream.
fn joined(frames: &[(u8, String)], stream: u8) -> String {
    frames.iter().filter(|(number, _)| *number == stream).map(|(_, text)| text.as_str()).collect()
}

fn attach_upgrade(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &["-i"], &["sh", "-c", "cat; echo err >&2; exit 3"])?;
    let path = format!("/containers/{name}/attach?stream=1&stdin=1&stdout=1&stderr=1");
    let mut open = http::open(&t.host().socket, "POST", &path, &UPGRADE, b"")?;
    let head = &open.head;
    assert_eq!((head.status, head.header("upgrade"), head.header("connection")), (101, "tcp", "Upgrade"));
    assert_eq!(head.header("content-type"), "application/vnd.docker.multiplexed-stream");
    assert_eq!(t.http("POST", &format!("/containers/{name}/start"))?.status, 204);
    let stream = open.reader.get_mut();
    stream.write_all(b"to stdin\n")?;
    // Half close: the container's input ends, its output goes on.
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut bytes = Vec::new();
    open.reader.read_to_end(&mut bytes)?;
    let frames = frames(&bytes)?;
    assert_eq!((joined(&frames, 1).as_str(), joined(&frames, 2).as_str()), ("to stdin\n", "err\n"));
    assert_eq!(t.http("POST", &format!("/containers/{name}/wait"))?.json()?["StatusCode"], 3);
    Ok(())
}

fn attach_old_way(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["echo", "out"])?;
    let path = format!("/containers/{name}/attach?stream=1&stdout=1&stderr=1");
    let mut open = http::open(&t.host().socket, "POST", &path, &[], b"")?;
    assert_eq!(open.head.status, 200);
    assert_eq!(open.head.header("content-type"), "application/vnd.docker.raw-stream");
    assert_eq!(open.head.header("transfer-encoding"), "", "bytes follow as they are");
    assert_eq!(t.http("POST", &format!("/containers/{name}/start"))?.status, 204);
    let mut bytes = Vec::new();
    open.reader.read_to_end(&mut bytes)?;
    assert_eq!(joined(&frames(&bytes)?, 1), "out\n");
    Ok(())
}

fn attach_terminal(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &["-t"], &["sh", "-c", "echo out; echo err >&2"])?;
    let path = format!("/containers/{name}/attach?stream=1&stdout=1&stderr=1");
    let mut open = http::open(&t.host().socket, "POST", &path, &UPGRADE, b"")?;
    assert_eq!((open.head.status, open.head.header("content-type")), (101, "application/vnd.docker.raw-stream"));
    assert_eq!(t.http("POST", &format!("/containers/{name}/start"))?.status, 204);
    let mut text = String::new();
    open.reader.read_to_string(&mut text)?;
    assert_eq!(text, "out\r\nerr\r\n");
    // Older clients are told that it is raw even when it is not.
    let again = t.create("old", &[], &["true"])?;
    let path = format!("/v1.41/containers/{again}/attach?stream=1&stdout=1");
    let open = http::open(&t.host().socket, "POST", &path, &UPGRADE, b"")?;
    assert_eq!(open.head.header("content-type"), "application/vnd.docker.raw-stream");
    Ok(())
}

/// Makes an exec; returns its id.
fn exec(t: &Case<'_>, container: &str, body: Value) -> Result<String> {
    let made = t.http_json("POST", &format!("/containers/{container}/exec"), &body)?;
    ensure!(made.status == 201, "{}", made.text());
    Ok(made.json()?["Id"].as_str().unwrap_or_default().to_owned())
}

/// Starts an exec and upgrades.
fn start_exec(t: &Case<'_>, id: &str, body: &[u8]) -> Result<http::Open> {
    let headers = [UPGRADE[0], UPGRADE[1], ("Content-Type", "application/json")];
    http::open(&t.host().socket, "POST", &format!("/exec/{id}/start"), &headers, body)
}

fn exec_upgrade(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let command = json!(["sh", "-c", "echo out; echo err >&2; exit 4"]);
    let id = exec(t, &name, json!({"AttachStdout": true, "AttachStderr": true, "Cmd": command}))?;
    let mut open = start_exec(t, &id, b"{}")?;
    assert_eq!(open.head.status, 101);
    assert_eq!(open.head.header("content-type"), "application/vnd.docker.multiplexed-stream");
    let mut bytes = Vec::new();
    open.reader.read_to_end(&mut bytes)?;
    let frames = frames(&bytes)?;
    assert_eq!((joined(&frames, 1).as_str(), joined(&frames, 2).as_str()), ("out\n", "err\n"));
    assert_eq!(t.http("GET", &format!("/exec/{id}/json"))?.json()?["ExitCode"], 4);
    let again = t.http_json("POST", &format!("/exec/{id}/start"), &json!({}))?;
    assert_eq!(again.status, 200, "the stream has begun");
    assert!(again.text().contains(&format!("exec command {id} has already run")), "{}", again.text());
    Ok(())
}

fn exec_stdin_half_close(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let id = exec(t, &name, json!({"AttachStdin": true, "AttachStdout": true, "Cmd": ["sh", "-c", "cat; echo end"]}))?;
    // Input right behind the request must not be lost, and the request's body not taken for input.
    let mut open = start_exec(t, &id, b"{\"Detach\":false}")?;
    let stream = open.reader.get_mut();
    stream.write_all(b"input\n")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut bytes = Vec::new();
    open.reader.read_to_end(&mut bytes)?;
    assert_eq!(joined(&frames(&bytes)?, 1), "input\nend\n");
    Ok(())
}

fn logs_framing(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &[], &["sh", "-c", "echo out; echo err >&2"])?;
    t.docker(&["wait", &name]).ok()?;
    let answer = t.http("GET", &format!("/containers/{name}/logs?stdout=1&stderr=1"))?;
    assert_eq!(answer.header("content-type"), "application/vnd.docker.multiplexed-stream");
    let both = frames(&answer.body)?;
    assert_eq!((joined(&both, 1).as_str(), joined(&both, 2).as_str()), ("out\n", "err\n"));
    let one = t.http("GET", &format!("/containers/{name}/logs?stderr=1&timestamps=1"))?;
    let one = frames(&one.body)?;
    let (time, text) = one[0].1.split_once(' ').context("time and text")?;
    assert_eq!((one.len(), text, time.len(), time.ends_with('Z')), (1, "err\n", 30, true), "{time}");
    Ok(())
}

fn logs_terminal(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &["-t"], &["echo", "out"])?;
    t.docker(&["wait", &name]).ok()?;
    let answer = t.http("GET", &format!("/containers/{name}/logs?stdout=1&stderr=1"))?;
    assert_eq!(answer.header("content-type"), "application/vnd.docker.raw-stream");
    assert_eq!(answer.text(), "out\r\n");
    Ok(())
}

/// A client that goes away hinders nobody.
fn client_that_disappears(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &[], &["sh", "-c", "until test -e /go; do seq 1 1000; sleep 0.01; done; exit 8"])?;
    for _ in 0..20 {
        let path = format!("/containers/{name}/attach?stream=1&stdout=1&logs=1");
        drop(http::open(&t.host().socket, "POST", &path, &UPGRADE, b"")?);
        drop(http::open(&t.host().socket, "GET", &format!("/containers/{name}/logs?follow=1&stdout=1"), &[], b"")?);
        drop(http::open(&t.host().socket, "POST", &format!("/containers/{name}/wait"), &[], b"")?);
    }
    // The container may end, and the command with it, before that is told.
    t.docker(&["exec", &name, "touch", "/go"]);
    assert_eq!(t.docker(&["wait", &name]).out, "8");
    Ok(())
}

fn keep_alive(t: &Case<'_>) -> Result<()> {
    let mut open = http::open(&t.host().socket, "GET", "/_ping", &[("Connection", "keep-alive")], b"")?;
    for _ in 0..3 {
        let mut body = [0; 2];
        open.reader.read_exact(&mut body)?;
        assert_eq!(&body, b"OK");
        open.reader.get_mut().write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")?;
        let mut line = String::new();
        while line.trim_end() != "" || line.is_empty() {
            line.clear();
            ensure!(open.reader.read_line(&mut line)? > 0, "the connection was closed");
        }
    }
    Ok(())
}

fn wait_conditions(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["sh", "-c", "exit 7"])?;
    let wait = |condition: &str| {
        http::open(&t.host().socket, "POST", &format!("/containers/{name}/wait?condition={condition}"), &[], b"")
    };
    let read = |mut open: http::Open| -> Result<String> {
        let mut text = String::new();
        open.reader.read_to_string(&mut text)?;
        Ok(text)
    };
    // Not running: at once, though it has not run.
    assert!(read(wait("not-running")?)?.contains("{\"StatusCode\":0}"));
    let next = wait("next-exit")?;
    assert_eq!((next.head.status, next.head.header("content-type")), (200, "application/json"));
    t.http("POST", &format!("/containers/{name}/start"))?;
    assert!(read(next)?.contains("{\"StatusCode\":7}"));
    let removed = wait("removed")?;
    t.http("DELETE", &format!("/containers/{name}"))?;
    assert!(read(removed)?.contains("{\"StatusCode\":7}"));
    Ok(())
}

fn resize(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &["-t"])?;
    let answer = t.http("POST", &format!("/containers/{name}/resize?h=33&w=77"))?;
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    assert_eq!(t.docker(&["exec", &name, "sh", "-c", "stty size < /proc/1/fd/0"]).out, "33 77");
    let id = exec(
        t,
        &name,
        json!({"AttachStdout": true, "Tty": true, "Cmd": ["sh", "-c", "until test -e /go; do sleep 0.01; done; stty size"]}),
    )?;
    let mut open = start_exec(t, &id, b"{\"Tty\":true}")?;
    assert_eq!(open.head.header("content-type"), "application/vnd.docker.raw-stream");
    let answer = t.http("POST", &format!("/exec/{id}/resize?h=11&w=22"))?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    t.docker(&["exec", &name, "touch", "/go"]).ok()?;
    let mut text = String::new();
    open.reader.read_to_string(&mut text)?;
    assert_eq!(text.trim(), "11 22");
    Ok(())
}

fn events_stream(t: &Case<'_>) -> Result<()> {
    let name = t.container("c");
    let path = format!("/events?filters=%7B%22container%22%3A%5B%22{name}%22%5D%7D");
    let mut open = http::open(&t.host().socket, "GET", &path, &[], b"")?;
    assert_eq!((open.head.status, open.head.header("content-type")), (200, "application/json"));
    t.create("c", &[], &["true"])?;
    let mut line = String::new();
    while !line.contains("\"create\"") {
        line.clear();
        ensure!(open.reader.read_line(&mut line)? > 0, "the stream ended");
    }
    let event: Value = serde_json::from_str(&line)?;
    assert_eq!(
        (&event["status"], &event["Type"], &event["scope"]),
        (&json!("create"), &json!("container"), &json!("local"))
    );
    assert_eq!((&event["id"], &event["from"]), (&event["Actor"]["ID"], &json!(t.image())));
    assert!(event["timeNano"].as_u64() > event["time"].as_u64());
    Ok(())
}

fn import_and_load_streams(t: &Case<'_>) -> Result<()> {
    let tag = t.tag("loaded");
    t.docker(&["tag", t.image(), &tag]).ok()?;
    let saved = t.http("GET", &format!("/images/{tag}/get"))?;
    assert_eq!((saved.status, saved.header("content-type")), (200, "application/x-tar"));
    t.docker(&["rmi", &tag]).ok()?;
    let headers = [("Content-Type", "application/x-tar")];
    let loaded = http::request(&t.host().socket, "POST", "/images/load?quiet=1", &headers, &saved.body)?;
    assert_eq!((loaded.status, loaded.header("content-type")), (200, "application/json"));
    assert_eq!(loaded.text(), format!("{{\"stream\":\"Loaded image: {tag}\\n\"}}\r\n"));
    let bad = http::request(&t.host().socket, "POST", "/images/load", &headers, b"not a tar at all")?;
    assert!(bad.status == 200 || bad.status == 500, "{}", bad.status);
    Ok(())
}
