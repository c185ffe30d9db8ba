//! `docker cp` both ways and `docker export` through the stock CLI and the bare API; needs root. What is expected here
//! was seen on the stock daemon first.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use compat_tests::{LIMIT, PrivateDaemon as Daemon, Ran};

#[test]
fn privileged_cp_and_export() {
    let daemon = Daemon::start().expect("daemon");
    let bed = Bed { daemon: &daemon };
    bed.names_decide_where_things_go();
    bed.owners_modes_and_links();
    bed.tar_streams();
    bed.volumes_and_what_is_read_only();
    bed.hostile_archives_stay_inside();
    bed.clients_that_vanish_leave_nothing();
    bed.refusals();
    bed.export();
    assert_eq!(daemon.docker(&["ps", "-aq"]).out, "", "containers are left");
    assert_eq!(daemon.leftovers(), Vec::<String>::new(), "mounts are left");
}

struct Bed<'a> {
    daemon: &'a Daemon,
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

    fn create(&self, name: &str, options: &[&str]) {
        self.ok(&[&["create", "--name", name, "--network", "none"], options, &["busybox", "sleep", "1000"]].concat());
    }

    fn remove(&self, name: &str) {
        self.ok(&["rm", "-f", name]);
    }

    /// A new directory for a test's files.
    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.daemon.dir().join(name);
        fs::create_dir(&dir).expect("directory");
        dir
    }

    /// `METHOD path` with a tar as body: status and body of the answer.
    fn api(&self, method: &str, path: &str, body: &[u8]) -> (u16, String) {
        let mut socket = self.connect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).expect("sent");
        socket.write_all(body).expect("sent");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).expect("answered");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("status");
        (status, answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.trim().to_owned()))
    }

    fn connect(&self) -> UnixStream {
        let socket = UnixStream::connect(self.daemon.dir().join("docker.sock")).expect("connected");
        socket.set_read_timeout(Some(LIMIT)).expect("limit");
        socket
    }

    /// Names in the tar of `path`.
    fn listing(&self, container: &str, path: &str) -> Vec<String> {
        let list = self.shell(&format!("cp {container}:{path} -"), "tar -tf - 2>/dev/null");
        list.lines().map(str::to_owned).collect()
    }

    /// What `docker ARGUMENTS | FILTER` prints, for output that is no text.
    fn shell(&self, arguments: &str, filter: &str) -> String {
        let socket = self.daemon.dir().join("docker.sock").display().to_string();
        let script = format!("docker -H unix://{socket} {arguments} | {filter}");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().expect("run");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn names_decide_where_things_go(&self) {
        let dir = self.dir("names");
        fs::create_dir_all(dir.join("src/sub")).expect("made");
        fs::write(dir.join("src/a"), "a\n").expect("written");
        fs::write(dir.join("src/sub/b"), "b\n").expect("written");
        let src = dir.join("src").display().to_string();
        let file = dir.join("src/a").display().to_string();
        for start in [false, true] {
            self.create("cp-names", &[]);
            if start {
                self.ok(&["start", "cp-names"]);
            }
            self.ok(&["cp", &src, "cp-names:/new"]);
            assert_eq!(self.listing("cp-names", "/new"), ["new/", "new/a", "new/sub/", "new/sub/b"]);
            // The second time it goes into the directory that is there now.
            self.ok(&["cp", &src, "cp-names:/new"]);
            assert!(self.listing("cp-names", "/new").contains(&"new/src/sub/b".to_owned()));
            self.ok(&["cp", &format!("{src}/."), "cp-names:/tmp"]);
            assert_eq!(self.listing("cp-names", "/tmp/."), ["./", "./a", "./sub/", "./sub/b"]);
            self.ok(&["cp", &file, "cp-names:/tmp/renamed"]);
            assert_eq!(self.listing("cp-names", "/tmp/renamed"), ["renamed"]);
            let back = dir.join(format!("back-{start}")).display().to_string();
            self.ok(&["cp", "cp-names:/new/sub", &back]);
            assert_eq!(fs::read_to_string(Path::new(&back).join("b")).expect("read"), "b\n");
            self.ok(&["cp", "cp-names:/new/a", &back]);
            assert_eq!(fs::read_to_string(Path::new(&back).join("a")).expect("read"), "a\n");
            if start {
                assert_eq!(self.ok(&["exec", "cp-names", "cat", "/tmp/renamed"]), "a", "the process sees it");
            }
            self.ok(&["stop", "-t", "0", "cp-names"]);
            assert_eq!(self.listing("cp-names", "/tmp/sub"), ["sub/", "sub/b"], "stopped, it is still there");
            self.remove("cp-names");
        }
    }

    fn owners_modes_and_links(&self) {
        let dir = self.dir("owners");
        let file = dir.join("file");
        fs::write(&file, "x").expect("written");
        std::os::unix::fs::chown(&file, Some(7), Some(8)).expect("owner");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).expect("mode");
        symlink("file", dir.join("link")).expect("link");
        let path = |name: &str| dir.join(name).display().to_string();
        self.create("cp-owners", &["-u", "nobody"]);
        self.ok(&["cp", &path("file"), "cp-owners:/tmp/plain"]);
        self.ok(&["cp", "-a", &path("file"), "cp-owners:/tmp/archive"]);
        self.ok(&["cp", &path("link"), "cp-owners:/tmp/link"]);
        self.ok(&["cp", "-L", &path("link"), "cp-owners:/tmp/followed"]);
        self.ok(&["cp", "-a", "cp-owners:/tmp", &path("back")]);
        let stat = |name: &str| fs::symlink_metadata(dir.join("back").join(name)).expect(name);
        assert_eq!(stat("plain").mode() & 0o7777, 0o4751);
        // The CLI leaves owners behind on the way out; the archive has them. `-a` on the way in gives things to the
        // container's user.
        let owner = |name: &str| {
            self.shell(&format!("cp cp-owners:/tmp/{name} -"), "tar --numeric-owner -tvf - | awk '{print $2}'")
        };
        assert_eq!((owner("plain").as_str(), owner("archive").as_str()), ("7/8", "65534/65534"));
        assert_eq!(stat("plain").mtime(), fs::metadata(&file).expect("there").mtime());
        assert!(stat("link").file_type().is_symlink() && stat("followed").file_type().is_file());
        self.ok(&["cp", "-L", "cp-owners:/bin/sh", &path("shell")]);
        assert!(fs::metadata(path("shell")).expect("there").len() > 100_000);
        self.remove("cp-owners");
    }

    fn tar_streams(&self) {
        self.create("cp-tar", &[]);
        let tar = Tar::default()
            .entry("d/", b'5', "", b"")
            .entry("d/one", b'0', "", b"one")
            .entry("d/two", b'1', "d/one", b"")
            .entry("pipe", b'6', "", b"")
            .end();
        let put = |query: &str, body: &[u8]| self.api("PUT", &format!("/containers/cp-tar/archive?{query}"), body);
        assert_eq!(put("path=/tmp", &tar).0, 200);
        let list = self.shell("cp cp-tar:/tmp/. -", "tar -tvf - | awk '{print substr($1, 1, 1), $6, $7, $8, $9}'");
        let list: Vec<&str> = list.lines().map(str::trim).collect();
        assert_eq!(list, ["d ./", "d ./d/", "- ./d/one", "h ./d/two link to ./d/one", "p ./pipe"]);
        assert_eq!(put("path=/tmp", b"").0, 200, "an empty body is an empty archive");
        assert!(put("path=/tmp", &[b'x'; 2048]).1.contains("archive/tar: "));
        self.remove("cp-tar");
    }

    fn volumes_and_what_is_read_only(&self) {
        let dir = self.dir("volumes");
        fs::write(dir.join("file"), "v\n").expect("written");
        let file = dir.join("file").display().to_string();
        let bound = self.dir("bound");
        let bind = format!("{}:/bound", bound.display());
        self.create("cp-volumes", &["-v", "cp-vol:/vol", "-v", "cp-vol2:/ro:ro", "-v", &bind, "--tmpfs", "/scratch"]);
        self.ok(&["cp", &file, "cp-volumes:/vol/"]);
        self.ok(&["cp", &file, "cp-volumes:/bound/"]);
        assert_eq!(fs::read_to_string(bound.join("file")).expect("read"), "v\n");
        self.ok(&["start", "cp-volumes"]);
        assert_eq!(self.ok(&["exec", "cp-volumes", "cat", "/vol/file", "/bound/file"]), "v\nv");
        let refused = self.docker(&["cp", &file, "cp-volumes:/ro/"]);
        assert!(refused.err.contains("mounted volume is marked read-only"), "{}", refused.err);
        // A tmpfs is the process's own: what is copied is not seen there, as under Docker.
        self.ok(&["cp", &file, "cp-volumes:/scratch/"]);
        assert_eq!(self.ok(&["exec", "cp-volumes", "ls", "/scratch"]), "");
        assert_eq!(self.listing("cp-volumes", "/proc"), ["proc/"]);
        self.remove("cp-volumes");
        self.create("cp-readonly", &["--read-only", "-v", "cp-vol:/vol"]);
        let refused = self.docker(&["cp", &file, "cp-readonly:/tmp/"]);
        assert!(refused.err.contains("container rootfs is marked read-only"), "{}", refused.err);
        self.ok(&["cp", &file, "cp-readonly:/vol/again"]);
        self.remove("cp-readonly");
        self.ok(&["volume", "rm", "cp-vol", "cp-vol2"]);
    }

    fn hostile_archives_stay_inside(&self) {
        let outside = self.dir("outside");
        let target = outside.display().to_string();
        self.create("cp-hostile", &[]);
        let put =
            |tar: Tar, query: &str| self.api("PUT", &format!("/containers/cp-hostile/archive?{query}"), &tar.end());
        let file = |name: &str| Tar::default().entry(name, b'0', "", b"x");
        assert_eq!(
            put(file("../esc"), "path=/tmp"),
            (500, r#"{"message":"invalid entry name \"../esc\""}"#.to_owned())
        );
        assert_eq!(put(file("a/../../esc"), "path=/tmp").0, 500);
        let link = Tar::default().entry("h", b'1', "../../etc/passwd", b"");
        let refused = r#"{"message":"invalid hardlink target \"../../etc/passwd\""}"#;
        assert_eq!(put(link, "path=/tmp"), (500, refused.to_owned()));
        // An absolute name and an absolute link are inside as well.
        assert_eq!(put(file("/abs/f"), "path=/tmp").0, 200);
        assert_eq!(put(Tar::default().entry("l", b'2', &target, b"").entry("l/f", b'0', "", b"x"), "path=/tmp").0, 200);
        // A link upwards is refused or kept inside; nothing may appear here.
        put(
            Tar::default().entry("u", b'2', "../../../../../../../../tmp", b"").entry("u/cp-up", b'0', "", b"x"),
            "path=/tmp",
        );
        assert!(!Path::new("/tmp/cp-up").exists());
        assert_eq!(fs::read_dir(&outside).expect("listed").count(), 0);
        let overwrite = "path=/etc&noOverwriteDirNonDir=true";
        let refused = put(Tar::default().entry("passwd/", b'5', "", b""), overwrite);
        assert_eq!(refused.0, 500);
        assert!(refused.1.contains("cannot overwrite non-directory"), "{}", refused.1);
        let refused = put(file("etc"), "path=/&noOverwriteDirNonDir=1");
        assert!(refused.1.contains("cannot overwrite directory"), "{}", refused.1);
        self.remove("cp-hostile");
    }

    fn clients_that_vanish_leave_nothing(&self) {
        self.create("cp-vanish", &["-v", "cp-vol:/vol"]);
        self.ok(&["start", "cp-vanish"]);
        self.ok(&["exec", "cp-vanish", "dd", "if=/dev/zero", "of=/vol/big", "bs=1M", "count=16"]);
        let before = self.daemon.leftovers();
        let mut get = self.connect();
        get.write_all(b"GET /containers/cp-vanish/archive?path=/vol/big HTTP/1.1\r\nHost: d\r\n\r\n").expect("sent");
        let mut some = [0; 1000];
        get.read_exact(&mut some).expect("begun");
        drop(get);
        let mut put = self.connect();
        put.write_all(
            b"PUT /containers/cp-vanish/archive?path=/vol HTTP/1.1\r\nHost: d\r\nContent-Length: 99999\r\n\r\n",
        )
        .expect("sent");
        put.write_all(&Tar::default().entry("half", b'0', "", &[1; 4096]).end()[..2000]).expect("sent");
        drop(put);
        assert_eq!(self.daemon.leftovers(), before, "nothing is mounted where others see it");
        // Nobody holds the container's files any more.
        self.ok(&["restart", "-t", "0", "cp-vanish"]);
        self.remove("cp-vanish");
        self.ok(&["volume", "rm", "cp-vol"]);
    }

    fn refusals(&self) {
        self.create("cp-refuse", &[]);
        let get = |query: &str| self.api("GET", &format!("/containers/cp-refuse/archive?{query}"), b"");
        let put =
            |query: &str| self.api("PUT", &format!("/containers/cp-refuse/archive?{query}"), &Tar::default().end());
        let missing =
            |path: &str| (404, format!(r#"{{"message":"Could not find the file {path} in container cp-refuse"}}"#));
        let said = |code: u16, text: &str| (code, format!(r#"{{"message":"{text}"}}"#));
        assert_eq!(get("path=/nope"), missing("/nope"));
        assert_eq!(put("path=/nope"), missing("/nope"));
        assert_eq!(get("path="), said(400, "bad parameter: pathcannot be empty"));
        assert_eq!(get("path=/etc/passwd/x"), said(500, "lstat /etc/passwd/x: not a directory"));
        assert_eq!(put("path=/etc/passwd"), said(400, "extraction point is not a directory"));
        assert_eq!(put("path=/etc/passwd/x"), said(500, "not a directory"));
        let none = self.api("GET", "/containers/cp-none/archive?path=/", b"");
        assert_eq!(none, said(404, "No such container: cp-none"));
        assert_eq!(get("path=/etc/passwd").0, 200);
        assert_eq!(put("path=/tmp").0, 200);
        // Events are asked for up to a moment that is still to come; the CLI waits for it.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let (since, until) = ((now - 60).to_string(), (now + 1).to_string());
        let filter = format!("container={}", self.ok(&["inspect", "-f", "{{.Id}}", "cp-refuse"]));
        let range = ["events", "--since", &since, "--until", &until, "--format", "{{.Action}}"];
        let events = self.ok(&[&range[..], &["--filter", &filter]].concat());
        assert_eq!(events, "create\narchive-path\nextract-to-dir", "what failed is no event");
        self.remove("cp-refuse");
    }

    fn export(&self) {
        let dir = self.dir("export");
        self.create("cp-export", &["-v", "cp-vol:/vol"]);
        self.ok(&["start", "cp-export"]);
        self.ok(&["exec", "cp-export", "sh", "-c", "echo in > /vol/in; echo new > /tmp/new; rm /etc/group"]);
        let tar = dir.join("root.tar").display().to_string();
        self.ok(&["export", "-o", &tar, "cp-export"]);
        let list = std::process::Command::new("tar").args(["-tf", &tar]).output().expect("tar");
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        let has = |name: &str| list.lines().any(|line| line == name);
        assert!(has("bin/busybox") && has("tmp/new") && has("vol/") && has("dev/"), "{list}");
        assert!(!has("vol/in") && !has("etc/group") && !has("./"), "{list}");
        let id = self.ok(&["import", &tar, "cp-exported:latest"]);
        let run = ["run", "--rm", "--network", "none", "cp-exported", "/bin/busybox", "cat", "/tmp/new"];
        assert_eq!(self.ok(&run), "new");
        self.ok(&["rmi", &id]);
        self.remove("cp-export");
        self.ok(&["volume", "rm", "cp-vol"]);
    }
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
