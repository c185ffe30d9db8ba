//! docker-py, the SDK most programs use, against the socket; and images through the CLI.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use compat_tests::host::ran;
use compat_tests::{Case, Suite, tests};

fn main() -> ExitCode {
    Suite {
        name: "sdk",
        flags: &[],
        tests: tests![
            python_run,
            python_containers,
            python_archives,
            python_events,
            python_errors,
            images_round_trip,
            images_list,
            images_remove
        ],
    }
    .main()
}

/// Runs a script with `client`, `image` and `prefix` ready.
fn python(t: &Case<'_>, script: &str) -> Result<()> {
    let head = format!(
        "import docker\nclient = docker.from_env(timeout=30)\nimage, prefix = {:?}, {:?}\n",
        t.image(),
        t.prefix()
    );
    // The distribution's Python is where the distribution puts the SDK.
    let mut last = String::new();
    for program in ["/usr/bin/python3", "python3"] {
        if ran(t.host().command(program).args(["-c", "import docker"]), "").code != 0 {
            continue;
        }
        let result = ran(t.host().command("timeout").args(["60", program, "-c", &(head.clone() + script)]), "");
        ensure!(result.code == 0, "{program}: {} {}", result.out, result.err);
        last = result.out;
        break;
    }
    ensure!(last == "passed", "docker-py is not installed, or the script did not end: {last:?}");
    Ok(())
}

fn python_run(t: &Case<'_>) -> Result<()> {
    python(
        t,
        r#"
assert client.ping()
assert client.containers.run(image, ["echo", "hello"], network_mode="none", remove=True) == b"hello\n"
out = client.containers.run(image, "sh -c 'echo $A; id -u'", network_mode="none", remove=True, environment={"A": "1"}, user="user")
assert out == b"1\n1000\n", out
try:
    client.containers.run(image, ["sh", "-c", "echo bad >&2; exit 3"], network_mode="none", remove=True)
    raise SystemExit("no error")
except docker.errors.ContainerError as error:
    assert error.exit_status == 3 and b"bad" in error.stderr, error
print("passed")
"#,
    )
}

fn python_containers(t: &Case<'_>) -> Result<()> {
    let name = t.container("c");
    python(
        t,
        &format!(
            "name = {name:?}\n{}",
            r#"
c = client.containers.run(image, ["sh", "-c", "echo one; echo two >&2; exec sleep 1000"], name=name, detach=True,
    network_mode="none", labels={"own": prefix}, mem_limit="64m", volumes=[], tmpfs={"/x": "size=1m"}, hostname="box")
assert c.status in ("created", "running"), c.status
c.reload()
assert c.status == "running" and c.name == name
assert [x.name for x in client.containers.list(filters={"label": "own=" + prefix})] == [name]
import time
end = time.time() + 20
while b"two" not in c.logs() and time.time() < end:
    pass
assert sorted(c.logs().splitlines()) == [b"one", b"two"], c.logs()
assert c.logs(stdout=True, stderr=False) == b"one\n"
assert c.logs(tail=1, timestamps=True).count(b"\n") == 1
code, out = c.exec_run(["sh", "-c", "hostname; exit 4"])
assert (code, out) == (4, b"box\n"), (code, out)
code, (out, err) = c.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
assert (out, err) == (b"o\n", b"e\n")
assert b"".join(c.exec_run(["seq", "3"], stream=True).output) == b"1\n2\n3\n"
assert c.attrs["HostConfig"]["Memory"] == 64 * 1024 * 1024
assert any("sleep" in p[-1] for p in c.top()["Processes"])
c.pause(); c.reload(); assert c.status == "paused"; c.unpause()
c.rename(name + "-r"); c.reload(); assert c.name == name + "-r"; c.rename(name)
c.stop(timeout=0)
assert c.wait()["StatusCode"] == 137
c.start(); c.kill(); assert c.wait(condition="not-running")["StatusCode"] == 137
c.remove(v=True)
try:
    client.containers.get(name)
    raise SystemExit("still there")
except docker.errors.NotFound:
    pass
print("passed")
"#
        ),
    )
}

fn python_archives(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["cat", "/tmp/file"])?;
    python(
        t,
        &format!(
            "name = {name:?}\n{}",
            r#"
import io, tarfile
def tar(name, data):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(name); info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()
c = client.containers.get(name)
assert c.put_archive("/tmp", tar("file", b"from python\n"))
c.start(); c.wait()
assert c.logs() == b"from python\n", c.logs()
bits, stat = c.get_archive("/data/from-image")
assert stat["name"] == "from-image" and stat["size"] == 7, stat
with tarfile.open(fileobj=io.BytesIO(b"".join(bits))) as archive:
    assert archive.extractfile("from-image").read() == b"copied\n"
print("passed")
"#
        ),
    )
}

fn python_events(t: &Case<'_>) -> Result<()> {
    let name = t.container("c");
    python(
        t,
        &format!(
            "name = {name:?}\n{}",
            r#"
events = client.events(decode=True, filters={"container": name, "type": "container"})
c = client.containers.create(image, "true", name=name, network_mode="none")
c.start(); c.wait(); c.remove()
seen = []
for event in events:
    seen.append(event["status"])
    assert event["Actor"]["Attributes"]["name"] == name
    if event["status"] == "destroy":
        break
events.close()
assert seen == ["create", "start", "die", "destroy"], seen
print("passed")
"#
        ),
    )
}

fn python_errors(t: &Case<'_>) -> Result<()> {
    python(
        t,
        r#"
def status(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except docker.errors.APIError as error:
        return error.response.status_code, error.explanation
    raise SystemExit("no error")
assert status(client.containers.get, prefix + "-nope") == (404, "No such container: " + prefix + "-nope")
assert status(client.images.get, "nope") == (404, "No such image: nope:latest"), status(client.images.get, "nope")
assert status(client.volumes.get, prefix + "-nope")[0] == 404
assert status(client.containers.create, image, "true", mem_limit=1024)[0] == 400
assert client.info()["OSType"] == "linux" and client.version()["ApiVersion"] == "1.51"
v = client.volumes.create(prefix + "-v", labels={"a": "1"})
assert v.attrs["Labels"] == {"a": "1"} and v in client.volumes.list()
v.remove()
print("passed")
"#,
    )
}

fn images_round_trip(t: &Case<'_>) -> Result<()> {
    let (tag, dir) = (t.tag("saved"), tempfile::tempdir()?);
    t.docker(&["tag", t.image(), &tag]).ok()?;
    let id = t.docker(&["images", "-q", "--no-trunc", &tag]).ok()?;
    let tar = dir.path().join("saved.tar").to_string_lossy().into_owned();
    t.docker(&["save", "-o", &tar, &tag]).ok()?;
    t.docker(&["rmi", &tag]).ok()?;
    assert_eq!(t.docker(&["load", "-i", &tar]).ok()?, format!("Loaded image: {tag}"));
    assert_eq!(t.docker(&["images", "-q", "--no-trunc", &tag]).ok()?, id, "the id survives a round trip");
    assert_eq!(t.docker(&["run", "--rm", "--network", "none", &tag, "echo", "again"]).out, "again");
    let bad = dir.path().join("bad.tar");
    std::fs::write(&bad, b"no tar at all")?;
    assert_ne!(t.docker(&["load", "-i", &bad.to_string_lossy()]).code, 0);
    Ok(())
}

fn images_list(t: &Case<'_>) -> Result<()> {
    let tag = t.tag("listed");
    t.docker(&["tag", t.image(), &tag]).ok()?;
    let name = tag.trim_end_matches(":tag");
    let list = |filter: &str| -> Result<String> {
        t.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}", "-f", filter]).ok()
    };
    assert_eq!(list(&format!("reference={name}"))?, tag);
    assert_eq!(list(&format!("reference={name}:*"))?, tag);
    assert_eq!(list(&format!("reference={}-*", t.prefix()))?, tag);
    assert_eq!(list(&format!("reference={name}:nope"))?, "");
    let history = t.docker(&["history", "--format", "{{.Comment}}", &tag]).ok()?;
    assert_eq!(history, "Imported from -");
    Ok(())
}

fn images_remove(t: &Case<'_>) -> Result<()> {
    let (one, two) = (t.tag("one"), t.tag("two"));
    let dir = tempfile::tempdir()?;
    let (root, tar) = (dir.path().join("root"), dir.path().join("root.tar"));
    std::fs::create_dir(&root)?;
    std::fs::write(root.join("file"), t.prefix())?;
    let made = std::process::Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status()?;
    ensure!(made.success(), "tar failed");
    let id = t.docker(&["import", &tar.to_string_lossy(), &one]).ok()?;
    t.docker(&["tag", &one, &two]).ok()?;
    let refused = t.docker(&["rmi", &id]);
    let text = "conflict: unable to delete";
    assert!(
        refused.err.contains(text) && refused.err.contains("image is referenced in multiple repositories"),
        "{}",
        refused.err
    );
    assert_eq!(t.docker(&["rmi", &one]).ok()?, format!("Untagged: {one}"));
    let container = t.container("c");
    t.docker(&["create", "--name", &container, &two, "true"]).ok()?;
    let refused = t.docker(&["rmi", &two]);
    let short = t.inspect(&container, "{{.Id}}")[..12].to_owned();
    let text = format!(
        "unable to remove repository reference \"{two}\" (must force) - container {short} is using its referenced image"
    );
    assert!(refused.err.contains(&text), "{}", refused.err);
    t.docker(&["rm", &container]).ok()?;
    let gone = t.docker(&["rmi", &two]).ok()?;
    let lines: Vec<&str> = gone.lines().collect();
    assert_eq!(lines.first().context("no line")?, &format!("Untagged: {two}"));
    assert_eq!(lines.get(1).context("no second line")?, &format!("Deleted: {id}"));
    Ok(())
}
