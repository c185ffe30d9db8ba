//! Golden documents of the specification builder.

use std::collections::{BTreeMap, BTreeSet};

use dockerd_types::container::{ContainerConfig, HostConfig, Resources};
use dockerd_types::{ContainerId, Digest, Timestamp};

use super::mounts::{NetworkFiles, ResolvedKind, ResolvedMount, Shm};
use super::*;
use crate::container::security::SecurityOptions;

fn container() -> ContainerSpec {
    ContainerSpec {
        id: ContainerId::parse(&"ab".repeat(32)).expect("id"),
        created: Timestamp::from_unix_nanos(0),
        image: Digest::sha256(&[1; 32]),
        platform: "linux/amd64".to_owned(),
        path: "sleep".to_owned(),
        args: vec!["60".to_owned()],
        config: ContainerConfig { hostname: "abababababab".to_owned(), ..ContainerConfig::default() },
        host: HostConfig::default(),
        mounts: Vec::new(),
        endpoints: BTreeMap::new(),
        storage_driver: "overlay2".to_owned(),
        log_path: None,
    }
}

fn facts() -> HostFacts {
    HostFacts { available_caps: (1 << 41) - 1, recursive_read_only: true, ..HostFacts::default() }
}

fn spec_of(container: &ContainerSpec, mounts: Vec<ResolvedMount>) -> serde_json::Value {
    let files = |name: &str| PathBuf::from("/c").join(name);
    let security = SecurityOptions::parse(&container.host).expect("options");
    let spec = build(OciInput {
        spec: container,
        link_variables: Vec::new(),
        host: &facts(),
        defaults: Defaults { ulimits: &[], cgroup_parent: None, no_new_privileges: false },
        mounts,
        shm: Shm::Private(67_108_864),
        files: Some(NetworkFiles {
            resolv_conf: files("resolv.conf"),
            hostname: files("hostname"),
            hosts: files("hosts"),
        }),
        joins: Joins::default(),
        devices: devices::collect(&HostConfig { privileged: false, ..container.host.clone() }).expect("devices"),
        identity: Identity::default(),
        seccomp: None,
        security: &security,
    })
    .expect("spec");
    serde_json::to_value(spec).expect("JSON")
}

/// Sets have no order in a specification; sort them to compare.
fn sorted(value: &serde_json::Value) -> BTreeSet<String> {
    value.as_array().into_iter().flatten().map(|v| v.as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_plain_container_gets_dockers_defaults() {
    let json = spec_of(&container(), Vec::new());
    assert_eq!(json["hostname"], "abababababab");
    assert_eq!(json["process"]["args"], serde_json::json!(["sleep", "60"]));
    let env = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(json["process"]["env"], serde_json::json!([env, "HOSTNAME=abababababab"]));
    assert_eq!(sorted(&json["process"]["capabilities"]["bounding"]).len(), 14);
    assert_eq!(json["linux"]["cgroupsPath"], format!("/docker/{}", "ab".repeat(32)));
    let kinds: Vec<_> = json["linux"]["namespaces"].as_array().expect("list").iter().map(|n| &n["type"]).collect();
    assert_eq!(kinds, ["mount", "network", "uts", "pid", "ipc"]);
    let at: Vec<_> = json["mounts"].as_array().expect("list").iter().map(|m| &m["destination"]).collect();
    let expected = [
        "/proc",
        "/dev",
        "/dev/pts",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/mqueue",
        "/dev/shm",
        "/etc/resolv.conf",
        "/etc/hostname",
        "/etc/hosts",
    ];
    assert_eq!(at, expected);
    assert_eq!(json["mounts"][3]["options"], serde_json::json!(["nosuid", "noexec", "nodev", "ro"]));
    assert_eq!(json["linux"]["maskedPaths"].as_array().map(Vec::len), Some(12));
    assert_eq!(json["linux"]["readonlyPaths"].as_array().map(Vec::len), Some(5));
    assert_eq!(json["linux"]["resources"]["devices"].as_array().map(Vec::len), Some(8));
}

#[test]
fn privileged_lifts_masks_and_keeps_sys_writable() {
    let mut container = container();
    container.host.privileged = true;
    let json = spec_of(&container, Vec::new());
    assert!(json["linux"].get("maskedPaths").is_none_or(serde_json::Value::is_null));
    assert_eq!(json["mounts"][3]["options"], serde_json::json!(["nosuid", "noexec", "nodev"]));
    assert_eq!(sorted(&json["process"]["capabilities"]["bounding"]).len(), 41);
}

#[test]
fn user_mounts_replace_defaults_parents_first() {
    let bind = |source: &str, at: &str| ResolvedMount {
        source: source.into(),
        destination: at.to_owned(),
        kind: ResolvedKind::Bind { non_recursive: false, top_read_only: false },
        read_only: true,
        propagation: "rprivate".to_owned(),
    };
    let mut container = container();
    container.host.tmpfs.insert("/run".to_owned(), "exec,size=1m".to_owned());
    let json = spec_of(&container, vec![bind("/h/b", "/a/b"), bind("/h/shm", "/dev/shm"), bind("/h", "/a")]);
    let mounts = json["mounts"].as_array().expect("list");
    let at: Vec<_> = mounts.iter().map(|m| m["destination"].as_str().expect("text")).collect();
    assert_eq!(at[6..10], ["/a", "/run", "/a/b", "/dev/shm"]);
    assert_eq!(at.iter().filter(|a| **a == "/dev/shm").count(), 1);
    assert_eq!(mounts[6]["options"], serde_json::json!(["rbind", "rro", "rprivate"]));
    assert_eq!(mounts[7]["options"], serde_json::json!(["nosuid", "nodev", "rprivate", "exec", "size=1m"]));
}

#[test]
fn host_namespaces_are_left_out() {
    let mut container = container();
    container.host.network_mode = NetworkMode::Host;
    container.host.pid_mode = PidMode::Host;
    container.host.ipc_mode = IpcMode::Host;
    container.host.uts_host = true;
    let json = spec_of(&container, Vec::new());
    assert_eq!(json["linux"]["namespaces"].as_array().map(Vec::len), Some(1));
    assert!(json.get("hostname").is_none());
    assert!(json["linux"].get("sysctl").is_none_or(serde_json::Value::is_null));
}

#[test]
fn a_read_only_root_makes_sys_read_only_but_not_dev() {
    let mut container = container();
    container.host.readonly_rootfs = true;
    container.host.privileged = true;
    let json = spec_of(&container, Vec::new());
    assert_eq!(json["root"]["readonly"], true);
    let options = |at: &str| {
        let mounts = json["mounts"].as_array().expect("list");
        sorted(&mounts.iter().find(|m| m["destination"] == at).expect("there")["options"])
    };
    assert!(options("/sys").contains("ro") && options("/etc/hosts").contains("ro"));
    assert!(!options("/dev").contains("ro") && !options("/dev/mqueue").contains("ro"));
}

#[test]
fn limits_and_rlimits() {
    let mut container = container();
    container.host.resources = Resources {
        memory: 64 << 20,
        memory_swap: 128 << 20,
        pids_limit: Some(10),
        ulimits: vec![Ulimit { name: "nofile".to_owned(), soft: 10, hard: -1 }],
        ..Resources::default()
    };
    let json = spec_of(&container, Vec::new());
    assert_eq!(json["linux"]["resources"]["memory"]["swap"], 128 << 20);
    assert_eq!(json["linux"]["resources"]["pids"]["limit"], 10);
    assert_eq!(json["process"]["rlimits"][0]["type"], "RLIMIT_NOFILE");
    assert_eq!(json["process"]["rlimits"][0]["hard"], u64::MAX);
}

#[test]
fn environment_replaces_in_place_and_removes() {
    let mut env: Vec<String> = ["A=1", "B=2", "C=3"].map(str::to_owned).to_vec();
    replace_env(&mut env, &["B=9", "C", "D=4", "D=5", "E"].map(str::to_owned));
    assert_eq!(env, ["A=1", "B=9", "D=5"]);
}
