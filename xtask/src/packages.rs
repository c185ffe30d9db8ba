//! Installing the programs tests and demo use, from the distribution, only where they are missing.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};

/// What tests and demo need.
pub(crate) const TESTS: [&str; 8] = ["busybox", "ip", "docker", "nft", "nsenter", "crun", "runc", PYTHON_SDK];
/// A file of docker-py.
const PYTHON_SDK: &str = "/usr/lib/python3/dist-packages/docker/__init__.py";

/// Programs, or files by their whole path, and the Debian packages they come in; the first the suite has is taken.
const PACKAGES: [(&str, &[&str]); 13] = [
    ("busybox", &["busybox-static"]),
    ("ip", &["iproute2"]),
    ("docker", &["docker-cli", "docker.io"]),
    ("nft", &["nftables"]),
    ("nsenter", &["util-linux"]),
    ("crun", &["crun"]),
    ("runc", &["runc"]),
    (PYTHON_SDK, &["python3-docker"]),
    ("qemu-system-x86_64", &["qemu-system-x86"]),
    ("cpio", &["cpio"]),
    ("modprobe", &["kmod"]),
    ("mmdebstrap", &["mmdebstrap"]),
    ("docker-registry", &["docker-registry"]),
];

/// Where `program` is, looking in the usual places too.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    path.split(':').chain(usual.split(':')).map(|dir| PathBuf::from(dir).join(program)).find(|file| file.exists())
}

/// Installs what is missing of `programs`.
pub(crate) fn install(programs: &[&str]) -> Result<()> {
    let missing = PACKAGES.iter().filter(|(program, _)| programs.contains(program) && find(program).is_none());
    let missing: Vec<&[&str]> = missing.map(|(_, packages)| *packages).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        bail!("missing: {}; install them with your package manager", missing.concat().join(", "));
    }
    apt_get(&["update", "-q"])?;
    let known = |package: &&&str| {
        let shown = Command::new("apt-cache").args(["show", package]).output();
        shown.is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
    };
    let chosen = missing.iter().map(|packages| *packages.iter().find(known).unwrap_or(&packages[0]));
    apt_get(&[vec!["install", "-yq", "--no-install-recommends"], chosen.collect()].concat())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status()?;
    ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
    Ok(())
}
