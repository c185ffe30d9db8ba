//! The daemon as a process: its command line, sockets, signals, and what outlives it. Needs root.

#[allow(dead_code, reason = "other suites use the rest of it")]
mod bed;

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bed::{Bed, binary, run, until};
use sha2::{Digest as _, Sha256};

#[test]
fn the_command_line_speaks_as_dockerd() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dockerd = dir.path().join("dockerd");
    std::os::unix::fs::symlink(binary()?, &dockerd)?;
    let said = |arguments: &[&str]| run(Command::new(&dockerd).args(arguments));
    let version = said(&["--version"])?;
    assert!(version.code == 0 && version.out.starts_with("Docker version 28."), "{version:?}");
    let unknown = said(&["--nosuch"])?;
    assert!(unknown.code == 1 && unknown.out.is_empty(), "{unknown:?}");
    assert!(unknown.err.starts_with("Status: unknown flag: --nosuch\nSee 'dockerd --help'.\n\nUsage:\tdockerd"));
    assert!(unknown.err.ends_with(", Code: 125\n"));
    let help = said(&["--help"])?;
    assert!(help.code == 0 && help.out.contains("  -H, --host list  "), "{help:?}");
    assert!(said(&["-h"])?.out.starts_with("Flag shorthand -h has been deprecated"));

    let file = dir.path().join("daemon.json");
    let name = file.to_str().context("a name")?;
    for (content, flags, text) in [
        (r#"{"debug":true}"#, &[][..], "configuration OK\n"),
        (r#"{"debug":"x"}"#, &[], "cannot unmarshal string into Go struct field Config.debug of type bool\n"),
        (r#"{"nope":1}"#, &[], "the following directives don't match any configuration option: nope\n"),
        (r#"{"debug":true}"#, &["--debug"], "configuration file: debug: (from flag: true, from file: true)\n"),
        ("{", &[], "invalid JSON: unexpected end of JSON input\n"),
        (r#"{"log-level":"x"}"#, &[], "command line flags failed: invalid logging level: x\n"),
    ] {
        fs::write(&file, content)?;
        let said = said(&[&["--validate", "--config-file", name], flags].concat())?;
        assert!(said.err.ends_with(text), "{content}: {said:?}");
        assert_eq!(said.code == 0, text.starts_with("configuration OK"), "{content}");
    }
    Ok(())
}

#[test]
fn privileged_two_daemons_do_not_share_roots() -> Result<()> {
    let mut bed = Bed::new()?;
    bed.start()?;
    assert_eq!(fs::metadata(bed.path("docker.sock"))?.permissions().mode() & 0o777, 0o660);
    let (pid, other) = (bed.path("pid"), bed.path("other"));
    let roots = bed.roots();
    let with = |flag: &str, value: &std::path::Path| {
        let mut flags = roots.clone();
        let place = flags.iter().position(|known| known == flag).context("a flag")?;
        flags[place + 1] = value.to_string_lossy().into_owned();
        Ok::<_, anyhow::Error>(flags)
    };
    let refused = |flags: Vec<String>| bed.refused(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    let same = refused(roots.clone())?;
    let text = format!("delete {}: process with PID {} is still running", pid.display(), bed.pid());
    assert!(same.code == 1 && same.err.contains(&text), "{same:?}");
    let same_data = refused(with("--pidfile", &other)?)?;
    assert!(same_data.code == 1 && same_data.err.contains("is in use by another daemon"), "{same_data:?}");
    let mut flags = with("--pidfile", &other)?;
    flags[1] = bed.path("data2").to_string_lossy().into_owned();
    let same_exec = refused(flags)?;
    assert!(same_exec.code == 1 && same_exec.err.contains("is in use by another daemon"), "{same_exec:?}");
    // The first one has not noticed.
    bed.must(&["version"])?;
    bed.signal("TERM")?;
    assert_eq!(bed.ended()?, 0);
    assert!(!bed.path("docker.sock").exists() && !pid.exists(), "it cleans up behind itself");
    Ok(())
}

#[test]
fn privileged_sockets_are_handed_over_and_the_service_manager_is_told() -> Result<()> {
    let bed = Bed::new()?;
    let path = bed.path("notify");
    let ear = UnixDatagram::bind(&path)?;
    ear.set_read_timeout(Some(bed::LIMIT))?;
    let mut bed = bed.variable("NOTIFY_SOCKET", &path.to_string_lossy()).variable("WATCHDOG_USEC", "200000");
    let listener = UnixListener::bind(bed.path("docker.sock"))?;
    bed.start_activated(OwnedFd::from(listener), "fd://api")?;
    let heard = |wanted: &str| {
        let mut buffer = [0; 256];
        loop {
            let length = ear.recv(&mut buffer).with_context(|| format!("waiting for {wanted}"))?;
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.starts_with(wanted) {
                return Ok::<_, anyhow::Error>(text);
            }
        }
    };
    heard("READY=1")?;
    heard("WATCHDOG=1")?;
    bed.signal("HUP")?;
    assert!(heard("RELOADING=1\nMONOTONIC_USEC=")?.len() > 26);
    heard("READY=1")?;
    bed.signal("TERM")?;
    heard("STOPPING=1")?;
    assert_eq!(bed.ended()?, 0);
    Ok(())
}

#[test]
fn privileged_tcp_is_for_those_with_a_certificate() -> Result<()> {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};
    let bed = Bed::new()?;
    let text = |name: &str| bed.path(name).to_string_lossy().into_owned();
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = ca.self_signed(&ca_key)?;
    fs::write(bed.path("ca.pem"), ca.pem())?;
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        params.extended_key_usages = vec![usage];
        fs::write(bed.path(&format!("{name}.pem")), params.signed_by(&key, &ca, &ca_key)?.pem())?;
        fs::write(bed.path(&format!("{name}.key")), key.serialize_pem())?;
    }
    let (ca, cert, key) = (text("ca.pem"), text("server.pem"), text("server.key"));
    let (client_cert, client_key) = (text("client.pem"), text("client.key"));
    let open = bed.refused(
        &[&bed.roots().iter().map(String::as_str).collect::<Vec<_>>()[..], &["-H", "tcp://0.0.0.0:2375"]].concat(),
    )?;
    assert!(open.code == 1 && open.err.contains("without TLS"), "{open:?}");
    let missing = bed.refused(&["--validate", "--tlsverify", "--tlscert", "/no/c", "--tlskey", "/no/k"])?;
    assert!(missing.err.starts_with("invalid TLS configuration: Could not load X509 key pair"), "{missing:?}");

    let mut bed = bed.flags(&[
        "-H",
        "tcp://0.0.0.0:2376",
        "--tlsverify",
        "--tlscacert",
        &ca,
        "--tlscert",
        &cert,
        "--tlskey",
        &key,
    ]);
    bed.start()?;
    bed.import()?;
    let net = format!("--net=/proc/{}/ns/net", bed.pid());
    let client = |flags: &[&str], arguments: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args([&net, "docker", "-H", "tcp://127.0.0.1:2376"]).args(flags).args(arguments);
        run(&mut command)
    };
    let certified = ["--tlsverify", "--tlscacert", &ca, "--tlscert", &client_cert, "--tlskey", &client_key];
    let ran = client(&certified, &["run", "--rm", "--network", "none", "busybox", "seq", "3"])?;
    assert_eq!((ran.out.as_str(), ran.code), ("1\n2\n3\n", 0), "{ran:?}");
    for flags in [&["--tlsverify", "--tlscacert", &ca][..], &[]] {
        let refused = client(flags, &["ps"])?;
        assert_ne!(refused.code, 0, "{flags:?}: {refused:?}");
    }
    Ok(())
}

#[test]
fn privileged_settings_are_reloaded_or_left_alone() -> Result<()> {
    let bed = Bed::new()?;
    let file = bed.path("daemon.json");
    fs::write(&file, r#"{"labels":["a=b"]}"#)?;
    let mut bed = bed.flags(&["--config-file", &file.to_string_lossy()]);
    bed.start()?;
    let labels = |bed: &Bed| bed.must(&["info", "--format", "{{.Labels}} {{.Debug}} {{.LiveRestoreEnabled}}"]);
    assert_eq!(labels(&bed)?, "[a=b] false false");
    fs::write(&file, r#"{"labels":["a=c"],"debug":true,"live-restore":true,"runtimes":{"zz":{"path":"/bin/true"}}}"#)?;
    bed.signal("HUP")?;
    bed.logged("Reloaded configuration")?;
    assert_eq!(labels(&bed)?, "[a=c] true true");
    assert!(bed.must(&["info", "--format", "{{json .Runtimes}}"])?.contains("\"zz\""));
    // The CLI sends whole seconds, so that this one has to be over.
    let until = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 1;
    let events = bed.must(&["events", "--since", "1h", "--until", &until.to_string(), "--format", "{{json .}}"])?;
    let event = events.lines().find(|line| line.contains("\"reload\"")).context("a reload event")?;
    for part in [r#""Type":"daemon""#, r#""labels":"[\"a=c\"]""#, r#""runtimes":"zz:/bin/true""#] {
        assert!(event.contains(part), "{event}");
    }
    for (content, reason) in [
        (r#"{"labels":"#, "unexpected end of JSON input"),
        (r#"{"labels":["a=d"],"default-runtime":"nope"}"#, "specified default runtime 'nope' does not exist"),
    ] {
        fs::write(&file, content)?;
        bed.signal("HUP")?;
        bed.logged(reason)?;
        assert_eq!(labels(&bed)?, "[a=c] true true", "nothing of a bad file is taken");
    }
    bed.signal("USR1")?;
    bed.logged("task dump written to")?;
    let dump = fs::read_dir(bed.path("exec"))?
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with("task-dump"));
    let dump = fs::read_to_string(dump.context("a dump")?.path())?;
    assert!(dump.contains("tasks alive") && dump.contains("supervisor:") && dump.contains("containers: 0"), "{dump}");
    Ok(())
}

#[test]
fn privileged_ends_are_orderly_unless_they_are_forced() -> Result<()> {
    let mut bed = Bed::new()?.flags(&["--shutdown-timeout", "60"]);
    bed.start()?;
    bed.import()?;
    let run = |bed: &Bed, name: &str, script: &str| {
        bed.must(&[
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            "--stop-timeout",
            "60",
            "busybox",
            "sh",
            "-c",
            script,
        ])
    };
    run(&bed, "polite", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.1; done")?;
    // Before its trap is set, process 1 does not hear the signal at all.
    until("the trap", || bed.must(&["logs", "polite"]).ok().filter(|out| out == "ready"))?;
    bed.signal("TERM")?;
    assert_eq!(bed.ended()?, 0);
    // It has answered the daemon and is on its last instructions, or gone.
    until("the supervisor's end, with nothing to watch", || bed.supervisor().is_none().then_some(()))?;
    bed.start()?;
    assert_eq!(bed.must(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "polite"])?, "exited 5");

    run(&bed, "deaf", "trap '' TERM; while :; do sleep 0.1; done")?;
    // The kernel delivers one signal for several that wait, so the next one is sent when the last was heard.
    for times in 1..=3 {
        bed.signal("INT")?;
        if times < 3 {
            let heard = || bed.log().matches("Processing signal 'interrupt'").count() == times;
            until("the signal is heard", || heard().then_some(()))?;
        }
    }
    assert_eq!(bed.ended()?, 130, "the third says: now");
    let mut bed = bed.flags(&["--live-restore"]);
    bed.start()?;
    assert_eq!(bed.must(&["inspect", "-f", "{{.State.Status}}", "deaf"])?, "running", "it was left alone");
    bed.signal("TERM")?;
    assert_eq!(bed.ended()?, 0);
    bed.start()?;
    assert_eq!(bed.must(&["inspect", "-f", "{{.State.Status}}", "deaf"])?, "running", "live-restore");
    bed.must(&["rm", "-f", "deaf", "polite"]).map(drop)
}

/// Every number exactly once, whatever instant the daemon dies at.
#[test]
fn privileged_no_log_line_is_lost_or_doubled() -> Result<()> {
    const LINES: u32 = 200_000;
    const KILLS: u32 = 6;
    let mut bed = Bed::new()?;
    bed.start()?;
    bed.import()?;
    let script = format!("seq 1 {LINES}; printf 'the end'; seq 1 {LINES} >&2; cat");
    let options = ["run", "-d", "-i", "--name", "lines", "--network", "none", "--log-opt", "max-size=200m"];
    bed.must(&[&options[..], &["busybox", "sh", "-c", &script]].concat())?;
    let log = bed.must(&["inspect", "-f", "{{.LogPath}}", "lines"])?;
    let size = || fs::metadata(&log).map_or(0, |meta| meta.len());
    for kill in 1..=KILLS {
        // At another place of the output each time.
        let before = size();
        until("more output", || (size() > before + 40_000 * u64::from(kill) || size() > 16 << 20).then_some(()))?;
        bed.kill()?;
        bed.start()?;
    }
    until("the whole output", || {
        let said = bed.docker(&["logs", "--tail", "1", "lines"]);
        (said.err.trim() == LINES.to_string() || said.out.trim() == LINES.to_string()).then_some(())
    })?;
    bed.must(&["kill", "lines"])?;
    let said = bed.docker(&["logs", "lines"]);
    let numbers: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    ensure!(said.out == format!("{numbers}the end"), "standard output has {} lines", said.out.lines().count());
    ensure!(said.err == numbers, "standard error has {} lines", said.err.lines().count());
    Ok(())
}

#[test]
fn privileged_the_supervisor_is_mortal_too() -> Result<()> {
    let mut bed = Bed::new()?;
    bed.start()?;
    bed.import()?;
    let state = |bed: &Bed, name: &str| bed.must(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name]);
    let script = "while [ ! -e /stop ]; do echo tick; sleep 0.05; done; exit 9";
    bed.must(&["run", "-d", "--name", "one", "--network", "none", "busybox", "sh", "-c", script])?;
    let pid = bed.must(&["inspect", "-f", "{{.State.Pid}}", "one"])?;
    bed.kill_supervisor()?;
    until("a new supervisor", || bed.supervisor())?;
    // The new one knows what runs: the next daemon goes on with it, log and all.
    until("the new one's answer", || {
        (bed.docker(&["run", "--rm", "--network", "none", "busybox", "true"]).code == 0).then_some(())
    })?;
    bed.kill()?;
    bed.start()?;
    assert_eq!(state(&bed, "one")?, "running 0");
    let ticks = |bed: &Bed| bed.docker(&["logs", "one"]).out.lines().count();
    let seen = ticks(&bed);
    until("more ticks", || (ticks(&bed) > seen).then_some(()))?;
    bed.must(&["exec", "one", "sh", "-c", ": > /stop"])?;
    assert_eq!(bed.must(&["wait", "one"])?, "255", "nobody could collect the code");
    let error = bed.must(&["inspect", "-f", "{{.State.Error}}", "one"])?;
    assert!(error.contains("exit code was lost"), "{error}");

    // Both at once: the container is found by its cgroup.
    bed.must(&["run", "-d", "--name", "two", "--network", "none", "busybox", "sleep", "1000"])?;
    let second = bed.must(&["inspect", "-f", "{{.State.Pid}}", "two"])?;
    assert_ne!(pid, second);
    bed.signal("STOP")?;
    bed.kill_supervisor()?;
    bed.kill()?;
    bed.start()?;
    assert_eq!(state(&bed, "two")?, "running 0");
    assert_eq!(bed.must(&["inspect", "-f", "{{.State.Pid}}", "two"])?, second);
    bed.must(&["kill", "two"])?;
    assert_eq!(bed.must(&["wait", "two"])?, "255");
    bed.must(&["rm", "one", "two"]).map(drop)
}

/// A docker-archive of an image of two layers, the second of which hides a file of the first.
fn layered_image(bed: &Bed) -> Result<Vec<u8>> {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].into_iter().find_map(|path| fs::read(path).ok());
    let busybox = busybox.context("busybox-static is not installed")?;
    let tar_of = |files: &[(&str, &[u8])], links: &[&str]| {
        let mut tar = tar::Builder::new(Vec::new());
        let header = |size: u64| {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_mode(0o755);
            header
        };
        for (name, content) in files {
            tar.append_data(&mut header(content.len() as u64), name, *content)?;
        }
        for name in links {
            let mut header = header(0);
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, name, "busybox")?;
        }
        Ok::<_, anyhow::Error>(tar.into_inner()?)
    };
    let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let below = [("bin/busybox", &busybox[..]), ("data/kept", b"below\n"), ("data/hidden", b"x"), ("data/extra", b"x")];
    let below = tar_of(&below, &["bin/sh", "bin/cat", "bin/rm", "bin/ls"])?;
    let above = tar_of(&[("data/.wh.hidden", b""), ("data/above", b"above\n")], &[])?;
    let ids: Vec<String> = [&below, &above].map(|layer| format!("sha256:{}", digest(layer))).into();
    let architecture = bed.must(&["info", "--format", "{{.Architecture}}"])?;
    let architecture = if architecture == "aarch64" { "arm64" } else { "amd64" };
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    })
    .to_string();
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": ["layered:1"], "Layers": ["below.tar", "above.tar"]}
    ])
    .to_string();
    tar_of(
        &[
            ("config.json", config.as_bytes()),
            ("below.tar", &below),
            ("above.tar", &above),
            ("manifest.json", manifest.as_bytes()),
        ],
        &[],
    )
}

/// What a container of [`layered_image`] says of its tree; the first time it writes.
const LOOK: &str =
    "[ -e /written ] || { echo $0 > /written; rm /data/extra; }; cat /written /data/kept /data/above; ls /data";

/// The driver's directories that still have something in them.
fn left_of(bed: &Bed, driver: &str) -> Vec<String> {
    let parts = ["layers", "snapshots"].into_iter().filter(|part| {
        let entries = fs::read_dir(bed.path(&format!("data/{driver}/{part}"))).into_iter().flatten().flatten();
        // Snapshots made ahead are nobody's.
        entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with(".tmp-")).count() > 0
    });
    parts.map(str::to_owned).collect()
}

/// An image belongs to no storage driver, and a container to the one it was made with.
#[test]
fn privileged_storage_drivers_change_and_nothing_is_lost() -> Result<()> {
    let bed = Bed::new()?;
    let roots = bed.roots();
    let flags: Vec<&str> = roots.iter().map(String::as_str).chain(["--storage-driver", "nope"]).collect();
    let refused = bed.refused(&flags)?;
    assert!(refused.code == 1 && refused.err.contains("driver not supported: nope"), "{refused:?}");
    let file = bed.path("daemon.json");
    fs::write(&file, "{}")?;
    let mut bed = bed.flags(&["--config-file", &file.to_string_lossy()]);
    bed.start()?;
    let best = bed.must(&["info", "--format", "{{.Driver}}"])?;
    let archive = bed.path("layered.tar");
    fs::write(&archive, layered_image(&bed)?)?;
    bed.signal("TERM")?;
    assert_eq!(bed.ended()?, 0);

    let mut made: Vec<(String, &str)> = Vec::new();
    let mut image = String::new();
    for driver in ["overlay2", &*best, "vfs", "overlay2", &*best] {
        fs::write(&file, format!("{{\"storage-driver\":\"{driver}\"}}"))?;
        bed.start()?;
        assert_eq!(bed.must(&["info", "--format", "{{.Driver}}"])?, driver);
        let inspect = ["image", "inspect", "-f", "{{.Id}} {{.RootFS.Layers}} {{.Size}}", "layered:1"];
        if made.is_empty() {
            bed.must(&["load", "-i", &archive.to_string_lossy()])?;
            image = bed.must(&inspect)?;
        }
        assert_eq!(bed.must(&inspect)?, image);
        for (name, of) in &made {
            assert_eq!(bed.must(&["inspect", "-f", "{{.GraphDriver.Name}} {{.Driver}}", name])?, format!("{of} {of}"));
            assert_eq!(
                bed.must(&["start", "-a", name])?,
                format!("{name}\nbelow\nabove\nabove\nkept"),
                "under {driver}"
            );
            let changes = bed.must(&["diff", name])?;
            let mut changes: Vec<&str> = changes.lines().collect();
            changes.sort_unstable();
            assert_eq!(changes, ["A /written", "C /data", "D /data/extra"], "{name} under {driver}");
            // An image of it lies upon layers of the driver of now.
            bed.must(&["commit", name, "committed"])?;
            let said = bed.must(&["run", "--rm", "--network", "none", "committed", "sh", "-c", LOOK])?;
            assert_eq!(said, format!("{name}\nbelow\nabove\nabove\nkept"), "of {of} under {driver}");
            bed.must(&["rmi", "committed"])?;
        }
        let name = format!("{driver}-{}", made.len());
        let said = bed.must(&["run", "--name", &name, "--network", "none", "layered:1", "sh", "-c", LOOK, &name])?;
        assert_eq!(said, format!("{name}\nbelow\nabove\nabove\nkept"));
        made.push((name, driver));
        bed.signal("TERM")?;
        assert_eq!(bed.ended()?, 0);
    }
    bed.start()?;
    for driver in ["overlay2", "vfs"].into_iter().filter(|driver| *driver != best) {
        assert_eq!(left_of(&bed, driver), ["layers", "snapshots"]);
        for (name, _) in made.iter().filter(|(_, of)| *of == driver) {
            bed.must(&["rm", name])?;
        }
        // The layer goes behind the reply.
        until("a driver without containers has nothing", || left_of(&bed, driver).is_empty().then_some(()))?;
    }
    assert_eq!(bed.must(&["run", "--rm", "--network", "none", "layered:1", "cat", "/data/above"])?, "above");
    for (name, _) in made.iter().filter(|(_, of)| *of == best) {
        bed.must(&["rm", name])?;
    }
    bed.must(&["rmi", "layered:1"])?;
    assert_eq!(left_of(&bed, &best), Vec::<String>::new());
    Ok(())
}
