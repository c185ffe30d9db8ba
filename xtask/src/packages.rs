//! Installing the programs tests and demo use, from the distribution, only where they are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// What tests and demo need.
pub(crate) const TESTS: [&str; 12] = [
    "busybox",
    "ip",
    "docker",
    "nft",
    "iptables-restore",
    "nsenter",
    "crun",
    "runc",
    "strace",
    PYTHON_SDK,
    "dig",
    "musl-gcc",
];
/// What tests use without its being installed: the registry's package would also start a service.
const UNPACKED: [&str; 1] = ["docker-registry"];
/// The Debian suite the other firewalls come from: the one stock's engine is from.
const FIREWALLS_SUITE: &str = "forky";
/// What is in their root.
const FIREWALLS: &str = "ufw,firewalld,dbus-daemon,nftables,iptables,iproute2,python3";
/// A file of docker-py.
const PYTHON_SDK: &str = "/usr/lib/python3/dist-packages/docker/__init__.py";

/// Programs, or files by their whole path, and the Debian packages they come in; the first the suite has is taken.
const PACKAGES: [(&str, &[&str]); 19] = [
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
    ("ncat", &["ncat"]),
    ("mmdebstrap", &["mmdebstrap"]),
    ("docker-registry", &["docker-registry"]),
    ("iperf3", &["iperf3"]),
    ("dig", &["bind9-dnsutils", "dnsutils"]),
    ("musl-gcc", &["musl-tools"]),
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

/// Makes a root file system of Debian packages, unless it is there.
pub(crate) fn install_root(root: &Path, suite: &str, include: &str) -> Result<()> {
    let ready = root.join(".ready");
    if ready.exists() {
        return Ok(());
    }
    install(&["mmdebstrap", "ip"])?;
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    let parent = root.parent().context("a root file system must be in a folder")?;
    fs::create_dir_all(parent)?;
    eprintln!("installing {include} into {}", root.display());
    let mut command = Command::new("mmdebstrap");
    // The mirror may be a snapshot whose listing is past its date; signatures are checked all the same.
    command.args(["--quiet", "--variant=minbase", "--aptopt=Acquire::Check-Valid-Until \"false\""]);
    command.args(["--include", include, suite]).arg(root).args(mirror());
    let status = command.stdin(Stdio::null()).status().context("mmdebstrap")?;
    ensure!(status.success(), "mmdebstrap failed ({status})");
    Ok(fs::write(ready, "")?)
}

/// The root with other programs that set rules of the packet filter: installed on this machine, they would set them there.
pub(crate) fn install_firewalls() -> Result<()> {
    install_root(&cache()?.join("firewalls").join(FIREWALLS_SUITE), FIREWALLS_SUITE, FIREWALLS)
}

/// The Debian mirror this machine uses; on other distributions mmdebstrap's own default.
fn mirror() -> Option<String> {
    if !fs::read_to_string("/etc/os-release").ok()?.lines().any(|line| line == "ID=debian") {
        return None;
    }
    let files = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect::<String>();
    let lines = texts.lines().filter(|line| line.starts_with("URIs:") || line.starts_with("deb "));
    lines.flat_map(str::split_whitespace).find(|word| word.starts_with("http")).map(str::to_owned)
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
