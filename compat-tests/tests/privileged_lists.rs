//! `ps` with filters, formats and sizes; `events` with filters; `info` and `version` as the CLI shows them.

use std::process::ExitCode;

use anyhow::Result;
use compat_tests::golden::Golden;
use compat_tests::{Case, Suite, tests};
use serde_json::{Value, json};

fn main() -> ExitCode {
    Suite {
        name: "lists",
        flags: &[],
        tests: tests![
            ps_filters,
            ps_formats,
            ps_order_and_limit,
            ps_size,
            ps_status_texts,
            events_of_a_life,
            events_of_an_exec,
            events_of_volumes_and_images,
            events_filters,
            events_since_until,
            events_format,
            info_and_version,
        ],
    }
    .main()
}

/// Names the filters leave of this test's containers, without the prefix, sorted.
fn ps(t: &Case<'_>, filters: &[&str]) -> Result<Vec<String>> {
    let mut words = vec!["ps".to_owned(), "-a".to_owned(), "--format".to_owned(), "{{.Names}}".to_owned()];
    for filter in filters {
        words.extend(["-f".to_owned(), (*filter).to_owned()]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let out = t.docker(&words).ok()?;
    let prefix = format!("{}-", t.prefix());
    let mut names: Vec<String> = out.lines().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())).collect();
    names.sort();
    Ok(names)
}

fn ps_filters(t: &Case<'_>) -> Result<()> {
    let volume = t.volume("v");
    t.create("one", &["-l", "a=1", "-l", "b=2", "-v", &format!("{volume}:/v")], &["true"])?;
    let two = t.start("two", &["-l", "a=2", "--expose", "443"], &["sh", "-c", "exit 3"])?;
    t.docker(&["wait", &two]).ok()?;
    let three = t.sleeper("three", &["-l", "a=1"])?;
    let paused = t.sleeper("four", &[])?;
    t.docker(&["pause", &paused]).ok()?;
    let name = |what: &str| format!("{}-{what}", t.prefix());
    let id = t.inspect(&three, "{{.Id}}");
    let image =
        t.http("GET", &format!("/images/{}/json", t.image()))?.json()?["Id"].as_str().unwrap_or_default().to_owned();
    let of_test = format!("name={}", t.prefix());
    let cases: [(Vec<String>, &[&str]); 27] = [
        (vec!["label=a".into()], &["one", "three", "two"]),
        (vec!["label=a=1".into()], &["one", "three"]),
        (vec!["label=a=1".into(), "label=b".into()], &["one"]),
        (vec!["label=a=1".into(), "label=a=2".into()], &[]),
        (vec!["label=nope".into()], &[]),
        (vec![format!("name={}", name("one"))], &["one"]),
        (vec![format!("name=^/{}$", name("one"))], &["one"]),
        (vec![format!("name=^{}$", name("t[wh].*"))], &["three", "two"]),
        (vec![format!("name={}", name("one")), format!("name={}", name("two"))], &["one", "two"]),
        (vec![format!("id={}", &id[..8])], &["three"]),
        (vec![format!("id={id}")], &["three"]),
        (vec!["status=running".into()], &["three"]),
        (vec!["status=paused".into()], &["four"]),
        (vec!["status=created".into()], &["one"]),
        (vec!["status=exited".into(), "status=paused".into()], &["four", "two"]),
        (vec!["exited=3".into()], &["two"]),
        (vec!["exited=4".into()], &[]),
        (vec![format!("before={}", name("two"))], &["one"]),
        (vec![format!("since={}", name("two"))], &["four", "three"]),
        (vec![format!("ancestor={}", t.image())], &["four", "one", "three", "two"]),
        (vec![format!("ancestor={image}")], &["four", "one", "three", "two"]),
        (vec!["ancestor=nope".into()], &[]),
        (vec![format!("volume={volume}")], &["one"]),
        (vec!["volume=/v".into()], &["one"]),
        (vec!["network=none".into()], &["four", "one", "three", "two"]),
        (vec!["is-task=false".into()], &["four", "one", "three", "two"]),
        (vec!["health=none".into()], &["four", "one", "three", "two"]),
    ];
    for (filters, wanted) in cases {
        let mut filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        // Others may use the daemon, too; names of one filter key are alternatives, so only where there is none.
        if !filters.iter().any(|filter| filter.starts_with("name=")) {
            filters.push(&of_test);
        }
        assert_eq!(ps(t, &filters)?, wanted, "{filters:?}");
    }
    Ok(())
}

fn ps_formats(t: &Case<'_>) -> Result<()> {
    let volume = t.volume("v");
    t.create(
        "one",
        &["-l", "b=2", "-l", "a=1", "-v", &format!("{volume}:/v"), "--expose", "80"],
        &["echo", "a long command that is cut"],
    )?;
    let filter = format!("name={}", t.prefix());
    for (name, format) in [
        (
            "line",
            "{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Status}} {{.Ports}} {{.Labels}} {{.Networks}} {{.Mounts}} {{.LocalVolumes}}",
        ),
        ("labels", "{{.Label \"a\"}} {{.Label \"nope\"}}"),
        ("no-trunc", "{{.ID}} {{.Command}}"),
    ] {
        let mut words = vec!["ps", "-a", "-f", &filter, "--format", format];
        if name == "no-trunc" {
            words.push("--no-trunc");
        }
        // The volume's name is cut in the middle of what is replaced.
        let out = t.docker(&words).ok()?.replace(&volume[..14], "<volume>");
        Golden::new(t).check_text(t, &format!("ps-{name}"), &out)?;
    }
    let head = t.docker(&["ps", "-a", "-f", &filter]).ok()?;
    let head: Vec<&str> =
        head.lines().next().unwrap_or_default().split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
    assert_eq!(head, ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"]);
    let quiet = t.docker(&["ps", "-aq", "-f", &filter]).ok()?;
    assert_eq!(quiet.len(), 12);
    Ok(())
}

fn ps_order_and_limit(t: &Case<'_>) -> Result<()> {
    for what in ["a", "b", "c"] {
        t.create(what, &[], &["true"])?;
    }
    let filter = format!("name={}", t.prefix());
    let names = |more: &[&str]| -> Result<Vec<String>> {
        let out = t.docker(&[&["ps", "--format", "{{.Names}}", "-f", &filter], more].concat()).ok()?;
        Ok(out.lines().map(|name| name.rsplit('-').next().unwrap_or_default().to_owned()).collect())
    };
    assert_eq!(names(&["-a"])?, ["c", "b", "a"], "newest first");
    assert_eq!(names(&["-n", "2"])?, ["c", "b"]);
    assert_eq!(names(&["-l"])?, ["c"]);
    assert!(names(&[])?.is_empty(), "only what runs");
    Ok(())
}

fn ps_size(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &[], &["sh", "-c", "head -c 123000 /dev/zero > /x"])?;
    t.docker(&["wait", &name]).ok()?;
    let size = t.docker(&["ps", "-as", "-f", &format!("name={name}"), "--format", "{{.Size}}"]).ok()?;
    assert!(size.starts_with("123kB (virtual "), "{size}");
    Ok(())
}

fn ps_status_texts(t: &Case<'_>) -> Result<()> {
    let status = |name: &str| t.docker(&["ps", "-a", "-f", &format!("name=^{name}$"), "--format", "{{.Status}}"]).out;
    let created = t.create("created", &[], &["true"])?;
    assert_eq!(status(&created), "Created");
    let exited = t.start("exited", &[], &["sh", "-c", "exit 3"])?;
    t.docker(&["wait", &exited]).ok()?;
    let text = status(&exited);
    assert!(text.starts_with("Exited (3) ") && text.ends_with(" ago"), "{text}");
    let up = t.sleeper("up", &[])?;
    assert!(status(&up).starts_with("Up "), "{}", status(&up));
    let restarting = t.start("restarting", &["--restart", "always"], &["sh", "-c", "exit 4"])?;
    let ps = ["ps", "-a", "-f", &format!("name=^{restarting}$"), "--format", "{{.Status}}"];
    t.wait_until(&ps, |ran| ran.out.starts_with("Restarting (4) "))?;
    Ok(())
}

/// Events of what `filter` names, as `Type Action` with the attributes that do not vary.
fn events(t: &Case<'_>, filters: &[&str]) -> Result<Vec<Value>> {
    let now = t.now();
    let mut words = vec!["events", "--since", "5m", "--until", &now, "--format", "{{json .}}"];
    for filter in filters {
        words.extend(["-f", filter]);
    }
    let out = t.docker(&words).ok()?;
    out.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn check_events(t: &Case<'_>, name: &str, events: Vec<Value>) -> Result<()> {
    let list = events.into_iter().map(|mut event| {
        for key in ["time", "timeNano"] {
            event[key] = Value::Null;
        }
        if !event["Actor"]["Attributes"]["execDuration"].is_null() {
            event["Actor"]["Attributes"]["execDuration"] = json!("<seconds>");
        }
        event
    });
    Golden::new(t).check(t, name, &list.collect())
}

fn events_of_a_life(t: &Case<'_>) -> Result<()> {
    let name = t.create(
        "c",
        &["-l", "own=label"],
        &["sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done"],
    )?;
    let id = t.inspect(&name, "{{.Id}}");
    t.docker(&["start", &name]).ok()?;
    t.wait_for(&["logs", &name], "ready")?;
    t.docker(&["pause", &name]).ok()?;
    t.docker(&["unpause", &name]).ok()?;
    t.docker(&["top", &name]).ok()?;
    t.docker(&["stop", &name]).ok()?;
    t.docker(&["start", &name]).ok()?;
    let renamed = t.container("renamed");
    t.docker(&["rename", &name, &renamed]).ok()?;
    t.docker(&["kill", &renamed]).ok()?;
    t.docker(&["wait", &renamed]).ok()?;
    t.docker(&["rm", &renamed]).ok()?;
    let mut all = events(t, &[&format!("container={id}"), "type=container"])?;
    // The container's end and the client's stop come about at the same instant.
    if let Some(at) = all.windows(2).position(|pair| pair[0]["Action"] == "die" && pair[1]["Action"] == "stop") {
        all.swap(at, at + 1);
    }
    check_events(t, "events-life", all)
}

fn events_of_an_exec(t: &Case<'_>) -> Result<()> {
    let name = t.sleeper("c", &[])?;
    t.docker(&["exec", &name, "sh", "-c", "exit 5"]);
    t.docker(&["exec", "-d", &name, "true"]).ok()?;
    let filter = format!("container={name}");
    let words = ["events", "--since", "5m", "--until", "0s", "-f", &filter, "-f", "event=exec_die"];
    t.wait_until(&words, |ran| ran.out.lines().count() == 2)?;
    let mut all = events(t, &[&filter, "event=exec_create", "event=exec_start", "event=exec_die"])?;
    // The second one's end may come before or after what its client does.
    all.truncate(3);
    check_events(t, "events-exec", all)
}

fn events_of_volumes_and_images(t: &Case<'_>) -> Result<()> {
    let (volume, tag) = (t.volume("v"), t.tag("i"));
    t.docker(&["volume", "create", "-d", "local", &volume]).ok()?;
    let name = t.start("c", &["-v", &format!("{volume}:/v:ro")], &["true"])?;
    let id = t.inspect(&name, "{{.Id}}");
    t.docker(&["wait", &name]).ok()?;
    t.docker(&["rm", &name]).ok()?;
    t.docker(&["volume", "rm", &volume]).ok()?;
    let mut all = events(t, &["type=volume", &format!("volume={volume}")])?;
    all.extend(events(t, &["type=container", &format!("container={id}"), "event=die"])?);
    t.docker(&["tag", t.image(), &tag]).ok()?;
    t.docker(&["rmi", &tag]).ok()?;
    all.extend(events(t, &["type=image", &format!("image={tag}")])?);
    check_events(t, "events-volumes-images", all)
}

fn events_filters(t: &Case<'_>) -> Result<()> {
    let name = t.start("c", &["-l", "own=label"], &["true"])?;
    t.docker(&["wait", &name]).ok()?;
    let id = t.inspect(&name, "{{.Id}}");
    let actions = |filters: &[&str]| -> Result<Vec<String>> {
        let list = events(t, filters)?;
        Ok(list.iter().map(|event| event["Action"].as_str().unwrap_or_default().to_owned()).collect())
    };
    let container = format!("container={name}");
    assert_eq!(actions(&[&container, "type=container"])?, ["create", "start", "die"]);
    assert_eq!(actions(&[&container, "event=start"])?, ["start"]);
    assert_eq!(actions(&[&container, "event=create", "event=die"])?, ["create", "die"]);
    assert_eq!(actions(&[&format!("container={id}"), "type=container", "label=own=label"])?.len(), 3);
    assert_eq!(actions(&[&container, "type=container", "label=own"])?.len(), 3);
    assert!(actions(&[&container, "label=other"])?.is_empty());
    assert!(actions(&[&container, "type=image"])?.is_empty());
    assert_eq!(actions(&[&container, "type=container", &format!("image={}", t.image())])?.len(), 3);
    assert_eq!(actions(&[&container, "type=container", "scope=local"])?.len(), 3);
    assert!(actions(&[&container, "scope=swarm"])?.is_empty());
    // An unknown key is not looked at.
    assert_eq!(actions(&[&container, "type=container", "nope=1"])?.len(), 3);
    Ok(())
}

fn events_since_until(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &[], &["true"])?;
    let created = t.inspect_json(&name)?["Created"].as_str().unwrap_or_default().to_owned();
    let filter = format!("container={name}");
    let count = |more: &[&str]| -> Result<usize> {
        let words = [&["events", "-f", &filter, "-f", "type=container"], more].concat();
        Ok(t.docker(&words).ok()?.lines().count())
    };
    assert_eq!(count(&["--since", &created, "--until", &t.now()])?, 1);
    assert_eq!(count(&["--since", "1h", "--until", &created])?, 0);
    Ok(())
}

fn events_format(t: &Case<'_>) -> Result<()> {
    let name = t.create("c", &["-l", "a=1"], &["true"])?;
    let filter = format!("container={name}");
    let words = ["events", "--since", "5m", "--until", &t.now(), "-f", &filter, "-f", "type=container"];
    let out = t.docker(&words).ok()?;
    let (_, text) = out.split_once(' ').unwrap_or_default();
    Golden::new(t).check_text(t, "events-line", text)
}

fn info_and_version(t: &Case<'_>) -> Result<()> {
    let info = t.docker(&["info"]).ok()?;
    for wanted in [
        if t.is_ours() { "Storage Driver: erofs" } else { "Storage Driver: overlay2" },
        "Logging Driver: json-file",
        "Swarm: inactive",
        "Default Runtime: runc",
        "OSType: linux",
        "Init Binary: docker-init",
        "Volume: local",
        "seccomp",
        "Profile: builtin",
        "Live Restore Enabled: false",
        "Docker Root Dir: ",
        "Experimental: false",
        "127.0.0.0/8",
        "::1/128",
        "Debug Mode: false",
    ] {
        assert!(info.contains(wanted), "{wanted:?} is missing in\n{info}");
    }
    let version = t.docker(&["version"]).ok()?;
    for wanted in ["Server:", " Engine:", "API version:      1.51 (minimum version 1.24)", "OS/Arch:          linux/"] {
        assert!(version.contains(wanted), "{wanted:?} is missing in\n{version}");
    }
    assert_eq!(t.docker(&["version", "-f", "{{.Server.Os}} {{.Server.Experimental}}"]).out, "linux false");
    let counts = t
        .docker(&["info", "-f", "{{.Containers}} {{.ContainersRunning}} {{.ContainersPaused}} {{.ContainersStopped}}"])
        .ok()?;
    let counts: Vec<u32> = counts.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert_eq!(counts.len(), 4);
    assert_eq!(counts[0], counts[1] + counts[2] + counts[3]);
    Ok(())
}
