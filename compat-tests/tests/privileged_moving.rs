//! Moving in: `dockerd-rs import-docker-root` on data roots that the stock daemon made, and what a daemon of ours then says
//! of them, compared with what the stock daemon had said. Needs root.
//!
//! The roots are those of `data/moving/`, made by `data/moving/make.sh`; with `MOVING_ROOTFS` in the environment, a root
//! file system that has the stock daemon, they are made anew (`cargo xtask compat` does so where it has one).

#[allow(dead_code, reason = "other suites use the rest of it")]
mod bed;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use bed::{Bed, Said, binary, run};
use serde_json::Value;

/// A root of the stock daemon, unpacked, and a bed for ours.
struct Moving {
    bed: Bed,
    store: &'static str,
}

impl Moving {
    /// `overlay2` or `containerd`.
    fn new(store: &'static str) -> Result<Self> {
        let moving = Self { bed: Bed::new()?, store };
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/moving");
        let mut archive = data.join(format!("{store}.tar.gz"));
        if let Some(rootfs) = std::env::var_os("MOVING_ROOTFS") {
            archive = moving.bed.path("made.tar.gz");
            let made = run(Command::new(data.join("make.sh")).arg(rootfs).arg(store).arg(&archive))?;
            ensure!(made.code == 0, "make.sh: {made:?}");
        }
        let stock = moving.bed.path("stock");
        fs::create_dir(&stock)?;
        let mut tar = Command::new("tar");
        tar.args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xzf"]).arg(&archive).arg("-C").arg(&stock);
        ensure!(run(&mut tar)?.code == 0, "{} cannot be unpacked", archive.display());
        Ok(moving)
    }

    fn old(&self) -> PathBuf {
        self.bed.path("stock/root")
    }

    /// What the stock daemon said.
    fn answer(&self, name: &str) -> Result<String> {
        Ok(fs::read_to_string(self.bed.path("stock/answers").join(name))?)
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.arg("import-docker-root").arg("--data-root").arg(self.bed.path("data")).args(arguments);
        command.arg(self.old());
        Ok(command)
    }

    fn import(&self, arguments: &[&str]) -> Result<Said> {
        run(&mut self.command(arguments)?)
    }

    /// Everything there is to see of the old root: names, kinds, owners, times, contents, attributes.
    fn listing(&self) -> Result<String> {
        let script = "cd \"$1\" && find . -printf '%p %y %m %U %G %s %T@ %C@ %A@ %l\\n' | sort \
                      && find . -type f -print0 | sort -z | xargs -0 sha256sum";
        let said = run(Command::new("sh").args(["-c", script, "sh"]).arg(self.old()))?;
        ensure!(said.code == 0, "{said:?}");
        Ok(said.out)
    }
}

/// The program in the roots is for this machine.
fn can_run() -> bool {
    std::env::consts::ARCH == "x86_64"
}

/// What must be equal of two containers: all but paths below a data root, the driver, and ids of networks.
fn comparable(inspect: &str) -> Result<Value> {
    let mut containers: Value = serde_json::from_str(inspect)?;
    for container in containers.as_array_mut().context("a list")? {
        let container = container.as_object_mut().context("an object")?;
        for name in ["HostnamePath", "HostsPath", "LogPath", "ResolvConfPath", "GraphDriver", "Driver", "Storage"] {
            container.remove(name);
        }
        // The old daemon's name of the image, where the containerd store has one by its manifest.
        container.remove("Image");
        container.remove("ImageManifestDescriptor");
        for mount in container["Mounts"].as_array_mut().context("mounts")? {
            if mount["Type"] == "volume" {
                mount["Source"].take();
            }
        }
        for network in container["NetworkSettings"]["Networks"].as_object_mut().context("networks")?.values_mut() {
            network["NetworkID"].take();
        }
    }
    Ok(containers)
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Names and ids of images.
fn images(text: &str) -> BTreeMap<&str, &str> {
    text.lines().filter_map(|line| line.split_once(' ')).collect()
}

fn moves_in(store: &'static str) -> Result<()> {
    let mut moving = Moving::new(store)?;
    moving.listing()?;
    // Reading it has set times of access once; from now on nothing changes.
    let before = moving.listing()?;
    let said = moving.import(&[])?;
    ensure!(said.code == 1 && said.err.is_empty(), "one container runs: {said:?}");
    for line in [
        "image moving-a:1, moving-a:latest (",
        "volume moving-volume: taken over",
        "network moving-network: not taken over: user-defined networks (bridge) are not built yet",
        "not taken over: it runs: stop it first",
        "note: it cannot be started before there is a network \"moving-network\"",
        " already there, 2 not taken over",
    ] {
        ensure!(said.out.contains(line), "{line:?} in {}", said.out);
    }
    assert_eq!(moving.listing()?, before, "the old root is as it was");
    moving.bed.start()?;
    same_images(&moving)?;
    same_container(&moving)?;
    if can_run() {
        goes_on(&moving)?;
    }
    Ok(())
}

fn same_images(moving: &Moving) -> Result<()> {
    let ours = moving.bed.must(&["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"])?;
    let stock = moving.answer("images")?;
    let (ours, stock) = (images(&ours), images(&stock));
    assert_eq!(ours.keys().collect::<Vec<_>>(), stock.keys().collect::<Vec<_>>());
    if moving.store == "overlay2" {
        assert_eq!(ours, stock, "an image keeps its id");
    }
    let mut history = String::new();
    for image in ["moving-a:1", "example.com/team/moving-b:2", "moving-committed:latest"] {
        let format = "{{.CreatedBy}}|{{.Size}}|{{.Comment}}";
        history += &moving.bed.must(&["history", "--no-trunc", "--format", format, image])?;
        history.push('\n');
    }
    // The containerd store counts blocks of the disk.
    let whole = |text: &str| {
        let lines = text.lines().map(|line| line.split('|').map(str::to_owned).collect::<Vec<_>>());
        lines
            .map(|parts| if moving.store == "overlay2" { parts } else { vec![parts[0].clone(), parts[2].clone()] })
            .collect::<Vec<_>>()
    };
    assert_eq!(whole(&history), whole(&moving.answer("history")?));
    Ok(())
}

fn same_container(moving: &Moving) -> Result<()> {
    let names = ["moving-changed", "moving-created", "moving-network-user"];
    let ours = moving.bed.must(&[&["inspect"][..], &names].concat())?;
    assert_eq!(comparable(&ours)?, comparable(&moving.answer("inspect")?)?);
    let diff = moving.bed.must(&["diff", "moving-changed"])?;
    assert_eq!(sorted(&diff), sorted(&moving.answer("diff")?));
    let logs = moving.bed.docker(&["logs", "-t", "moving-changed"]);
    assert_eq!((logs.out, logs.err), (moving.answer("stdout")?, moving.answer("stderr")?));
    let volume = |text: &str| -> Result<Value> {
        let mut volume: Value = serde_json::from_str(text)?;
        volume[0]["Mountpoint"].take();
        // When the directory was changed last, which unpacking it was.
        volume[0]["CreatedAt"].take();
        Ok(volume)
    };
    let ours = moving.bed.must(&["volume", "inspect", "moving-volume"])?;
    assert_eq!(volume(&ours)?, volume(&moving.answer("volume")?)?);
    let data = moving.bed.path("data/volumes/moving-volume/_data");
    assert_eq!(fs::read_to_string(data.join("from-container"))?, "kept in the volume\n");
    use std::os::unix::fs::MetadataExt;
    let copied = fs::metadata(data.join("from-image"))?;
    assert_eq!((copied.uid(), copied.gid(), copied.mtime()), (1000, 1001, 1_700_000_000));
    Ok(())
}

/// The containers run here too, and what they change is theirs as before.
fn goes_on(moving: &Moving) -> Result<()> {
    let bed = &moving.bed;
    let ran = bed.docker(&["start", "-a", "moving-changed"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (3, "to stdout\n", "to stderr\n"));
    bed.must(&["wait", "moving-changed"])?;
    assert_eq!(sorted(&bed.must(&["diff", "moving-changed"])?), sorted(&moving.answer("diff")?));
    // Its first output is still the beginning of its log.
    assert!(bed.docker(&["logs", "-t", "moving-changed"]).out.starts_with(&moving.answer("stdout")?));
    // Layers were put together with hard links, attributes and whiteouts: what is saved is what was once loaded.
    let saved = bed.path("saved.tar");
    bed.must(&["save", "-o", &saved.to_string_lossy(), "moving-a:1"])?;
    let script = "tar -xOf \"$1\" \"$(tar -tf \"$1\" | grep -m 1 \"$2\")\" | sha256sum";
    let layers = bed.must(&["inspect", "-f", "{{join .RootFS.Layers \" \"}}", "moving-a:1"])?;
    for layer in layers.split(' ').map(|digest| digest.trim_start_matches("sha256:")) {
        let sum = run(Command::new("sh").args(["-c", script, "sh"]).arg(&saved).arg(layer))?;
        ensure!(sum.out.starts_with(layer), "layer {layer}: {sum:?}");
    }
    bed.must(&["rm", "-v", "moving-changed", "moving-created", "moving-network-user"])?;
    bed.must(&["rmi", "moving-committed:latest"])?;
    Ok(())
}

#[test]
fn privileged_a_root_with_the_graph_driver_moves_in() -> Result<()> {
    moves_in("overlay2")
}

#[test]
fn privileged_a_root_with_the_containerd_store_moves_in() -> Result<()> {
    moves_in("containerd")
}

#[test]
fn privileged_a_containerd_beside_the_root_is_named() -> Result<()> {
    let moving = Moving::new("containerd")?;
    let beside = moving.bed.path("beside");
    fs::rename(moving.old().join("containerd/daemon"), &beside)?;
    let without = moving.import(&["--dry-run"])?;
    ensure!(without.out.contains("name its root with --containerd-root"), "{without:?}");
    ensure!(without.out.contains("its image: "), "containers cannot do without: {without:?}");
    let beside = beside.to_string_lossy().into_owned();
    let with = moving.import(&["--containerd-root", &beside])?;
    ensure!(with.out.contains("image moving-c:latest"), "{with:?}");
    ensure!(with.out.contains(" taken over, 0 already there, 2 not taken over"), "{with:?}");
    Ok(())
}

#[test]
fn privileged_an_interrupted_import_goes_on() -> Result<()> {
    let mut moving = Moving::new("overlay2")?;
    let all = moving.import(&["--dry-run"])?.out.lines().count();
    // Killed after every line it says, while it is at work on the next thing.
    for lines in 0..all {
        let mut child = moving.command(&[])?.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
        let out = BufReader::new(child.stdout.take().context("an output")?);
        for line in out.lines().take(lines) {
            line?;
        }
        child.kill()?;
        child.wait()?;
    }
    let said = moving.import(&[])?;
    ensure!(said.out.contains(" 2 not taken over"), "{said:?}");
    moving.bed.start()?;
    same_images(&moving)?;
    same_container(&moving)?;
    let left: Vec<_> = fs::read_dir(moving.bed.path("data/tmp"))?.flatten().map(|entry| entry.path()).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn privileged_roots_in_use_are_left_alone() -> Result<()> {
    let mut moving = Moving::new("overlay2")?;
    let database = File::open(moving.old().join("volumes/metadata.db"))?;
    database.lock()?;
    let said = moving.import(&[])?;
    ensure!(said.code == 1 && said.err.contains("volumes/metadata.db is in use: stop the daemon first"), "{said:?}");
    database.unlock()?;
    moving.bed.start()?;
    let said = moving.import(&[])?;
    ensure!(said.code == 1 && said.err.contains("is in use by another daemon"), "{said:?}");
    let same = moving.old().to_string_lossy().into_owned();
    let said = moving.import(&["--data-root", &same])?;
    ensure!(said.code == 1 && said.err.contains("must not contain each other"), "{said:?}");
    Ok(())
}

#[test]
fn privileged_a_first_start_takes_over_and_later_ones_do_not() -> Result<()> {
    let moving = Moving::new("overlay2")?;
    let old = moving.old().to_string_lossy().into_owned();
    let Moving { bed, .. } = moving;
    let mut bed = bed.flags(&["--import-docker-root", &old]);
    bed.start()?;
    ensure!(bed.must(&["ps", "-a", "--format", "{{.Names}}"])?.contains("moving-changed"));
    bed.logged("not taken over: it runs: stop it first")?;
    bed.must(&["rm", "moving-changed"])?;
    bed.signal("TERM")?;
    bed.ended()?;
    bed.start()?;
    let left = bed.must(&["ps", "-a", "--format", "{{.Names}}"])?;
    ensure!(left.contains("moving-created") && !left.contains("moving-changed"), "{left}");
    Ok(())
}
