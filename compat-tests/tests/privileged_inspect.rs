//! `inspect`, field by field: the same containers made on stock and on ours answer the same, but for what differs from run
//! to run.

use std::process::ExitCode;

use anyhow::Result;
use compat_tests::golden::Golden;
use compat_tests::{Case, Suite, tests};
use serde_json::{Value, json};

fn main() -> ExitCode {
    Suite {
        name: "inspect",
        flags: &[],
        tests: tests![
            created,
            running,
            exited,
            paused,
            failed,
            identity,
            environment_keeps_its_order,
            limits,
            security,
            mounts,
            files_and_names,
            logging,
            health,
            ports,
            host_namespaces,
            restart,
            image,
            volume,
            exec,
            list,
            with_size,
            nulls_are_taken,
            old_versions,
        ],
    }
    .main()
}

/// What differs from run to run and machine to machine. That the cgroup namespace is as the machine wants it is tested
/// in the suite `inside`.
const VOLATILE: &[&str] = &[
    "Created",
    "State.Pid",
    "Pid",
    "StartedAt",
    "FinishedAt",
    "State.StartedAt",
    "State.FinishedAt",
    "AppArmorProfile",
    "DockerVersion",
    "GraphDriver.Data",
    "NetworkSettings.SandboxKey",
    "HostConfig.CgroupnsMode",
];

fn check(t: &Case<'_>, name: &str, mut value: Value) -> Result<()> {
    if let Some(Value::Array(paths)) = value.pointer_mut("/HostConfig/MaskedPaths") {
        // One for every processor that has it.
        paths.retain(|path| !path.as_str().is_some_and(|path| path.ends_with("/thermal_throttle")));
    }
    let root = t.http("GET", "/info")?.json()?["DockerRootDir"].as_str().unwrap_or_default().to_owned();
    Golden::new(t).replacing(&root, "<root>").volatile(VOLATILE).check(t, &format!("inspect-{name}"), &value)
}

fn created(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["echo", "a", "b"])?;
    check(t, "created", t.inspect_json(&name)?)
}

fn running(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    check(t, "running", t.inspect_json(&name)?)
}

fn exited(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &[], &["sh", "-c", "exit 3"])?;
    t.docker(&["wait", &name]).ok()?;
    check(t, "exited", t.inspect_json(&name)?)
}

fn paused(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    t.docker(&["pause", &name]).ok()?;
    check(t, "paused", t.inspect_json(&name)?["State"].take())
}

fn failed(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["nope"])?;
    assert_eq!(t.http("POST", &format!("/containers/{name}/start"))?.status, 400);
    check(t, "failed", t.inspect_json(&name)?["State"].take())
}

fn identity(t: &Case<'_>) -> Result<()> {
    let options = [
        "--hostname",
        "box",
        "--domainname",
        "example.org",
        "-u",
        "user",
        "--group-add",
        "extra",
        "-e",
        "B=2",
        "-e",
        "A=1",
        "-w",
        "/tmp",
        "-l",
        "b=2",
        "-l",
        "a=1",
        "--entrypoint",
        "/bin/sh",
        "-i",
        "-t",
        "--stop-signal",
        "USR1",
        "--stop-timeout",
        "7",
        "--init",
        "--annotation",
        "x=y",
        "--add-host",
        "other:192.0.2.1",
        "--dns",
        "192.0.2.2",
        "--dns-search",
        "example.org",
        "--dns-option",
        "ndots:1",
    ];
    let name = t.create("c", &options, &["-c", "true"])?;
    let mut inspect = t.inspect_json(&name)?;
    // The CLI sends them in an order of its own, another one every now and then.
    if let Some(environment) = inspect.pointer_mut("/Config/Env").and_then(Value::as_array_mut) {
        environment.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    check(t, "identity", inspect)
}

fn environment_keeps_its_order(t: &Case<'_>) -> Result<()> {
    let name = t.container("c");
    let body = json!({"Image": t.image(), "Env": ["B=2", "A=1", "C=3"]});
    assert_eq!(t.http_json("POST", &format!("/containers/create?name={name}"), &body)?.status, 201);
    let environment = t.inspect_json(&name)?["Config"]["Env"].take();
    assert_eq!(environment, json!(["B=2", "A=1", "C=3"]));
    Ok(())
}

fn limits(t: &Case<'_>) -> Result<()> {
    let options = [
        "-m",
        "64m",
        "--memory-reservation",
        "32m",
        "--memory-swap",
        "128m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "--cpuset-mems",
        "0",
        "--pids-limit",
        "50",
        "--ulimit",
        "nofile=10:20",
        "--ulimit",
        "core=0",
        "--shm-size",
        "16m",
        "--oom-score-adj",
        "100",
        "--device-write-bps",
        "/dev/null:1mb",
        "--device-cgroup-rule",
        "c 42:* rwm",
        "--cgroup-parent",
        "/compat-parent",
    ];
    let name = t.create("c", &options, &["true"])?;
    check(t, "limits", t.inspect_json(&name)?["HostConfig"].take())
}

fn security(t: &Case<'_>) -> Result<()> {
    let options = [
        "--cap-add",
        "sys_admin",
        "--cap-add",
        "CAP_NET_ADMIN",
        "--cap-drop",
        "mknod",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        "seccomp=unconfined",
        "--read-only",
        "--device",
        "/dev/null:/dev/other:r",
        "--sysctl",
        "net.ipv4.ip_forward=1",
    ];
    let name = t.create("c", &options, &["true"])?;
    check(t, "security", t.inspect_json(&name)?["HostConfig"].take())?;
    let privileged = t.create("p", &["--privileged"], &["true"])?;
    check(t, "privileged", t.inspect_json(&privileged)?["HostConfig"].take())?;
    let visible = t.create("v", &["--security-opt", "systempaths=unconfined"], &["true"])?;
    check(t, "systempaths", t.inspect_json(&visible)?["HostConfig"].take())
}

fn mounts(t: &Case<'_>) -> Result<()> {
    let (volume, named) = (t.volume("v"), t.volume("w"));
    let (shared, _) = t.files("shared")?;
    let options = [
        "-v",
        &format!("{volume}:/a:ro"),
        "-v",
        &format!("{shared}:/b"),
        "-v",
        "/anonymous",
        "--tmpfs",
        "/c:size=1m",
        "--mount",
        &format!("type=volume,source={named},target=/d,volume-nocopy,readonly"),
        "--mount",
        &format!("type=bind,source={shared},target=/e,bind-propagation=rslave"),
        "--mount",
        "type=tmpfs,target=/f,tmpfs-size=1048576,tmpfs-mode=0700",
        "--mount",
        &format!("type=volume,target=/g,source={volume},volume-label=x=y"),
    ];
    let name = t.create("c", &options, &["true"])?;
    let mut value = t.inspect_json(&name)?;
    // In any order: the CLI sends them from a map, and stock lists mounts from one.
    if let Some(binds) = value.pointer_mut("/HostConfig/Binds").and_then(Value::as_array_mut) {
        binds.sort_by_key(|bind| !bind.to_string().contains(":/a"));
    }
    if let Some(mounts) = value["Mounts"].as_array_mut() {
        mounts.sort_by_key(|mount| mount["Destination"].to_string());
    }
    check(
        t,
        "mounts",
        serde_json::json!({
            "Mounts": value["Mounts"], "HostConfig": value["HostConfig"], "Volumes": value["Config"]["Volumes"],
        }),
    )
}

fn files_and_names(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let id = t.inspect(&name, "{{.Id}}");
    // By id, by a prefix, by name, by name with slash.
    for way in [&id, &id[..12], &id[..7], &name, &format!("/{name}")] {
        assert_eq!(t.inspect(way, "{{.Name}}"), format!("/{name}"), "{way}");
    }
    let value = t.inspect_json(&name)?;
    for file in ["HostsPath", "HostnamePath", "ResolvConfPath"] {
        let path = value[file].as_str().unwrap_or_default();
        assert!(t.host().path(path.as_ref()).is_file(), "{file} {path}");
    }
    assert_eq!(value["Image"], t.http("GET", &format!("/images/{}/json", t.image()))?.json()?["Id"]);
    Ok(())
}

fn logging(t: &Case<'_>) -> Result<()> {
    let options = ["--log-driver", "json-file", "--log-opt", "max-size=1m", "--log-opt", "max-file=3"];
    let name = t.create("c", &options, &["true"])?;
    check(t, "log-config", t.inspect_json(&name)?["HostConfig"]["LogConfig"].take())?;
    let none = t.create("n", &["--log-driver", "none"], &["true"])?;
    let value = t.inspect_json(&none)?;
    assert_eq!((&value["LogPath"], &value["HostConfig"]["LogConfig"]["Type"]), (&"".into(), &"none".into()));
    Ok(())
}

fn health(t: &Case<'_>) -> Result<()> {
    let options = [
        "--health-cmd",
        "true",
        "--health-interval",
        "1h",
        "--health-retries",
        "2",
        "--health-timeout",
        "3s",
        "--health-start-period",
        "4s",
        "--health-start-interval",
        "5s",
    ];
    let name = t.create("c", &options, &["true"])?;
    check(t, "health", t.inspect_json(&name)?["Config"].take())?;
    let none = t.create("n", &["--no-healthcheck"], &["true"])?;
    check(t, "no-health", t.inspect_json(&none)?["Config"].take())
}

fn ports(t: &Case<'_>) -> Result<()> {
    let options = ["-p", "127.0.0.1:8080:80", "-p", "53/udp", "--expose", "443", "-P"];
    let name = t.create("c", &options, &["true"])?;
    let value = t.inspect_json(&name)?;
    check(
        t,
        "ports",
        serde_json::json!({
            "ExposedPorts": value["Config"]["ExposedPorts"], "PortBindings": value["HostConfig"]["PortBindings"],
            "PublishAllPorts": value["HostConfig"]["PublishAllPorts"], "Ports": value["NetworkSettings"]["Ports"],
        }),
    )
}

fn host_namespaces(t: &Case<'_>) -> Result<()> {
    let options = ["--network", "host", "--ipc", "host", "--pid", "host", "--uts", "host", "--cgroupns", "host"];
    let name = t.create("c", &options, &["true"])?;
    let mut value = t.inspect_json(&name)?;
    // The host's own name.
    value["Config"]["Hostname"] = Value::Null;
    check(t, "host-namespaces", value)?;
    let other = t.sleeper("o", &["--ipc", "shareable"])?;
    let join = format!("container:{other}");
    let joins = t.create("j", &["--network", &join, "--ipc", &join, "--pid", &join], &["true"])?;
    check(t, "joins", t.inspect_json(&joins)?)
}

fn restart(t: &Case<'_>) -> Result<()> {
    for policy in ["no", "always", "unless-stopped", "on-failure", "on-failure:5"] {
        let what = policy.replace(':', "-");
        let name = t.create(&what, &["--restart", policy], &["true"])?;
        check(t, &format!("restart-{what}"), t.inspect_json(&name)?["HostConfig"]["RestartPolicy"].take())?;
    }
    Ok(())
}

fn image(t: &Case<'_>) -> Result<()> {
    let tag = t.tag("other");
    t.docker(&["tag", t.image(), &tag]).ok()?;
    let mut value = t.http("GET", &format!("/images/{}/json", t.image()))?.json()?;
    // The image holds this machine's busybox.
    value["Size"] = Value::Null;
    value["Metadata"]["LastTagTime"] = Value::Null;
    if let Some(tags) = value["RepoTags"].as_array_mut() {
        tags.sort_by_key(Value::to_string);
    }
    check(t, "image", value)?;
    let mut history = t.http("GET", &format!("/images/{}/history", t.image()))?.json()?;
    history[0]["Created"] = Value::Null;
    history[0]["Size"] = Value::Null;
    history[0]["Tags"] = Value::Null;
    check(t, "image-history", history)
}

fn volume(t: &Case<'_>) -> Result<()> {
    let name = t.volume("v");
    t.docker(&["volume", "create", "--label", "a=1", &name]).ok()?;
    let mut value = t.http("GET", &format!("/volumes/{name}"))?.json()?;
    value["CreatedAt"] = Value::Null;
    check(t, "volume", value)?;
    let plain = t.volume("plain");
    t.docker(&["volume", "create", &plain]).ok()?;
    let mut value = t.http("GET", &format!("/volumes/{plain}"))?.json()?;
    value["CreatedAt"] = Value::Null;
    check(t, "volume-plain", value)
}

fn exec(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    let body = serde_json::json!({
        "AttachStdout": true, "Cmd": ["sh", "-c", "exit 3"], "Env": ["A=1"], "WorkingDir": "/tmp", "User": "user",
    });
    let made = t.http_json("POST", &format!("/containers/{name}/exec"), &body)?;
    assert_eq!(made.status, 201);
    let id = made.json()?["Id"].as_str().unwrap_or_default().to_owned();
    let path = format!("/exec/{id}/json");
    check(t, "exec-created", t.http("GET", &path)?.json()?)?;
    let started = t.http_json("POST", &format!("/exec/{id}/start"), &serde_json::json!({"Detach": true}))?;
    assert_eq!((started.status, started.text().as_str()), (200, ""));
    let begun = std::time::Instant::now();
    let mut value = t.http("GET", &path)?.json()?;
    while value["Running"] == true {
        assert!(begun.elapsed() < compat_tests::LIMIT, "the exec does not end");
        value = t.http("GET", &path)?.json()?;
    }
    value["Pid"] = Value::Null;
    check(t, "exec-ended", value)?;
    assert_eq!(t.http("GET", "/exec/nope/json")?.message(), "No such exec instance: nope");
    Ok(())
}

/// The one container of this test in `GET /containers/json`.
fn entry(t: &Case<'_>, query: &str, name: &str) -> Result<Value> {
    let filter = format!("filters=%7B%22name%22%3A%5B%22{name}%22%5D%7D");
    let mut list = t.http("GET", &format!("/containers/json?all=1&{query}&{filter}"))?.json()?;
    assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
    let mut entry = list[0].take();
    entry["Created"] = Value::Null;
    Ok(entry)
}

fn list(t: &Case<'_>) -> Result<()> {
    let volume = t.volume("v");
    let options = ["-l", "a=1", "-v", &format!("{volume}:/v"), "--expose", "80"];
    let name = t.create("c", &options, &["sh", "-c", "echo 'a b'"])?;
    check(t, "list-created", entry(t, "", &name)?)?;
    let up = t.sleeper("up", &[])?;
    let mut value = entry(t, "", &up)?;
    value["Status"] = Value::Null;
    check(t, "list-running", value)
}

fn with_size(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &[], &["sh", "-c", "head -c 100000 /dev/zero > /x"])?;
    t.docker(&["wait", &name]).ok()?;
    let value = t.http("GET", &format!("/containers/{name}/json?size=1"))?.json()?;
    assert_eq!(value["SizeRw"], 100_000);
    let image = t.http("GET", &format!("/images/{}/json", t.image()))?.json()?["Size"].as_u64().unwrap_or_default();
    assert_eq!(value["SizeRootFs"], 100_000 + image);
    let value = entry(t, "size=1", &name)?;
    assert_eq!((&value["SizeRw"], &value["SizeRootFs"]), (&100_000.into(), &(100_000 + image).into()));
    Ok(())
}

/// Clients send back what inspect gave them: `null` for every field, and members in any case.
fn nulls_are_taken(t: &Case<'_>) -> Result<()> {
    let name = t.container("c");
    let body = serde_json::json!({
        "image": t.image(), "CMD": ["true"], "Env": null, "Labels": null, "Volumes": null, "Entrypoint": null,
        "ExposedPorts": null, "Healthcheck": null, "StopTimeout": null, "Shell": null, "NoSuchMember": 1,
        "HostConfig": {"Binds": null, "NetworkMode": "none", "PortBindings": null, "RestartPolicy": null, "LogConfig": null,
            "Mounts": null, "Devices": null, "Ulimits": null, "Memory": null, "MaskedPaths": null, "ReadonlyPaths": null,
            "Init": null, "CapAdd": null, "Sysctls": null, "Tmpfs": null, "ShmSize": null, "PidsLimit": null},
        "NetworkingConfig": null,
    });
    let made = t.http_json("POST", &format!("/containers/create?name={name}"), &body)?;
    assert_eq!(made.status, 201, "{}", made.text());
    check(t, "nulls", t.inspect_json(&name)?)
}

fn old_versions(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    for version in ["1.24", "1.40", "1.44", "1.47"] {
        let value = t.http("GET", &format!("/v{version}/containers/{name}/json"))?.json()?;
        check(t, &format!("running-{version}"), value)?;
        let mut value = t.http("GET", &format!("/v{version}/images/{}/json", t.image()))?.json()?;
        value["Size"] = Value::Null;
        value["VirtualSize"] = Value::Null;
        value["Metadata"]["LastTagTime"] = Value::Null;
        value["RootFS"] = Value::Null;
        check(t, &format!("image-{version}"), value)?;
    }
    Ok(())
}
