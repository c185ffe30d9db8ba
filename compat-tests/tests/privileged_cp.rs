//! `docker cp` both ways and `docker export` through the stock CLI and the bare API.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use compat_tests::{Case, LIMIT, Suite, host, http, tests};

fn main() -> ExitCode {
    Suite {
        name: "cp",
        flags: &[],
        tests: tests![
            names_decide_where_things_go,
            names_in_a_running_container,
            owners_modes_and_links,
            tar_streams,
            volumes_binds_and_tmpfs,
            what_is_read_only,
            hostile_archives_stay_inside,
            no_overwriting,
            clients_that_vanish_leave_nothing,
            refusals,
            events_of_what_succeeded,
            export,
        ],
    }
    .main()
}

fn ok(t: &Case<'_>, arguments: &[&str]) -> Result<String> {
    t.docker(arguments).ok().with_context(|| format!("{arguments:?}"))
}

/// A container that has not started yet.
fn created(t: &Case<'_>, options: &[&str]) -> Result<String> {
    t.create("c", options, &["sleep", "1000"])
}

/// Removes a container as a test's last word on it: nothing may hold it.
fn remove(t: &Case<'_>, name: &str) -> Result<()> {
    ok(t, &["rm", "-f", name]).map(drop)
}

/// `METHOD path` with a tar as body: status and body of the answer.
fn api(t: &Case<'_>, method: &str, path: &str, body: &[u8]) -> Result<(u16, String)> {
    let answer = http::request(&t.host().socket, method, path, &[], body)?;
    Ok((answer.status, answer.text().trim().to_owned()))
}

/// `PUT` of an archive into a container.
fn put(t: &Case<'_>, name: &str, query: &str, tar: &[u8]) -> Result<(u16, String)> {
    api(t, "PUT", &format!("/containers/{name}/archive?{query}"), tar)
}

fn said(code: u16, text: &str) -> (u16, String) {
    (code, format!(r#"{{"message":"{text}"}}"#))
}

/// Names in the tar of `path`.
fn listing(t: &Case<'_>, container: &str, path: &str) -> Result<Vec<String>> {
    let list = filtered(t, &format!("cp {container}:{path} -"), "tar -tf - 2>/dev/null")?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// What `docker ARGUMENTS | FILTER` prints, for output that is no text.
fn filtered(t: &Case<'_>, arguments: &str, filter: &str) -> Result<String> {
    let ran = host::ran(t.host().command("sh").args(["-c", &format!("docker {arguments} | {filter}")]), "");
    ran.ok().with_context(|| format!("{arguments} | {filter}"))
}

/// A path as an argument.
fn text(path: &Path) -> String {
    path.display().to_string()
}

fn names_decide_where_things_go(t: &Case<'_>) -> Result<()> {
    names(t, false)
}

fn names_in_a_running_container(t: &Case<'_>) -> Result<()> {
    names(t, true)
}

fn names(t: &Case<'_>, start: bool) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    fs::create_dir_all(dir.join("src/sub"))?;
    fs::write(dir.join("src/a"), "a\n")?;
    fs::write(dir.join("src/sub/b"), "b\n")?;
    let (src, file) = (text(&dir.join("src")), text(&dir.join("src/a")));
    let name = created(t, &[])?;
    let inside = |path: &str| format!("{name}:{path}");
    if start {
        ok(t, &["start", &name])?;
    }
    ok(t, &["cp", &src, &inside("/new")])?;
    assert_eq!(listing(t, &name, "/new")?, ["new/", "new/a", "new/sub/", "new/sub/b"]);
    // The second time it goes into the directory that is there now.
    ok(t, &["cp", &src, &inside("/new")])?;
    assert!(listing(t, &name, "/new")?.contains(&"new/src/sub/b".to_owned()));
    ok(t, &["cp", &format!("{src}/."), &inside("/tmp")])?;
    assert_eq!(listing(t, &name, "/tmp/.")?, ["./", "./a", "./sub/", "./sub/b"]);
    ok(t, &["cp", &file, &inside("/tmp/renamed")])?;
    assert_eq!(listing(t, &name, "/tmp/renamed")?, ["renamed"]);
    let back = dir.join("back");
    ok(t, &["cp", &inside("/new/sub"), &text(&back)])?;
    assert_eq!(fs::read_to_string(back.join("b"))?, "b\n");
    ok(t, &["cp", &inside("/new/a"), &text(&back)])?;
    assert_eq!(fs::read_to_string(back.join("a"))?, "a\n");
    if start {
        assert_eq!(ok(t, &["exec", &name, "cat", "/tmp/renamed"])?, "a", "the process sees it");
    }
    ok(t, &["stop", "-t", "0", &name])?;
    assert_eq!(listing(t, &name, "/tmp/sub")?, ["sub/", "sub/b"], "stopped, it is still there");
    remove(t, &name)
}

fn owners_modes_and_links(t: &Case<'_>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let file = dir.join("file");
    fs::write(&file, "x")?;
    std::os::unix::fs::chown(&file, Some(7), Some(8))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751))?;
    symlink("file", dir.join("link"))?;
    let path = |name: &str| text(&dir.join(name));
    let name = created(t, &["-u", "nobody"])?;
    let inside = |path: &str| format!("{name}:{path}");
    ok(t, &["cp", &path("file"), &inside("/tmp/plain")])?;
    ok(t, &["cp", "-a", &path("file"), &inside("/tmp/archive")])?;
    ok(t, &["cp", &path("link"), &inside("/tmp/link")])?;
    ok(t, &["cp", "-L", &path("link"), &inside("/tmp/followed")])?;
    ok(t, &["cp", "-a", &inside("/tmp"), &path("back")])?;
    let stat = |name: &str| fs::symlink_metadata(dir.join("back").join(name)).with_context(|| name.to_owned());
    assert_eq!(stat("plain")?.mode() & 0o7777, 0o4751);
    // The CLI leaves owners behind on the way out; the archive has them. `-a` on the way in gives things to the
    // container's user.
    let owner =
        |file: &str| filtered(t, &format!("cp {name}:/tmp/{file} -"), "tar --numeric-owner -tvf - | awk '{print $2}'");
    assert_eq!((owner("plain")?.as_str(), owner("archive")?.as_str()), ("7/8", "65534/65534"));
    assert_eq!(stat("plain")?.mtime(), fs::metadata(&file)?.mtime());
    assert!(stat("link")?.file_type().is_symlink() && stat("followed")?.file_type().is_file());
    ok(t, &["cp", "-L", &inside("/bin/sh"), &path("shell")])?;
    assert!(fs::metadata(path("shell"))?.len() > 100_000);
    remove(t, &name)
}

fn tar_streams(t: &Case<'_>) -> Result<()> {
    let name = created(t, &[])?;
    let tar = Tar::default()
        .entry("d/", b'5', "", b"")
        .entry("d/one", b'0', "", b"one")
        .entry("d/two", b'1', "d/one", b"")
        .entry("pipe", b'6', "", b"")
        .end();
    assert_eq!(put(t, &name, "path=/tmp", &tar)?.0, 200);
    let columns = "tar -tvf - | awk '{print substr($1, 1, 1), $6, $7, $8, $9}'";
    let list = filtered(t, &format!("cp {name}:/tmp/. -"), columns)?;
    let list: Vec<&str> = list.lines().map(str::trim).collect();
    assert_eq!(list, ["d ./", "d ./d/", "- ./d/one", "h ./d/two link to ./d/one", "p ./pipe"]);
    assert_eq!(put(t, &name, "path=/tmp", b"")?.0, 200, "an empty body is an empty archive");
    assert!(put(t, &name, "path=/tmp", &[b'x'; 2048])?.1.contains("archive/tar: "));
    remove(t, &name)
}

/// A file to copy, and the directory that is taken away with it.
fn one_file() -> Result<(tempfile::TempDir, String)> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("file"), "v\n")?;
    let file = text(&dir.path().join("file"));
    Ok((dir, file))
}

fn volumes_binds_and_tmpfs(t: &Case<'_>) -> Result<()> {
    let (_dir, file) = one_file()?;
    let (seen, bound) = t.files("bound")?;
    let (volume, read_only) = (t.volume("v"), t.volume("ro"));
    let (vol, ro, bind) = (format!("{volume}:/vol"), format!("{read_only}:/ro:ro"), format!("{seen}:/bound"));
    let name = created(t, &["-v", &vol, "-v", &ro, "-v", &bind, "--tmpfs", "/scratch"])?;
    let inside = |path: &str| format!("{name}:{path}");
    ok(t, &["cp", &file, &inside("/vol/")])?;
    ok(t, &["cp", &file, &inside("/bound/")])?;
    assert_eq!(fs::read_to_string(bound.join("file"))?, "v\n");
    ok(t, &["start", &name])?;
    assert_eq!(ok(t, &["exec", &name, "cat", "/vol/file", "/bound/file"])?, "v\nv");
    let refused = t.docker(&["cp", &file, &inside("/ro/")]);
    assert!(refused.err.contains("mounted volume is marked read-only"), "{}", refused.err);
    // A tmpfs is the process's own: what is copied is not seen there.
    ok(t, &["cp", &file, &inside("/scratch/")])?;
    assert_eq!(ok(t, &["exec", &name, "ls", "/scratch"])?, "");
    assert_eq!(listing(t, &name, "/proc")?, ["proc/"]);
    remove(t, &name)?;
    ok(t, &["volume", "rm", &volume, &read_only]).map(drop)
}

fn what_is_read_only(t: &Case<'_>) -> Result<()> {
    let (_dir, file) = one_file()?;
    let volume = t.volume("v");
    let name = created(t, &["--read-only", "-v", &format!("{volume}:/vol")])?;
    let refused = t.docker(&["cp", &file, &format!("{name}:/tmp/")]);
    assert!(refused.err.contains("container rootfs is marked read-only"), "{}", refused.err);
    ok(t, &["cp", &file, &format!("{name}:/vol/again")])?;
    remove(t, &name)?;
    ok(t, &["volume", "rm", &volume]).map(drop)
}

fn hostile_archives_stay_inside(t: &Case<'_>) -> Result<()> {
    let (target, outside) = t.files("outside")?;
    let name = created(t, &[])?;
    let put = |tar: Tar| put(t, &name, "path=/tmp", &tar.end());
    let file = |name: &str| Tar::default().entry(name, b'0', "", b"x");
    assert_eq!(put(file("../esc"))?, said(500, r#"invalid entry name \"../esc\""#));
    assert_eq!(put(file("a/../../esc"))?.0, 500);
    let link = Tar::default().entry("h", b'1', "../../etc/passwd", b"");
    assert_eq!(put(link)?, said(500, r#"invalid hardlink target \"../../etc/passwd\""#));
    // An absolute name and an absolute link are inside as well.
    assert_eq!(put(file("/abs/f"))?.0, 200);
    assert_eq!(put(Tar::default().entry("l", b'2', &target, b"").entry("l/f", b'0', "", b"x"))?.0, 200);
    // A link upwards is refused or kept inside; nothing may appear here.
    let escaped = format!("{}-up", t.prefix());
    let up = Tar::default().entry("u", b'2', "../../../../../../../../tmp", b"");
    put(up.entry(&format!("u/{escaped}"), b'0', "", b"x"))?;
    assert!(!t.host().path(&Path::new("/tmp").join(escaped)).exists());
    assert_eq!(fs::read_dir(&outside)?.count(), 0);
    remove(t, &name)
}

fn no_overwriting(t: &Case<'_>) -> Result<()> {
    let name = created(t, &[])?;
    let directory = Tar::default().entry("passwd/", b'5', "", b"").end();
    let refused = put(t, &name, "path=/etc&noOverwriteDirNonDir=true", &directory)?;
    assert_eq!(refused.0, 500);
    assert!(refused.1.contains("cannot overwrite non-directory"), "{}", refused.1);
    let file = Tar::default().entry("etc", b'0', "", b"x").end();
    let refused = put(t, &name, "path=/&noOverwriteDirNonDir=1", &file)?;
    assert!(refused.1.contains("cannot overwrite directory"), "{}", refused.1);
    remove(t, &name)
}

/// Mounts that the daemon or this process can see: all of a daemon of ours, of another only those of this test's container
/// and volume, as a shared one has others.
fn visible_mounts(t: &Case<'_>, names: &[&str]) -> Result<BTreeSet<String>> {
    let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    if t.is_ours() {
        names.extend(t.host().socket.parent().map(text));
    }
    let mut out = BTreeSet::new();
    for process in ["self".to_owned(), t.host().pid.to_string()] {
        let table = fs::read_to_string(PathBuf::from("/proc").join(process).join("mountinfo"))?;
        out.extend(
            table.lines().filter(|line| names.iter().any(|name| line.contains(name.as_str()))).map(str::to_owned),
        );
    }
    Ok(out)
}

fn clients_that_vanish_leave_nothing(t: &Case<'_>) -> Result<()> {
    let volume = t.volume("v");
    let name = t.sleeper("c", &["-v", &format!("{volume}:/vol")])?;
    ok(t, &["exec", &name, "dd", "if=/dev/zero", "of=/vol/big", "bs=1M", "count=16"])?;
    let id = t.inspect(&name, "{{.Id}}");
    // Ours has no directory to name.
    let merged = t.inspect_json(&name)?["GraphDriver"]["Data"]["MergedDir"].as_str().map(str::to_owned);
    let names: Vec<&str> = [id.as_str(), &volume].into_iter().chain(merged.as_deref()).collect();
    let before = visible_mounts(t, &names)?;
    let connect = || -> Result<UnixStream> {
        let socket = UnixStream::connect(&t.host().socket)?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(socket)
    };
    let mut get = connect()?;
    let request = format!("GET /containers/{name}/archive?path=/vol/big HTTP/1.1\r\nHost: d\r\n\r\n");
    get.write_all(request.as_bytes())?;
    let mut some = [0; 1000];
    get.read_exact(&mut some)?;
    ensure!(some.starts_with(b"HTTP/1.1 200 OK"), "{}", String::from_utf8_lossy(&some));
    drop(get);
    let mut put = connect()?;
    let request =
        format!("PUT /containers/{name}/archive?path=/vol HTTP/1.1\r\nHost: d\r\nContent-Length: 99999\r\n\r\n");
    put.write_all(request.as_bytes())?;
    put.write_all(&Tar::default().entry("half", b'0', "", &[1; 4096]).end()[..2000])?;
    drop(put);
    assert_eq!(visible_mounts(t, &names)?, before, "nothing is mounted where others see it");
    // Nobody holds the container's files any more.
    ok(t, &["restart", "-t", "0", &name])?;
    remove(t, &name)?;
    ok(t, &["volume", "rm", &volume]).map(drop)
}

fn refusals(t: &Case<'_>) -> Result<()> {
    let name = created(t, &[])?;
    let get = |query: &str| api(t, "GET", &format!("/containers/{name}/archive?{query}"), b"");
    let put = |query: &str| put(t, &name, query, &Tar::default().end());
    let missing = said(404, &format!("Could not find the file /nope in container {name}"));
    assert_eq!(get("path=/nope")?, missing);
    assert_eq!(put("path=/nope")?, missing);
    assert_eq!(get("path=")?, said(400, "bad parameter: pathcannot be empty"));
    assert_eq!(get("path=/etc/passwd/x")?, said(500, "lstat /etc/passwd/x: not a directory"));
    assert_eq!(put("path=/etc/passwd")?, said(400, "extraction point is not a directory"));
    assert_eq!(put("path=/etc/passwd/x")?, said(500, "not a directory"));
    let other = t.container("none");
    let none = api(t, "GET", &format!("/containers/{other}/archive?path=/"), b"")?;
    assert_eq!(none, said(404, &format!("No such container: {other}")));
    remove(t, &name)
}

fn events_of_what_succeeded(t: &Case<'_>) -> Result<()> {
    let name = created(t, &[])?;
    let get = |query: &str| api(t, "GET", &format!("/containers/{name}/archive?{query}"), b"");
    let put = |query: &str| put(t, &name, query, &Tar::default().end());
    for failing in ["path=/nope", "path=/etc/passwd/x"] {
        ensure!(get(failing)?.0 >= 400 && put(failing)?.0 >= 400, "{failing}");
    }
    assert_eq!(get("path=/etc/passwd")?.0, 200);
    assert_eq!(put("path=/tmp")?.0, 200);
    // Events are asked for up to a moment that is still to come; the CLI waits for it.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let (since, until) = ((now - 60).to_string(), (now + 1).to_string());
    let filter = format!("container={}", t.inspect(&name, "{{.Id}}"));
    let range = ["events", "--since", &since, "--until", &until, "--format", "{{.Action}}"];
    let events = ok(t, &[&range[..], &["--filter", &filter]].concat())?;
    assert_eq!(events, "create\narchive-path\nextract-to-dir", "what failed is no event");
    remove(t, &name)
}

fn export(t: &Case<'_>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (volume, tag) = (t.volume("v"), t.tag("exported"));
    // The container's own process does it, as nothing but the container could come to harm by that.
    let script = "echo in > /vol/in; echo new > /tmp/new; rm /etc/group; echo done; exec sleep 1000";
    let name = t.start("c", &["-v", &format!("{volume}:/vol")], &["sh", "-c", script])?;
    t.wait_for(&["logs", &name], "done")?;
    let tar = text(&dir.path().join("root.tar"));
    ok(t, &["export", "-o", &tar, &name])?;
    let list = host::ran(std::process::Command::new("tar").args(["-tf", &tar]), "").ok()?;
    let has = |name: &str| list.lines().any(|line| line == name);
    assert!(has("bin/busybox") && has("tmp/new") && has("vol/") && has("dev/"), "{list}");
    assert!(!has("vol/in") && !has("etc/group") && !has("./"), "{list}");
    let id = ok(t, &["import", &tar, &tag])?;
    let run = ["run", "--rm", "--network", "none", &tag, "/bin/busybox", "cat", "/tmp/new"];
    assert_eq!(ok(t, &run)?, "new");
    ok(t, &["rmi", &id])?;
    remove(t, &name)?;
    ok(t, &["volume", "rm", &volume]).map(drop)
}

/// A tar made by hand, so that it can say what no tool would.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, name: &str, kind: u8, link: &str, content: &[u8]) -> Self {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(if kind == b'5' { b"0000755" } else { b"0000644" });
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[136..147].copy_from_slice(b"00003641100");
        header[148..156].copy_from_slice(b"        ");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        header[154] = 0;
        self.0.extend_from_slice(&header);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
