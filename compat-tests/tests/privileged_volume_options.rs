//! Volumes of the local driver with options: what is refused, and devices that are mounted while a container runs.

use std::fs;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use compat_tests::{Case, Suite, tests};
use serde_json::json;

fn main() -> ExitCode {
    Suite {
        name: "volume-options",
        flags: &[],
        tests: tests![refused, tmpfs, directory, directory_copy_up, shared_mount, created_again, names, failed_mount],
    }
    .main()
}

fn refused(t: &Case<'_>) -> Result<()> {
    let name = t.volume("v");
    for (options, words) in [
        (json!({"foo": "bar"}), "invalid option: \"foo\""),
        (json!({"type": "tmpfs"}), "missing required option: \"device\""),
        (json!({"device": "x"}), "missing required option: \"type\""),
        (json!({"o": "size=10m"}), "missing required option: \"device\""),
        (json!({"size": "x"}), "invalid size: 'x'"),
        (json!({"size": "10m"}), "quota size requested but no quota support"),
    ] {
        let answer = t.http_json("POST", "/v1.51/volumes/create", &json!({"Name": name, "DriverOpts": options}))?;
        assert_eq!((answer.status, answer.message()), (400, format!("create {name}: {words}")), "{options}");
    }
    let answer = t.http_json("POST", "/v1.51/volumes/create", &json!({"Name": name, "Driver": "foo"}))?;
    let text = format!("create {name}: error looking up volume plugin foo: plugin \"foo\" not found");
    assert_eq!((answer.status, answer.message()), (404, text));
    let answer = t.http_json("POST", "/v1.51/volumes/create", &json!({"Name": "x"}))?;
    let text = "create x: volume name is too short, names should be at least two alphanumeric characters";
    assert_eq!((answer.status, answer.message().as_str()), (400, text));
    Ok(())
}

fn tmpfs(t: &Case<'_>) -> Result<()> {
    let name = t.volume("v");
    let options = ["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "o=size=3m,uid=1000,mode=700"];
    t.docker(&[&options[..], &[&name]].concat()).ok()?;
    let shown = t.docker(&["volume", "inspect", "-f", "{{json .Options}}", &name]).ok()?;
    assert_eq!(shown, r#"{"device":"tmpfs","o":"size=3m,uid=1000,mode=700","type":"tmpfs"}"#);
    let mount = format!("{name}:/v");
    let seen =
        t.shell(&["-v", &mount], "stat -c '%u %a' /v; df -k /v | tail -1 | awk '{print $2}'; touch /v/x; ls /v")?;
    assert_eq!(seen, "1000 700\n3072\nx");
    assert_eq!(t.shell(&["-v", &mount], "ls /v")?, "", "it goes with its last container");
    Ok(())
}

fn directory(t: &Case<'_>) -> Result<()> {
    let name = t.volume("v");
    let (seen, here) = t.files("shared")?;
    fs::write(here.join("file"), "outside\n")?;
    let device = format!("device={seen}");
    t.docker(&["volume", "create", "-o", "type=none", "-o", &device, "-o", "o=bind", &name]).ok()?;
    let mount = format!("{name}:/v");
    assert_eq!(t.shell(&["-v", &mount], "cat /v/file; echo inside > /v/new")?, "outside");
    assert_eq!(fs::read_to_string(here.join("new"))?, "inside\n");
    t.docker(&["volume", "rm", &name]).ok()?;
    assert!(here.join("file").exists(), "what was mounted is not the volume's");
    Ok(())
}

fn directory_copy_up(t: &Case<'_>) -> Result<()> {
    let name = t.volume("v");
    let (seen, here) = t.files("empty")?;
    let device = format!("device={seen}");
    t.docker(&["volume", "create", "-o", "type=none", "-o", &device, "-o", "o=bind", &name]).ok()?;
    assert_eq!(t.shell(&["-v", &format!("{name}:/data")], "cat /data/from-image")?, "copied");
    assert_eq!(fs::read_to_string(here.join("from-image"))?, "copied\n");
    Ok(())
}

fn shared_mount(t: &Case<'_>) -> Result<()> {
    let name = t.volume("v");
    t.docker(&["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", &name]).ok()?;
    let mount = format!("{name}:/v");
    let first = t.start("first", &["-v", &mount], &["sh", "-c", "touch /v/from-first; echo done; exec sleep 1000"])?;
    t.wait_for(&["logs", &first], "done")?;
    let second = t.sleeper("second", &["-v", &mount])?;
    assert_eq!(t.shell(&["-v", &mount], "ls /v")?, "from-first");
    t.docker(&["rm", "-f", &first]).ok()?;
    assert_eq!(t.shell(&["-v", &mount], "ls /v")?, "from-first", "it is still mounted");
    let in_use = t.docker(&["volume", "rm", &name]);
    assert!(in_use.err.contains(&format!("remove {name}: volume is in use - [")), "{}", in_use.err);
    t.docker(&["rm", "-f", &second]).ok()?;
    t.docker(&["volume", "rm", &name]).ok()?;
    Ok(())
}

fn created_again(t: &Case<'_>) -> Result<()> {
    let name = t.volume("v");
    t.docker(&["volume", "create", "--label", "a=b", &name]).ok()?;
    // The one that is there is what one gets.
    t.docker(&["volume", "create", "--label", "a=c", "-o", "type=tmpfs", "-o", "device=tmpfs", &name]).ok()?;
    let shown = t.docker(&["volume", "inspect", "-f", "{{json .Labels}} {{json .Options}}", &name]).ok()?;
    assert_eq!(shown, r#"{"a":"b"} null"#);
    Ok(())
}

fn names(t: &Case<'_>) -> Result<()> {
    let (one, two) = (t.volume("one"), t.volume("two"));
    t.docker(&["volume", "create", &one]).ok()?;
    t.docker(&["volume", "create", &two]).ok()?;
    let list = |filter: String| t.docker(&["volume", "ls", "-q", "--filter", &filter]).out;
    assert_eq!(list(format!("name=^{one}$")), one);
    assert_eq!(list(format!("name={}", t.prefix())), format!("{one}\n{two}"));
    assert_eq!(list(format!("name={}-t.o", t.prefix())), two);
    let answer = t.http("POST", "/v1.51/volumes/prune?filters=%7B%22label%22%3A%5B%22no-such-label%22%5D%7D")?;
    assert_eq!(answer.json()?, json!({"VolumesDeleted": [], "SpaceReclaimed": 0}));
    let answer = t.http("POST", "/v1.51/volumes/prune?filters=%7B%22all%22%3A%5B%22x%22%5D%7D")?;
    let text = "invalid filter 'all': strconv.ParseBool: parsing \"x\": invalid syntax";
    assert_eq!((answer.status, answer.message().as_str()), (400, text));
    Ok(())
}

fn failed_mount(t: &Case<'_>) -> Result<()> {
    let name = t.volume("v");
    t.docker(&["volume", "create", "-o", "type=none", "-o", "device=/no/such/place", "-o", "o=bind", &name]).ok()?;
    let ran = t.run(&["-v", &format!("{name}:/v")], &["true"]);
    // Not 125, because of the words at the end.
    ensure!(ran.code == 127, "{} {}", ran.code, ran.err);
    for words in [
        "error while mounting volume '",
        "failed to mount local volume: mount /no/such/place:",
        "flags: 0x1000: no such file or directory",
    ] {
        assert!(ran.err.contains(words), "{}", ran.err);
    }
    t.docker(&["volume", "rm", &name]).ok()?;
    Ok(())
}
