//! Volumes, binds and logs on disk: `-v`, `--mount`, copy-up, what `rm -v` takes along; `logs` and the options of its files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use anyhow::{Context, Result};
use compat_tests::golden::Golden;
use compat_tests::{Case, Suite, tests};

fn main() -> ExitCode {
    Suite {
        name: "volumes",
        flags: &[],
        tests: tests![
            copy_up,
            copy_up_keeps_owners,
            no_copy,
            read_only,
            bind,
            bind_file,
            bind_made,
            bind_propagation,
            mount_forms,
            anonymous,
            anonymous_kept,
            list_and_filters,
            in_use,
            prune,
            subpath,
            logs_options,
            logs_follow,
            logs_since_until,
            logs_rotation,
            logs_none,
            logs_labels,
            logs_file,
            logs_long_lines,
            logs_details,
        ],
    }
    .main()
}

fn copy_up(t: &Case<'_>) -> Result<()> {
    let option = format!("{}:/data", t.volume("v"));
    assert_eq!(
        t.shell(&["-v", &option], "cat /data/from-image; echo kept > /data/file; rm /data/from-image")?,
        "copied"
    );
    assert_eq!(t.shell(&["-v", &option], "ls /data")?, "file", "only into an empty volume");
    Ok(())
}

fn copy_up_keeps_owners(t: &Case<'_>) -> Result<()> {
    let (made, tag) = (t.container("maker"), t.tag("owned"));
    let script = "chown user:extra /data && chmod 2750 /data && touch /data/f && chown 7:8 /data/f && chmod 4711 /data/f && ln -s f /data/l";
    t.docker(&["run", "--network", "none", "--name", &made, t.image(), "sh", "-c", script]).ok()?;
    let commit = t.docker(&["commit", &made, &tag]);
    commit.ok().context("commit")?;
    let option = format!("{}:/data", t.volume("v"));
    let list = "stat -c '%a %u %g' /data /data/f; readlink /data/l";
    let out = t.docker(&["run", "--rm", "--network", "none", "-v", &option, &tag, "sh", "-c", list]).ok()?;
    assert_eq!(out, "2750 1000 2000\n4711 7 8\nf");
    Ok(())
}

fn no_copy(t: &Case<'_>) -> Result<()> {
    let option = format!("{}:/data:nocopy", t.volume("v"));
    assert_eq!(t.shell(&["-v", &option], "ls /data")?, "");
    let mount = format!("type=volume,source={},target=/data,volume-nocopy", t.volume("w"));
    assert_eq!(t.shell(&["--mount", &mount], "ls /data")?, "");
    Ok(())
}

fn read_only(t: &Case<'_>) -> Result<()> {
    let volume = t.volume("v");
    t.shell(&["-v", &format!("{volume}:/data")], "true")?;
    for options in [
        ["-v", &format!("{volume}:/data:ro")],
        ["--mount", &format!("source={volume},target=/data,readonly")],
        ["--mount", &format!("type=volume,src={volume},dst=/data,ro=true")],
    ] {
        let refused = t.run(&options, &["touch", "/data/x"]);
        assert!(refused.err.contains("Read-only file system"), "{options:?} {}", refused.err);
        assert_eq!(t.run(&options, &["cat", "/data/from-image"]).out, "copied");
    }
    Ok(())
}

fn bind(t: &Case<'_>) -> Result<()> {
    let (seen, here) = t.files("shared")?;
    fs::write(here.join("file"), "host\n")?;
    assert_eq!(t.shell(&["-v", &format!("{seen}:/host")], "cat /host/file; echo box > /host/back")?, "host");
    assert_eq!(fs::read_to_string(here.join("back"))?, "box\n");
    let refused = t.run(&["-v", &format!("{seen}:/host:ro")], &["touch", "/host/x"]);
    assert!(refused.err.contains("Read-only file system"), "{}", refused.err);
    // A bind hides what the image has there, and is not filled from it.
    assert_eq!(t.shell(&["-v", &format!("{seen}:/data")], "ls /data")?, "back\nfile");
    Ok(())
}

fn bind_file(t: &Case<'_>) -> Result<()> {
    let (seen, here) = t.files("shared")?;
    fs::write(here.join("file"), "over\n")?;
    assert_eq!(t.shell(&["-v", &format!("{seen}/file:/etc/group")], "cat /etc/group")?, "over");
    assert_eq!(t.shell(&["-v", &format!("{seen}/file:/new/deep/file")], "cat /new/deep/file")?, "over");
    let wrong = t.run(&["-v", &format!("{seen}/file:/data")], &["true"]);
    assert_eq!(wrong.code, 125);
    let hint = "Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists and \
                is the expected type";
    assert!(wrong.err.contains(hint), "{}", wrong.err);
    Ok(())
}

fn bind_made(t: &Case<'_>) -> Result<()> {
    let (seen, here) = t.files("shared")?;
    t.shell(&["-v", &format!("{seen}/new/deep:/x")], "touch /x/file")?;
    assert!(here.join("new/deep/file").exists());
    assert_eq!(fs::metadata(here.join("new/deep"))?.permissions().mode() & 0o7777, 0o755);
    let refused = t.run(&["--mount", &format!("type=bind,source={seen}/nope,target=/x")], &["true"]);
    let text = format!("invalid mount config for type \"bind\": bind source path does not exist: {seen}/nope");
    assert!(refused.code == 125 && refused.err.contains(&text), "{}", refused.err);
    Ok(())
}

fn bind_propagation(t: &Case<'_>) -> Result<()> {
    let (seen, _) = t.files("shared")?;
    let flags = |option: &str| {
        t.shell(
            &["-v", &format!("{seen}:/x{option}")],
            "awk '$5 == \"/x\" {print $7 ~ /:/ ? $7 : \"private\"}' /proc/self/mountinfo",
        )
    };
    assert_eq!(flags("")?, "private");
    assert_eq!(flags(":rprivate")?, "private");
    Ok(())
}

fn mount_forms(t: &Case<'_>) -> Result<()> {
    let (seen, here) = t.files("shared")?;
    fs::write(here.join("file"), "host\n")?;
    let volume = t.volume("v");
    for (form, command, wanted) in [
        (format!("type=bind,src={seen},dst=/x"), "cat /x/file", "host"),
        (format!("type=bind,source={seen},destination=/x,readonly"), "cat /x/file", "host"),
        (format!("source={volume},target=/data"), "cat /data/from-image", "copied"),
        ("type=volume,target=/data".to_owned(), "cat /data/from-image", "copied"),
        ("type=tmpfs,target=/data".to_owned(), "ls /data | wc -l", "0"),
    ] {
        assert_eq!(t.shell(&["--mount", &form], command)?, wanted, "{form}");
    }
    Ok(())
}

fn anonymous(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &["-v", "/anonymous"], &["true"])?;
    let volume = t.inspect(&name, "{{(index .Mounts 0).Name}}");
    assert_eq!(volume.len(), 64);
    assert_eq!(
        t.docker(&["volume", "inspect", "-f", "{{json .Labels}}", &volume]).out,
        r#"{"com.docker.volume.anonymous":""}"#
    );
    t.docker(&["rm", "-v", &name]).ok()?;
    assert_ne!(t.docker(&["volume", "inspect", &volume]).code, 0);
    // With --rm it goes with the container; a named one stays.
    let (named, second) = (t.volume("named"), t.container("second"));
    let run = [
        "run",
        "-d",
        "--rm",
        "--network",
        "none",
        "--name",
        &second,
        "-v",
        "/anonymous",
        "-v",
        &format!("{named}:/n"),
        t.image(),
        "sleep",
        "1000",
    ];
    t.docker(&run).ok()?;
    let mounts = t.inspect(&second, "{{range .Mounts}}{{.Name}} {{end}}");
    let anonymous = mounts.split(' ').find(|name| name.len() == 64).context("no anonymous volume")?.to_owned();
    t.docker(&["stop", "-t", "0", &second]).ok()?;
    t.wait_until(&["volume", "inspect", &anonymous], |ran| ran.code != 0)?;
    t.docker(&["volume", "inspect", &named]).ok()?;
    Ok(())
}

fn anonymous_kept(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &["-v", "/anonymous"], &["true"])?;
    let volume = t.inspect(&name, "{{(index .Mounts 0).Name}}");
    t.docker(&["rm", &name]).ok()?;
    t.docker(&["volume", "inspect", &volume]).ok().context("rm without -v keeps it")?;
    t.docker(&["volume", "rm", &volume]).ok()?;
    Ok(())
}

fn list_and_filters(t: &Case<'_>) -> Result<()> {
    let (one, two) = (t.volume("one"), t.volume("two"));
    t.docker(&["volume", "create", "--label", "a=1", &one]).ok()?;
    t.docker(&["volume", "create", &two]).ok()?;
    t.create("c", &["-v", &format!("{two}:/x")], &["true"])?;
    let list = |filter: &str| -> Result<Vec<String>> {
        let out = t.docker(&["volume", "ls", "-q", "-f", filter, "-f", &format!("name={}", t.prefix())]).ok()?;
        Ok(out.lines().map(str::to_owned).collect())
    };
    assert_eq!(list("driver=local")?, [one.clone(), two.clone()]);
    assert_eq!(list("label=a")?, std::slice::from_ref(&one));
    assert_eq!(list("label=a=2")?, Vec::<String>::new());
    assert_eq!(list("dangling=true")?, std::slice::from_ref(&one));
    assert_eq!(list("dangling=false")?, [two]);
    Ok(())
}

fn in_use(t: &Case<'_>) -> Result<()> {
    let volume = t.volume("v");
    let name = t.create("c", &["-v", &format!("{volume}:/x")], &["true"])?;
    let id = t.inspect(&name, "{{.Id}}");
    let refused = t.http("DELETE", &format!("/volumes/{volume}"))?;
    assert_eq!((refused.status, refused.message()), (409, format!("remove {volume}: volume is in use - [{id}]")));
    t.docker(&["rm", &name]).ok()?;
    assert_eq!(t.docker(&["volume", "rm", &volume]).out, volume);
    Ok(())
}

fn prune(t: &Case<'_>) -> Result<()> {
    let (volume, label) = (t.volume("v"), format!("prune={}", t.prefix()));
    t.docker(&["volume", "create", "--label", &label, &volume]).ok()?;
    let filter = format!("label={label}");
    let kept = t.docker(&["volume", "prune", "-f", "--filter", &filter]).ok()?;
    assert_eq!(kept, "Total reclaimed space: 0B", "named ones only with --all");
    let gone = t.docker(&["volume", "prune", "-f", "-a", "--filter", &filter]).ok()?;
    assert_eq!(gone, format!("Deleted Volumes:\n{volume}\n\nTotal reclaimed space: 0B"));
    Ok(())
}

fn subpath(t: &Case<'_>) -> Result<()> {
    let volume = t.volume("v");
    t.shell(&["-v", &format!("{volume}:/v")], "mkdir -p /v/sub && echo deep > /v/sub/f && ln -s / /v/out")?;
    let mount = |path: &str| format!("type=volume,source={volume},target=/x,volume-subpath={path}");
    assert_eq!(t.shell(&["--mount", &mount("sub")], "cat /x/f")?, "deep");
    assert_ne!(t.run(&["--mount", &mount("nope")], &["true"]).code, 0);
    assert_eq!(t.run(&["--mount", &mount("../..")], &["true"]).code, 125);
    assert_ne!(t.run(&["--mount", &mount("out/etc")], &["true"]).code, 0);
    Ok(())
}

/// A container that has written ten numbered lines and ended.
fn numbered(t: &Case<'_>, options: &[&str]) -> Result<String> {
    let name = t.start(
        "c",
        options,
        &["sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do echo line $i; done; sleep 0.2; echo bad >&2"],
    )?;
    t.docker(&["wait", &name]).ok()?;
    Ok(name)
}

fn logs_options(t: &Case<'_>) -> Result<()> {
    let name = numbered(t, &[])?;
    let all = t.docker(&["logs", &name]);
    assert_eq!((all.out.lines().count(), all.err.as_str()), (10, "bad"));
    for (tail, wanted) in [("3", 3), ("0", 0), ("all", 11), ("100", 11), ("-1", 11)] {
        let ran = t.docker(&["logs", "--tail", tail, &name]);
        assert_eq!(ran.out.lines().count() + ran.err.lines().count(), wanted, "--tail {tail}");
    }
    let ran = t.docker(&["logs", "-t", "--tail", "2", &name]);
    let (time, text) = ran.out.split_once(' ').context("time")?;
    assert_eq!((text, time.len()), ("line 10", 30));
    Ok(())
}

fn logs_follow(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &[], &["sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.05; done"])?;
    assert_eq!(t.docker(&["logs", "-f", &name]).out, "1\n2\n3\n4\n5", "ends when the container does");
    assert_eq!(t.docker(&["logs", "-f", "--tail", "2", &name]).out, "4\n5");
    Ok(())
}

fn logs_since_until(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &[], &["sh", "-c", "echo one; sleep 1.2; echo two"])?;
    t.docker(&["wait", &name]).ok()?;
    let times = t.docker(&["logs", "-t", &name]).ok()?;
    let second = times.lines().nth(1).and_then(|line| line.split(' ').next()).context("second line")?.to_owned();
    assert_eq!(t.docker(&["logs", "--since", &second, &name]).out, "two");
    assert_eq!(t.docker(&["logs", "--since", "1h", &name]).out, "one\ntwo");
    assert_eq!(t.docker(&["logs", "--since", "2100-01-01T00:00:00Z", &name]).out, "");
    let first = times.split(' ').next().context("first line")?;
    assert_eq!(t.docker(&["logs", "--until", first, &name]).out, "one");
    Ok(())
}

fn logs_rotation(t: &Case<'_>) -> Result<()> {
    let options = ["--log-opt", "max-size=2k", "--log-opt", "max-file=3"];
    let name = t.start("c", &options, &["seq", "1", "200"])?;
    t.docker(&["wait", &name]).ok()?;
    let out = t.docker(&["logs", &name]).ok()?;
    let lines: Vec<u32> = out.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(lines.len() < 200 && lines.len() > 20, "{} lines are kept", lines.len());
    assert!(lines.windows(2).all(|pair| pair[0] + 1 == pair[1]) && lines.last() == Some(&200), "{lines:?}");
    assert_eq!(t.docker(&["logs", "--tail", "5", &name]).out, "196\n197\n198\n199\n200");
    Ok(())
}

fn logs_none(t: &Case<'_>) -> Result<()> {
    let name = numbered(t, &["--log-driver", "none"])?;
    let refused = t.http("GET", &format!("/containers/{name}/logs?stdout=1"))?;
    assert_eq!(
        (refused.status, refused.message().as_str()),
        (501, "configured logging driver does not support reading")
    );
    Ok(())
}

/// The log file's lines.
fn file(t: &Case<'_>, name: &str) -> Result<Vec<serde_json::Value>> {
    let path = t.inspect(name, "{{.LogPath}}");
    let text = fs::read_to_string(t.host().path(path.as_ref()))?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn logs_labels(t: &Case<'_>) -> Result<()> {
    let options = ["--log-opt", "labels=a", "--log-opt", "env=E", "-l", "a=1", "-l", "b=2", "-e", "E=x"];
    let name = numbered(t, &options)?;
    assert_eq!(file(t, &name)?[0]["attrs"], serde_json::json!({"a": "1", "E": "x"}));
    assert_eq!(t.docker(&["logs", "--details", "--tail", "2", &name]).out, "E=x,a=1 line 10");
    Ok(())
}

fn logs_file(t: &Case<'_>) -> Result<()> {
    let name = numbered(t, &[])?;
    let lines = file(t, &name)?;
    assert_eq!(lines.len(), 11);
    let keys: Vec<&str> = lines[0].as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["log", "stream", "time"]);
    let first = lines.iter().find(|line| line["stream"] == "stdout").context("no line of stdout")?;
    assert_eq!(first["log"], "line 1\n");
    let path = t.inspect(&name, "{{.LogPath}}");
    let mode = fs::metadata(t.host().path(path.as_ref()))?.permissions().mode() & 0o7777;
    assert_eq!(mode, 0o640);
    Ok(())
}

fn logs_long_lines(t: &Case<'_>) -> Result<()> {
    let script = "head -c 40000 /dev/zero | tr '\\0' x; echo; printf 'no end'";
    let name = t.start("c", &[], &["sh", "-c", script])?;
    t.docker(&["wait", &name]).ok()?;
    let lengths: Vec<usize> =
        file(t, &name)?.iter().map(|line| line["log"].as_str().unwrap_or_default().len()).collect();
    assert_eq!(lengths, [16384, 16384, 7233, 6]);
    let out = t.docker(&["logs", &name]).ok()?;
    assert_eq!(out.len(), 40_000 + 1 + 6);
    Ok(())
}

fn logs_details(t: &Case<'_>) -> Result<()> {
    let name = numbered(t, &[])?;
    let out = t.docker(&["logs", "--details", "--tail", "2", &name]).out;
    Golden::new(t).check_text(t, "logs-details", &out)
}
