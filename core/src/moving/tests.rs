//! Old roots made by hand, with what a stock daemon would not write.

use std::fs;

use dockerd_types::container::{ContainerConfig, HostConfig, Status};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::container::spec::{ContainerDocument, MountPointKind, State};
use dockerd_store::document;
use dockerd_types::ContainerId;

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;

/// An old root, and where ours is to be.
struct Bed {
    dir: tempfile::TempDir,
    image: String,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let image = dockerd_types::ids::hex(&Sha256::digest(CONFIG));
        let bed = Self { dir, image };
        bed.put(&format!("image/overlay2/imagedb/content/sha256/{}", bed.image), CONFIG);
        bed
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.dir.path().join("old").join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, content).expect("written");
    }

    /// A container whose id begins with `first`, stopped, with what `more` says instead.
    fn container(&self, first: char, name: &str, more: &Value) -> ContainerId {
        let id = first.to_string().repeat(64);
        let mut document = json!({
            "ID": id, "Name": format!("/{name}"), "Created": "2024-01-02T03:04:05.5Z", "Path": "true", "Args": null,
            "Config": {"Hostname": "h"}, "Image": format!("sha256:{}", self.image), "Driver": "overlay2",
            "NetworkSettings": {"Networks": {"bridge": null}}, "MountPoints": {}, "RestartCount": 2,
            "State": {"ExitCode": 7, "StartedAt": "2024-01-02T03:04:06Z", "FinishedAt": "2024-01-02T03:04:07Z"},
        });
        for (key, value) in more.as_object().expect("an object") {
            document[key] = value.clone();
        }
        self.put(&format!("containers/{id}/config.v2.json"), &document.to_string());
        self.put(&format!("containers/{id}/hostconfig.json"), "{}");
        self.put(&format!("containers/{id}/{id}-json.log"), "first\n");
        self.put(&format!("containers/{id}/{id}-json.log.1"), "older\n");
        self.put(&format!("image/overlay2/layerdb/mounts/{id}/mount-id"), &format!("{first}upper"));
        self.put(&format!("overlay2/{first}upper/diff/written"), "by the container\n");
        ContainerId::parse(&id).expect("an id")
    }

    fn config(&self) -> EngineConfig {
        EngineConfig::new(self.dir.path().join("new"), self.dir.path().join("exec"))
    }

    fn import(&self) -> (Vec<String>, Summary) {
        self.import_with(&HostConfig::default())
    }

    fn import_with(&self, host: &HostConfig) -> (Vec<String>, Summary) {
        let describe = |body: &[u8]| {
            let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            let hostname = body["Hostname"].as_str().unwrap_or_default();
            let config = ContainerConfig { hostname: hostname.to_owned(), ..ContainerConfig::default() };
            Ok(CreateContainer { config, host_config: host.clone(), ..CreateContainer::default() })
        };
        let options = MoveOptions { from: self.dir.path().join("old"), containerd: None, dry_run: false };
        let mut lines = Vec::new();
        let summary = import(&self.config(), &options, &describe, &mut |line| lines.push(line.to_string()));
        (lines, summary.expect("the roots open"))
    }

    fn layout(&self) -> Layout {
        Layout::new(self.dir.path().join("new"), self.dir.path().join("exec"))
    }
}

/// Whether one of the lines has both texts.
fn says(lines: &[String], name: &str, what: &str) -> bool {
    lines.iter().any(|line| line.contains(name) && line.contains(what))
}

#[test]
fn privileged_a_stopped_container_keeps_what_it_was() {
    let bed = Bed::new();
    let id = bed.container('a', "one", &json!({}));
    let (lines, summary) = bed.import();
    assert_eq!(summary, Summary { taken: 2, present: 0, refused: 0 }, "{lines:?}");
    let stored: ContainerDocument = document::read(&bed.layout().container_document(&id)).expect("stored");
    assert_eq!((stored.name.as_str(), &stored.spec.id), ("one", &id));
    assert_eq!((stored.spec.path.as_str(), stored.spec.platform.as_str()), ("true", "linux/amd64"));
    assert_eq!(stored.spec.config.hostname, "h");
    assert_eq!(stored.spec.created.rfc3339_nano(), "2024-01-02T03:04:05.5Z");
    let state: State = document::read(&bed.layout().container_dir(&id).join("state.json")).expect("stored");
    assert_eq!((state.status, state.exit_code, state.restart_count), (Status::Exited, 7, 2));
    let log = bed.layout().container_json_log(&id);
    assert_eq!(fs::read_to_string(&log).expect("there"), "first\n");
    assert_eq!(fs::read_to_string(format!("{}.1", log.display())).expect("there"), "older\n");
    let written =
        bed.layout().driver_dir(&stored.spec.storage_driver).join("snapshots").join(id.as_str()).join("upper/written");
    assert_eq!(fs::read_to_string(written).expect("there"), "by the container\n");
    let (lines, summary) = bed.import();
    assert_eq!(summary, Summary { taken: 0, present: 2, refused: 0 }, "{lines:?}");
}

#[test]
fn privileged_what_an_interrupted_run_left_is_made_anew() {
    let bed = Bed::new();
    let id = bed.container('a', "one", &json!({}));
    bed.import();
    // As if it had ended just before the document was written.
    fs::remove_file(bed.layout().container_document(&id)).expect("removed");
    fs::write(bed.layout().container_json_log(&id), "fir").expect("cut off");
    let (lines, summary) = bed.import();
    assert_eq!(summary, Summary { taken: 1, present: 1, refused: 0 }, "{lines:?}");
    assert_eq!(fs::read_to_string(bed.layout().container_json_log(&id)).expect("there"), "first\n");
}

#[test]
fn privileged_each_refusal_is_told_and_the_others_go_on() {
    let bed = Bed::new();
    let other = "sha256:".to_owned() + &"0".repeat(64);
    let mount = |point: Value| json!({ "MountPoints": { "/m": point } });
    for (first, name, more, why) in [
        ('a', "runs", json!({"State": {"Running": true}}), "it runs: stop it first"),
        ('b', "paused", json!({"State": {"Running": true, "Paused": true}}), "unpause and stop it first"),
        ('c', "elsewhere", json!({"ID": "d".repeat(64)}), "is of another container"),
        ('d', "no-image", json!({"Image": other}), "its image: image sha256:0000"),
        ('e', "driver", json!({"Driver": "btrfs"}), "its image: storage driver \"btrfs\" is not supported"),
        ('f', "na/me", json!({}), "Invalid container name (na/me)"),
        ('0', "relative", mount(json!({"Type": "bind", "Source": "etc"})), "is of a kind that is not known"),
        ('1', "out", mount(json!({"Type": "volume", "Name": "../../etc"})), "invalid characters"),
        ('2', "lost", mount(json!({"Type": "volume", "Name": "lost-volume"})), "volume \"lost-volume\" is not here"),
        ('3', "plugin", mount(json!({"Type": "volume", "Name": "vv", "Driver": "x"})), "volume driver \"x\""),
        ('4', "type", json!({"Config": 3}), "invalid type"),
    ] {
        let id = bed.container(first, name, &more);
        let (lines, _) = bed.import();
        assert!(says(&lines, id.short(), why), "{name}: {lines:?}");
        assert!(!bed.layout().container_dir(&id).exists(), "{name}: nothing of it is left");
    }
    bed.container('5', "fine", &json!({}));
    bed.container('6', "fine", &json!({}));
    let (lines, summary) = bed.import();
    assert!(says(&lines, "555555555555", "taken over") && says(&lines, "666666666666", "its name is that of"));
    assert_eq!((summary.taken, summary.refused), (1, 12), "{lines:?}");
}

#[test]
fn privileged_settings_are_checked_as_a_clients() {
    let bed = Bed::new();
    let id = bed.container('a', "one", &json!({}));
    let host = HostConfig { runtime: "nvidia".to_owned(), ..HostConfig::default() };
    let (lines, _) = bed.import_with(&host);
    assert!(says(&lines, id.short(), "unknown or invalid runtime name: nvidia"), "{lines:?}");
    let network = dockerd_types::container::NetworkMode::Network("mine".to_owned());
    let (lines, _) = bed.import_with(&HostConfig { network_mode: network, ..HostConfig::default() });
    assert!(says(&lines, id.short(), "note: it cannot be started before there is a network \"mine\""), "{lines:?}");
    assert!(bed.layout().container_document(&id).exists());
}

#[test]
fn privileged_volumes_are_copied_and_their_mounts_found() {
    let bed = Bed::new();
    bed.put("volumes/kept/_data/file", "content\n");
    bed.put("volumes/stray", "no volume");
    let sparse = fs::File::options().append(true).open(bed.dir.path().join("old/volumes/kept/_data/file"));
    sparse.and_then(|file| file.set_len(1 << 40)).expect("a hole is made");
    bed.put("volumes/x/_data/file", "a name that is too short");
    let point = json!({"Type": "volume", "Name": "kept", "Driver": "local", "RW": true, "Relabel": "z",
                       "Spec": {"Type": "volume", "Source": "kept"}});
    let id = bed.container('a', "one", &json!({ "MountPoints": { "/data/": point } }));
    let (lines, _) = bed.import();
    assert!(says(&lines, "volume kept", "taken over") && says(&lines, "volume x", "too short"), "{lines:?}");
    let data = bed.layout().volumes_dir().join("kept/_data");
    use std::os::unix::fs::{FileExt, MetadataExt};
    let copied = fs::File::open(data.join("file")).expect("there");
    let mut begin = [0; 9];
    copied.read_exact_at(&mut begin, 0).expect("read");
    assert_eq!(&begin, b"content\n\0");
    let meta = copied.metadata().expect("there");
    assert!(meta.len() == 1 << 40 && meta.blocks() < 2048, "a hole stays a hole: {} blocks", meta.blocks());
    let stored: ContainerDocument = document::read(&bed.layout().container_document(&id)).expect("stored");
    let [mount] = &stored.spec.mounts[..] else { panic!("{:?}", stored.spec.mounts) };
    assert_eq!((mount.destination.as_str(), mount.read_only, mount.mode.as_str()), ("/data", false, "z"));
    let MountPointKind::Volume { source, anonymous: false, .. } = &mount.kind else { panic!("{mount:?}") };
    assert_eq!(*source, data);
    // A copy that was cut off is begun anew, and what somebody wrote here since stays.
    fs::write(data.join("file"), "changed here\n").expect("written");
    fs::create_dir_all(bed.layout().tmp_dir().join("moving-kept/_data")).expect("made");
    bed.import();
    assert_eq!(fs::read_to_string(data.join("file")).expect("there"), "changed here\n");
}

#[test]
fn roots_are_apart_and_of_docker() {
    let bed = Bed::new();
    let (old, inside) = (bed.dir.path().join("old"), bed.dir.path().join("old/new/deep"));
    for (from, to) in [(&old, &old), (&old, &inside), (&inside, &old)] {
        let refused = check_apart(from, to);
        assert!(matches!(refused, Err(MoveError::SameRoot { .. } | MoveError::Open { .. })), "{from:?} {to:?}");
    }
    std::os::unix::fs::symlink(&old, bed.dir.path().join("link")).expect("linked");
    let refused = check_apart(&bed.dir.path().join("link"), &old);
    assert!(matches!(refused, Err(MoveError::SameRoot { .. })));
    assert!(check_apart(&old, &bed.dir.path().join("older")).is_ok());
    let options = MoveOptions { from: bed.dir.path().join("none"), containerd: None, dry_run: false };
    let describe = |_: &[u8]| Err(String::new());
    let refused = import(&bed.config(), &options, &describe, &mut |_| {});
    assert!(matches!(refused, Err(MoveError::Open { .. })));
    fs::create_dir(bed.dir.path().join("none")).expect("made");
    let refused = import(&bed.config(), &options, &describe, &mut |_| {});
    assert!(matches!(refused, Err(MoveError::NotDocker(_))));
}

#[test]
fn privileged_a_dry_run_writes_nothing() {
    let bed = Bed::new();
    bed.container('a', "one", &json!({}));
    bed.put("volumes/kept/_data/file", "content\n");
    let options = MoveOptions { from: bed.dir.path().join("old"), containerd: None, dry_run: true };
    let describe = |_: &[u8]| Ok(CreateContainer::default());
    let summary = import(&bed.config(), &options, &describe, &mut |_| {}).expect("readable");
    assert_eq!(summary, Summary { taken: 3, present: 0, refused: 0 });
    assert!(!bed.dir.path().join("new").exists());
}

#[test]
fn privileged_our_root_in_use_is_refused() {
    let bed = Bed::new();
    bed.layout().create_data().expect("made");
    let _daemon = RootLock::take(&bed.layout().lock_file()).expect("free");
    let options = MoveOptions { from: bed.dir.path().join("old"), containerd: None, dry_run: false };
    let refused = import(&bed.config(), &options, &|_| Err(String::new()), &mut |_| {});
    assert!(matches!(refused, Err(MoveError::Lock(LockError::Held(_)))));
}
