//! Installing the programs tests and demo use, from the distribution, only where they are missing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// What tests and demo need.
pub(crate) const TESTS: [&str; 10] =
    ["busybox", "ip", "docker", "nft", "iptables-restore", "nsenter", "crun", "runc", "strace", PYTHON_SDK];
/// What tests use without its being installed: the registry's package would also start a service.
const UNPACKED: [&str; 1] = ["docker-registry"];
/// A file of docker-py.
const PYTHON_SDK: &str = "/usr/lib/python3/dist-packages/docker/__init__.py";

/// Programs, or files by their whole path, and the Debian packages they come in; the first the suite has is taken.
const PACKAGES: [(&str, &[&str]); 16] = [
    ("busybox", &["busybox-static"]),
    ("ip", &["iproute2"]),
    ("docker", &["docker-cli", "docker.io"]),
    ("nft", &["nftables"]),
    ("iptables-restore", &["iptables"]),
    ("nsenter", &["util-linux"]),
    ("crun", &["crun"]),
    ("runc", &["runc"]),
    ("strace", &["strace"]),
    (PYTHON_SDK, &["python3-docker"]),
    ("qemu-system-x86_64", &["qemu-system-x86"]),
    ("cpio", &["cpio"]),
    ("modprobe", &["kmod"]),
    ("mmdebstrap", &["mmdebstrap"]),
    ("docker-registry", &["docker-registry"]),
    ("iperf3", &["iperf3"]),
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

/// Unpacks what tests use of packages that are not to be installed into the cache, unless it is there or installed.
pub(crate) fn unpack_for_tests() -> Result<()> {
    let cache = cache()?.join("packages");
    for package in UNPACKED {
        let dir = cache.join(package);
        if dir.join("usr/bin").join(package).exists() || find(package).is_some() {
            continue;
        }
        if find("apt-get").is_none() {
            bail!("missing: {package}; install it with your package manager");
        }
        let fresh = cache.join(format!("{package}.new"));
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        fs::create_dir_all(&fresh)?;
        let download = || {
            let mut command = Command::new("apt-get");
            command.args(["download", "-q", package]).current_dir(&fresh).status()
        };
        // The lists may be missing or older than what the mirror has.
        if !download()?.success() {
            apt_get(&["update", "-q"])?;
            ensure!(download()?.success(), "apt-get download {package} failed");
        }
        let archives = fs::read_dir(&fresh)?.flatten().map(|entry| entry.path());
        let archive = archives.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let archive = archive.with_context(|| format!("{package} was not downloaded"))?;
        let unpacked = Command::new("dpkg").arg("-x").arg(&archive).arg(&fresh).status()?;
        ensure!(unpacked.success(), "dpkg -x {} failed", archive.display());
        fs::remove_file(archive)?;
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::rename(fresh, dir)?;
    }
    Ok(())
}

/// The folder for what can be made again.
pub(crate) fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME is set")?.join("dockerd-rs"))
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").status()?;
    ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
    Ok(())
}
