//! Installing the programs tests and demo use, from the distribution, only where they are missing.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail, ensure};

/// Programs and the Debian packages they come in.
const PACKAGES: [(&str, &str); 7] = [
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("docker", "docker.io"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("cpio", "cpio"),
    ("modprobe", "kmod"),
    ("mmdebstrap", "mmdebstrap"),
];

/// Where `program` is, looking in the usual places too.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    path.split(':').chain(usual.split(':')).map(|dir| PathBuf::from(dir).join(program)).find(|file| file.exists())
}

/// Installs what is missing of `programs`.
pub(crate) fn install(programs: &[&str]) -> Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| programs.contains(program) && find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        bail!("missing: {}; install them with your package manager", missing.join(", "));
    }
    for arguments in [vec!["update", "-q"], [vec!["install", "-yq", "--no-install-recommends"], missing].concat()] {
        let status = Command::new("apt-get").args(&arguments).env("DEBIAN_FRONTEND", "noninteractive").status()?;
        ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
    }
    Ok(())
}
