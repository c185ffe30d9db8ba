//! The API as it is on the wire: raw HTTP on the Unix socket. Headers, versions, status codes, error bodies, streams.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::golden::Golden;
use compat_tests::http::{self, Response};
use compat_tests::{Case, Suite, tests};
use serde_json::{Map, Value, json};

fn main() -> ExitCode {
    Suite {
        name: "api",
        flags: &[],
        tests: tests![
            ping,
            ping_builder,
            ping_head,
            version_prefixes,
            version,
            info,
            every_endpoint_is_known,
            unknown_paths,
            container_errors,
            create_errors,
            attach_errors,
            create_bodies,
            other_errors,
            status_codes,
            bodies_and_types,
            options_method,
        ],
    }
    .main()
}

const NEWEST: &str = "1.51";

fn ping(t: &Case<'_>) -> Result<()> {
    let answer = t.http("GET", "/_ping")?;
    assert_eq!((answer.status, answer.text().as_str()), (200, "OK"));
    for (name, value) in [
        ("api-version", NEWEST),
        ("ostype", "linux"),
        ("docker-experimental", "false"),
        ("swarm", "inactive"),
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("pragma", "no-cache"),
        ("content-type", "text/plain; charset=utf-8"),
        ("content-length", "2"),
    ] {
        assert_eq!(answer.header(name), value, "{name}");
    }
    let server = answer.header("server");
    assert!(server.starts_with("Docker/") && server.ends_with(" (linux)"), "{server}");
    Ok(())
}

/// 2 where BuildKit builds.
fn ping_builder(t: &Case<'_>) -> Result<()> {
    assert_eq!(t.http("GET", "/_ping")?.header("builder-version"), "2");
    Ok(())
}

fn ping_head(t: &Case<'_>) -> Result<()> {
    let (get, head) = (t.http("GET", "/_ping")?, t.http("HEAD", "/_ping")?);
    assert_eq!((head.status, head.header("content-length")), (200, "0"));
    for name in ["api-version", "ostype", "docker-experimental", "builder-version", "swarm", "server", "cache-control"]
    {
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
    Ok(())
}

fn version_prefixes(t: &Case<'_>) -> Result<()> {
    for (path, status, message) in [
        ("/v1.24/_ping", 200, "OK"),
        ("/v1.51/_ping", 200, "OK"),
        (
            "/v1.23/info",
            400,
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
        ),
        ("/v1.99/info", 400, "client version 1.99 is too new. Maximum supported API version is 1.51"),
        ("/v2/info", 400, "client version 2 is too new. Maximum supported API version is 1.51"),
        ("/v1.52/_ping", 400, "client version 1.52 is too new. Maximum supported API version is 1.51"),
        ("/vnope/info", 404, "page not found"),
        ("/v/info", 404, "page not found"),
    ] {
        let answer = t.http("GET", path)?;
        assert_eq!((answer.status, answer.message().trim_end()), (status, message), "{path}");
        if status != 404 {
            assert_eq!(answer.header("api-version"), NEWEST, "{path}");
        }
    }
    Ok(())
}

/// Names and types of everything in `value`.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(object) => {
            object.iter().map(|(key, value)| (key.clone(), shape(value))).collect::<Map<_, _>>().into()
        }
        Value::Array(list) => list.first().map(shape).into_iter().collect(),
        Value::String(_) => "string".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "bool".into(),
        Value::Null => Value::Null,
    }
}

fn version(t: &Case<'_>) -> Result<()> {
    let value = t.http("GET", "/version")?.json()?;
    assert_eq!((&value["ApiVersion"], &value["MinAPIVersion"]), (&NEWEST.into(), &"1.24".into()));
    assert_eq!((&value["Os"], &value["Components"][0]["Name"]), (&"linux".into(), &"Engine".into()));
    let mut top = shape(&value);
    // Which programs a daemon is made of is its own business; what is said of the engine is not.
    top["Components"] = shape(&value["Components"][0]);
    Golden::new(t).check(t, "version-keys", &top)
}

fn info(t: &Case<'_>) -> Result<()> {
    let value = t.http("GET", "/info")?.json()?;
    let mut keys = shape(&value);
    for name in ["DriverStatus", "Runtimes", "SecurityOptions", "Warnings", "RegistryConfig", "Plugins", "Containerd"] {
        keys[name] = Value::Null;
    }
    Golden::new(t).check(t, "info-keys", &keys)?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    assert_eq!(value["KernelVersion"], kernel.trim());
    assert_eq!(value["NCPU"], std::thread::available_parallelism()?.get());
    for (name, wanted) in [
        ("OSType", json!("linux")),
        ("LoggingDriver", json!("json-file")),
        ("Driver", json!(if t.is_ours() { "erofs" } else { "overlay2" })),
        ("DefaultRuntime", json!("runc")),
        ("IndexServerAddress", json!("https://index.docker.io/v1/")),
        ("Swarm", value["Swarm"].clone()),
        ("LiveRestoreEnabled", json!(false)),
        ("Isolation", json!("")),
        ("InitBinary", json!("docker-init")),
        ("ExperimentalBuild", json!(false)),
    ] {
        assert_eq!(value[name], wanted, "{name}");
    }
    assert_eq!(value["Swarm"]["LocalNodeState"], "inactive");
    Ok(())
}

/// Every endpoint of the API up to 1.51 answers something other than that the page is not there.
fn every_endpoint_is_known(t: &Case<'_>) -> Result<()> {
    let mut unknown = Vec::new();
    let table = include_str!("../data/endpoints.txt");
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let (method, pattern) = line.split_once(' ').context("method and path")?;
        // Nothing may happen: what would is asked for in a way that is refused, or for nothing.
        let path = pattern.replace("{}", "compat-nope");
        let path = if path.ends_with("/prune") { format!("{path}?filters=nope") } else { path };
        let path = match path.as_str() {
            "/events" => "/events?since=1&until=1".to_owned(),
            "/debug/pprof/profile" | "/debug/pprof/trace" => format!("{path}?seconds=0"),
            _ => path,
        };
        let headers: &[(&str, &str)] = if method == "POST" { &[("Content-Type", "application/json")] } else { &[] };
        let body: &[u8] = if method == "POST" { b"{" } else { b"" };
        let answer = http::open(&t.host().socket, method, &path, headers, body)?.head;
        if answer.status == 404 && t.http(method, &path)?.message() == "page not found" {
            unknown.push(format!("{method} {path}"));
        }
    }
    // The debug endpoints are there only when the daemon runs with --debug.
    unknown.retain(|line| t.is_ours() || !line.contains("/debug/"));
    ensure!(unknown.is_empty(), "unknown: {unknown:?}");
    Ok(())
}

fn unknown_paths(t: &Case<'_>) -> Result<()> {
    for (method, path) in [
        ("GET", "/nope"),
        ("GET", "/v1.51/nope"),
        ("GET", "/"),
        ("PATCH", "/info"),
        ("DELETE", "/info"),
        ("POST", "/info"),
        ("GET", "/containers"),
        ("GET", "/containers/create"),
        ("PUT", "/containers/json"),
        ("GET", "/images"),
    ] {
        let answer = t.http(method, path)?;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (404, "{\"message\":\"page not found\"}\n"),
            "{method} {path}"
        );
        assert_eq!(answer.header("content-type"), "application/json", "{method} {path}");
    }
    Ok(())
}

/// What an answer says, for golden files.
fn told(answer: &Response) -> Value {
    let body = answer.json().unwrap_or_else(|_| answer.text().into());
    json!({"status": answer.status, "type": answer.header("content-type"), "body": body})
}

/// A path as clients send it: what JSON needs is percent-encoded.
fn encoded(path: &str) -> String {
    let escape = |c: char| match c {
        '{' | '}' | '"' | '[' | ']' => format!("%{:02X}", u32::from(c)),
        other => other.to_string(),
    };
    path.chars().map(escape).collect()
}

/// Sends requests written as `METHOD PATH [BODY]` and compares all answers with the golden file `name`.
fn check_requests(t: &Case<'_>, name: &str, requests: &[&str]) -> Result<()> {
    let mut all = Map::new();
    for request in requests {
        let mut parts = request.splitn(3, ' ');
        let method = parts.next().unwrap_or_default();
        let path = encoded(&parts.next().unwrap_or_default().replace('~', t.prefix()));
        let answer = match parts.next() {
            Some(body) => {
                let body = body.replace("~image", t.image()).replace('~', t.prefix());
                http::request(
                    &t.host().socket,
                    method,
                    &path,
                    &[("Content-Type", "application/json")],
                    body.as_bytes(),
                )?
            }
            None => t.http(method, &path).with_context(|| (*request).to_owned())?,
        };
        ensure!(all.insert((*request).to_owned(), told(&answer)).is_none(), "{request} stands there twice");
    }
    Golden::new(t).check(t, name, &Value::Object(all))
}

fn container_errors(t: &Case<'_>) -> Result<()> {
    t.sleeper("up", &[])?;
    t.create("created", &[], &["true"])?;
    check_requests(
        t,
        "api-container-errors",
        &[
            "GET /containers/nope/json",
            "GET /containers/nope/top",
            "GET /containers/nope/logs?stdout=1",
            "GET /containers/nope/changes",
            "POST /containers/nope/start",
            "POST /containers/nope/stop",
            "POST /containers/nope/restart",
            "POST /containers/nope/kill",
            "POST /containers/nope/pause",
            "POST /containers/nope/unpause",
            "POST /containers/nope/rename?name=x1",
            "POST /containers/nope/wait",
            "POST /containers/nope/attach",
            "POST /containers/nope/resize?h=1&w=1",
            "DELETE /containers/nope",
            "POST /containers/nope/exec {\"Cmd\":[\"true\"]}",
            "POST /exec/nope/start {}",
            "POST /exec/nope/resize?h=1&w=1",
            "GET /containers/~-up/logs",
            "GET /containers/~-up/logs?stdout=1&tail=nope",
            "GET /containers/~-up/logs?stdout=1&since=nope",
            "POST /containers/~-up/start",
            "POST /containers/~-created/stop",
            "POST /containers/~-created/kill",
            "POST /containers/~-created/pause",
            "POST /containers/~-created/unpause",
            "POST /containers/~-up/unpause",
            "POST /containers/~-up/kill?signal=NOPE",
            "POST /containers/~-up/kill?signal=99",
            "POST /containers/~-up/stop?t=nope",
            "POST /containers/~-up/restart?t=nope",
            "POST /containers/~-up/resize",
            "POST /containers/~-up/resize?h=a&w=b",
            "POST /containers/~-created/resize?h=1&w=1",
            "POST /containers/~-up/rename",
            "POST /containers/~-up/rename?name=",
            "POST /containers/~-up/rename?name=~-created",
            "DELETE /containers/~-up",
            "POST /containers/~-up/wait?condition=nope",
            "POST /containers/~-up/exec {}",
            "POST /containers/~-up/exec {\"Cmd\":[]}",
            "POST /containers/~-up/exec",
            "POST /containers/~-created/exec {\"Cmd\":[\"true\"]}",
            "GET /containers/~-created/top",
            "GET /containers/~-up/top?ps_args=-o%20nope",
            "POST /containers/~-up/start {\"Binds\":[]}",
            "POST /containers/~-up/start {}",
            "GET /containers/json?limit=nope",
            "GET /containers/json?filters=nope",
            "GET /containers/json?filters={\"nope\":[\"x\"]}",
            "GET /containers/json?filters={\"status\":[\"nope\"]}",
            "GET /containers/json?filters={\"status\":{\"nope\":true}}",
            "GET /containers/json?filters={\"exited\":[\"nope\"]}",
            "POST /containers/prune?filters=nope",
            "POST /containers/prune?filters={\"nope\":[\"x\"]}",
        ],
    )
}

fn attach_errors(t: &Case<'_>) -> Result<()> {
    t.sleeper("up", &[])?;
    t.create("created", &[], &["true"])?;
    let requests =
        ["POST /containers/~-up/attach?detachKeys=nope&stream=1", "POST /containers/~-created/attach?stream=0&logs=0"];
    check_requests(t, "api-attach-errors", &requests)
}

fn create_errors(t: &Case<'_>) -> Result<()> {
    let host = |inner: &str| {
        format!("POST /containers/create {{\"Image\":\"~image\",\"HostConfig\":{{\"NetworkMode\":\"none\",{inner}}}}}")
    };
    let requests = [
        "POST /containers/create".to_owned(),
        "POST /containers/create {".to_owned(),
        "POST /containers/create []".to_owned(),
        "POST /containers/create {}".to_owned(),
        "POST /containers/create {} {}".to_owned(),
        "POST /containers/create null".to_owned(),
        "POST /containers/create {\"Image\":1}".to_owned(),
        "POST /containers/create {\"Image\":\"UPPER\"}".to_owned(),
        "POST /containers/create {\"Image\":\"compat-nope\"}".to_owned(),
        "POST /containers/create {\"Image\":\"compat-nope@sha256:nope\"}".to_owned(),
        "POST /containers/create?name=a%20b {\"Image\":\"~image\"}".to_owned(),
        "POST /containers/create {\"Image\":\"~image\",\"Cmd\":{}}".to_owned(),
        "POST /containers/create {\"Image\":\"~image\",\"ExposedPorts\":{\"nope\":{}}}".to_owned(),
        "POST /containers/create {\"Image\":\"~image\",\"StopSignal\":\"NOPE\"}".to_owned(),
        "POST /containers/create {\"Image\":\"~image\",\"WorkingDir\":\"rel\"}".to_owned(),
        "POST /containers/create {\"Image\":\"~image\",\"Env\":[\"=x\"]}".to_owned(),
        "POST /containers/create {\"Image\":\"~image\",\"Hostname\":\"-bad-\"}".to_owned(),
        "POST /containers/create {\"Image\":\"~image\",\"Healthcheck\":{\"Interval\":1}}".to_owned(),
        "POST /containers/create {\"Image\":\"~image\",\"HostConfig\":{\"NetworkMode\":\"nope\",\"Memory\":1}}"
            .to_owned(),
        host("\"Memory\":\"x\""),
        host("\"Memory\":-1"),
        host("\"Memory\":1048576"),
        host("\"NanoCpus\":-1"),
        host("\"CpuShares\":-1"),
        host("\"CpusetCpus\":\"nope\""),
        host("\"CpusetMems\":\"nope\""),
        host("\"PidsLimit\":1.5"),
        host("\"ShmSize\":-1"),
        host("\"OomScoreAdj\":5000"),
        host("\"RestartPolicy\":{\"Name\":\"nope\"}"),
        host("\"RestartPolicy\":{\"Name\":\"on-failure\",\"MaximumRetryCount\":-1}"),
        host("\"AutoRemove\":true,\"RestartPolicy\":{\"Name\":\"always\"}"),
        host("\"Binds\":[\"\"]"),
        host("\"Binds\":[\":\"]"),
        host("\"Binds\":[\"/a\"]"),
        host("\"Binds\":[\"/a:/b:/c:/d\"]"),
        host("\"Binds\":[\"/a:b\"]"),
        host("\"Binds\":[\"/a:/\"]"),
        host("\"Binds\":[\"/a:/b:ro,rw\"]"),
        host("\"Binds\":[\"/a:/b\",\"/c:/b\"]"),
        host("\"Mounts\":[{}]"),
        host("\"Mounts\":[{\"Type\":\"nope\",\"Target\":\"/x\"}]"),
        host("\"Mounts\":[{\"Type\":\"bind\",\"Target\":\"/x\"}]"),
        host("\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"/nope\",\"Target\":\"/x\"}]"),
        host("\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"rel\",\"Target\":\"/x\"}]"),
        host("\"Mounts\":[{\"Type\":\"volume\",\"Source\":\"a/b\",\"Target\":\"/x\"}]"),
        host("\"Mounts\":[{\"Type\":\"volume\"}]"),
        host("\"Mounts\":[{\"Type\":\"tmpfs\",\"Target\":\"/x\",\"Source\":\"y\"}]"),
        host("\"Mounts\":[{\"Type\":\"tmpfs\",\"Target\":\"/x\",\"VolumeOptions\":{}}]"),
        host(
            "\"Mounts\":[{\"Type\":\"bind\",\"Source\":\"/tmp\",\"Target\":\"/x\",\"BindOptions\":{\"Propagation\":\"nope\"}}]",
        ),
        host("\"Tmpfs\":{\"rel\":\"\"}"),
        host("\"Tmpfs\":{\"/x\":\"nope\"}"),
        host("\"CapAdd\":[\"NOPE\"]"),
        host("\"CapDrop\":[\"NOPE\"]"),
        host("\"SecurityOpt\":[\"nope\"]"),
        host("\"SecurityOpt\":[\"seccomp=nope\"]"),
        host("\"IpcMode\":\"nope\""),
        host("\"PidMode\":\"nope\""),
        host("\"UTSMode\":\"nope\""),
        host("\"UsernsMode\":\"nope\""),
        host("\"CgroupnsMode\":\"nope\""),
        host("\"Isolation\":\"nope\""),
        host("\"Runtime\":\"nope\""),
        host("\"LogConfig\":{\"Type\":\"nope\"}"),
        host("\"LogConfig\":{\"Type\":\"json-file\",\"Config\":{\"nope\":\"1\"}}"),
        host("\"LogConfig\":{\"Type\":\"json-file\",\"Config\":{\"max-size\":\"nope\"}}"),
        host("\"LogConfig\":{\"Type\":\"json-file\",\"Config\":{\"max-file\":\"0\"}}"),
        host("\"LogConfig\":{\"Type\":\"json-file\",\"Config\":{\"max-file\":\"2\"}}"),
        host("\"Ulimits\":[{\"Name\":\"nope\",\"Soft\":1,\"Hard\":1}]"),
        host("\"Ulimits\":[{\"Name\":\"nofile\",\"Soft\":2,\"Hard\":1}]"),
        host("\"Sysctls\":{\"nope\":\"1\"}"),
        host("\"Devices\":[{\"PathOnHost\":\"/dev/nope\"}]"),
        host("\"DeviceCgroupRules\":[\"nope\"]"),
        host("\"ExtraHosts\":[\"nope\"]"),
        host("\"Dns\":[\"nope\"]"),
        host("\"PortBindings\":{\"nope\":[{}]}"),
        host("\"PortBindings\":{\"80/tcp\":[{\"HostPort\":\"nope\"}]}"),
        host("\"PortBindings\":{\"80/tcp\":[{\"HostIp\":\"nope\"}]}"),
        host("\"StorageOpt\":{\"size\":\"1G\"}"),
        host("\"VolumesFrom\":[\"nope\"]"),
        host("\"Links\":[\"nope\"]"),
        host("\"GroupAdd\":[\"nope\"]"),
        host("\"KernelMemory\":4096"),
        host("\"MemorySwappiness\":101"),
        host("\"MemorySwap\":1048576"),
        host("\"BlkioWeight\":5"),
        host("\"BlkioDeviceReadBps\":[{\"Path\":\"/dev/nope\",\"Rate\":1}]"),
    ];
    let requests: Vec<&str> = requests.iter().map(String::as_str).collect();
    let names = |answer: &Value| answer["body"]["Id"].as_str().map(str::to_owned);
    // Some are taken: those containers have names of their own making and go by their ids.
    let mut all = Map::new();
    for request in requests {
        let body = request.split_once(' ').and_then(|(_, rest)| rest.split_once(' '));
        let (path, body) = body.unwrap_or(("/containers/create", ""));
        let body = body.replace("~image", t.image());
        let headers: &[(&str, &str)] = &[("Content-Type", "application/json")];
        let answer = told(&http::request(&t.host().socket, "POST", path, headers, body.as_bytes())?);
        if let Some(id) = names(&answer) {
            t.http("DELETE", &format!("/containers/{id}?force=1&v=1"))?;
        }
        ensure!(all.insert(request.to_owned(), answer).is_none(), "{request} stands there twice");
    }
    Golden::new(t).check(t, "api-create-errors", &Value::Object(all))
}

fn create_bodies(t: &Case<'_>) -> Result<()> {
    let post = |headers: &[(&str, &str)], body: &[u8]| {
        http::request(&t.host().socket, "POST", "/containers/create", headers, body)
    };
    let wrong = post(&[("Content-Type", "text/plain")], b"{}")?;
    assert_eq!(
        (wrong.status, wrong.message().as_str()),
        (400, "unsupported Content-Type header (text/plain): must be 'application/json'")
    );
    let charset = post(&[("Content-Type", "application/json; charset=utf-8")], b"{\"Image\":\"compat-nope\"}")?;
    assert_eq!((charset.status, charset.message().as_str()), (404, "No such image: compat-nope:latest"));
    let name = t.container("made");
    let body = json!({"Image": t.image(), "HostConfig": {"NetworkMode": "none"}});
    let made = t.http_json("POST", &format!("/containers/create?name={name}"), &body)?;
    assert_eq!((made.status, made.header("content-type")), (201, "application/json"));
    let made = made.json()?;
    assert_eq!(made["Id"].as_str().map(str::len), Some(64));
    assert_eq!(made["Warnings"], json!([]));
    Ok(())
}

fn other_errors(t: &Case<'_>) -> Result<()> {
    check_requests(
        t,
        "api-other-errors",
        &[
            "GET /images/nope/json",
            "GET /images/nope/history",
            "GET /images/nope/get",
            "DELETE /images/nope",
            "GET /images/get?names=nope",
            "POST /images/nope/tag?repo=x",
            "POST /images/~-image/tag?repo=UPPER",
            "POST /images/create",
            "GET /images/json?filters=nope",
            "GET /images/json?filters={\"nope\":[\"x\"]}",
            "GET /images/json?filters={\"dangling\":[\"nope\"]}",
            "POST /images/create?fromSrc=nope&repo=UPPER",
            "GET /volumes/nope",
            "DELETE /volumes/nope",
            "DELETE /volumes/nope?force=1",
            "POST /volumes/create {\"Name\":\"a\"}",
            "POST /volumes/create {\"Name\":\"a/b\"}",
            "POST /volumes/create {\"Name\":\"~-x\",\"Driver\":\"nope\"}",
            "POST /volumes/create {\"Name\":\"~-x\",\"DriverOpts\":{\"nope\":\"1\"}}",
            "POST /volumes/create {",
            "GET /volumes?filters=nope",
            "GET /volumes?filters={\"nope\":[\"x\"]}",
            "GET /volumes?filters={\"dangling\":[\"nope\"]}",
            "POST /volumes/prune?filters={\"nope\":[\"x\"]}",
            "GET /networks/nope",
            "DELETE /networks/nope",
            "GET /networks?filters=nope",
            "DELETE /networks/host",
            "DELETE /networks/none",
            "POST /networks/create {\"Name\":\"host\"}",
            "POST /networks/create {",
            "POST /networks/nope/connect {\"Container\":\"nope\"}",
            "GET /events?filters=nope&until=1",
            "GET /events?since=nope",
            "GET /events?since=1&until=nope",
            "GET /swarm",
            "GET /nodes",
            "GET /nodes/nope",
            "GET /services",
            "GET /tasks",
            "GET /secrets",
            "GET /configs",
            "POST /swarm/leave",
            "GET /plugins/nope/json",
            "DELETE /plugins/nope",
            "POST /plugins/nope/enable?timeout=0",
            "POST /plugins/nope/disable",
            "GET /containers/nope/archive?path=/",
            "HEAD /containers/nope/archive?path=/",
            "GET /containers/nope/export",
            "GET /containers/nope/stats",
            "POST /containers/nope/update {}",
            "POST /commit?container=nope",
            "GET /containers/nope/checkpoints",
            "GET /distribution/nope%20/json",
        ],
    )
}

fn status_codes(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["sleep", "1000"])?;
    let post = |verb: &str| -> Result<(u16, String)> {
        let answer = t.http("POST", &format!("/containers/{name}/{verb}"))?;
        Ok((answer.status, answer.text()))
    };
    assert_eq!(post("start")?, (204, String::new()));
    assert_eq!(post("start")?, (304, String::new()));
    assert_eq!(post("pause")?, (204, String::new()));
    let (status, text) = post("pause")?;
    assert!(status == 409 && text.contains("is already paused"), "{status} {text}");
    assert_eq!(post("unpause")?, (204, String::new()));
    assert_eq!(post("restart?t=0")?, (204, String::new()));
    assert_eq!(post("kill")?, (204, String::new()));
    assert_eq!(t.docker(&["wait", &name]).out, "137");
    assert_eq!(post("stop")?, (304, String::new()));
    let (status, text) = post("kill")?;
    assert!(status == 409 && text.contains("is not running"), "{status} {text}");
    assert_eq!(t.http("DELETE", &format!("/containers/{name}"))?.status, 204);
    assert_eq!(t.http("DELETE", &format!("/containers/{name}?force=1"))?.status, 404);
    let volume = t.volume("v");
    let made = t.http_json("POST", "/volumes/create", &json!({"Name": volume}))?;
    assert_eq!((made.status, &made.json()?["Name"]), (201, &json!(volume)));
    assert_eq!(
        t.http_json("POST", "/volumes/create", &json!({"Name": volume}))?.status,
        201,
        "making it again is no error"
    );
    assert_eq!(t.http("DELETE", &format!("/volumes/{volume}"))?.status, 204);
    Ok(())
}

fn bodies_and_types(t: &Case<'_>) -> Result<()> {
    for path in ["/version", "/info", "/containers/json", "/images/json", "/volumes", "/networks"] {
        let answer = t.http("GET", path)?;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{path}");
        assert!(answer.text().ends_with("}\n") || answer.text().ends_with("]\n"), "{path} ends with one line end");
        for (name, value) in [("api-version", NEWEST), ("ostype", "linux"), ("docker-experimental", "false")] {
            assert_eq!(answer.header(name), value, "{path} {name}");
        }
    }
    // HTML characters stand as they are.
    let name = t.create("c", &["-l", "html=<a&b>"], &["true"])?;
    assert!(t.http("GET", &format!("/containers/{name}/json"))?.text().contains("<a&b>"));
    Ok(())
}

fn options_method(t: &Case<'_>) -> Result<()> {
    for path in ["/containers/json", "/nope"] {
        let answer = t.http("OPTIONS", path)?;
        assert_eq!((answer.status, answer.text().as_str()), (200, ""), "{path}");
    }
    Ok(())
}
