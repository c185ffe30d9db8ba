//! `cargo xtask vm`: a smoke test on a pure cgroup v2 machine with an older kernel.
//!
//! Boots Debian's cloud kernel under software emulation with an initramfs that holds the static daemon, the docker CLI
//! and busybox, runs `smoke.sh` in it, and reads its verdict off the serial console. Needs no root file system, no
//! network and no virtualisation; takes well under two minutes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Modules the daemon's features need, in load order; their dependencies are found by modprobe.
const MODULES: [&str; 12] = [
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_ct",
    "nft_fib_inet",
    "nft_nat",
    "nft_reject",
    "nft_redir",
];

/// What the guest runs as PID 1: mounts, modules, then the smoke script.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t tmpfs tmp /run; mount -t tmpfs tmp /var/lib; mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for m in /lib/modules/*.ko; do insmod $m 2>/dev/null; done
ip link set lo up
export PATH=/bin:/sbin:/usr/bin HOME=/run
if sh /bin/smoke.sh; then echo VM-VERDICT passed; else echo VM-VERDICT failed; fi
poweroff -f
"#;

/// How long the guest may take before it is taken for stuck.
const LIMIT: Duration = Duration::from_secs(300);

/// Boots the guest with `daemon` (a static binary), `cli` (the docker client) and `smoke`, the script to run.
pub(crate) fn run(work: &Path, daemon: &Path, cli: &Path, smoke: &Path) -> Result<()> {
    let kernel = Kernel::fetch(&work.join("kernel"))?;
    let initramfs = build_initramfs(work, &kernel, daemon, cli, smoke)?;
    let console = boot(&kernel, &initramfs)?;
    print_tail(&console);
    ensure!(console.contains("VM-VERDICT passed"), "the smoke test in the virtual machine failed");
    Ok(())
}

/// An unpacked Debian kernel package.
struct Kernel {
    root: PathBuf,
    version: String,
}

impl Kernel {
    /// Downloads the current cloud kernel package and unpacks it below `dir`; nothing is installed on this machine.
    fn fetch(dir: &Path) -> Result<Self> {
        if let Ok(kernel) = Self::at(dir) {
            return Ok(kernel);
        }
        fs::create_dir_all(dir)?;
        let depends = output(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
        let package = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .context("apt knows no linux-image-cloud-amd64")?
            .to_owned();
        output(Command::new("apt-get").args(["download", "-q", &package]).current_dir(dir))?;
        let archive = fs::read_dir(dir)?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"))
            .context("apt downloaded no package")?;
        output(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(dir.join("root")))?;
        fs::remove_file(archive)?;
        Self::at(dir)
    }

    fn at(dir: &Path) -> Result<Self> {
        let root = dir.join("root");
        let version = fs::read_dir(root.join("lib/modules"))?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .next()
            .context("no modules")?;
        Ok(Self { root, version })
    }

    fn image(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.version))
    }

    /// Files of [`MODULES`] and all they depend on, each once, in load order.
    fn modules(&self) -> Result<Vec<PathBuf>> {
        output(Command::new("depmod").arg("-b").arg(&self.root).arg(&self.version))?;
        let mut files: Vec<PathBuf> = Vec::new();
        for module in MODULES {
            let mut modprobe = Command::new("modprobe");
            modprobe.arg("-d").arg(&self.root).args(["-S", &self.version, "--show-depends", module]);
            let listing = output(&mut modprobe)?;
            for line in listing.lines() {
                let Some(file) = line.strip_prefix("insmod ") else { continue };
                let file = PathBuf::from(file.trim());
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

fn build_initramfs(work: &Path, kernel: &Kernel, daemon: &Path, cli: &Path, smoke: &Path) -> Result<PathBuf> {
    let root = work.join("initramfs");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for dir in ["bin", "sbin", "usr/bin", "dev", "proc", "sys", "tmp", "run", "etc", "var/lib", "lib/modules"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for (index, module) in kernel.modules()?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::copy(module, root.join(format!("lib/modules/{index:03}-{name}")))?;
    }
    let busybox = Path::new("/usr/bin/busybox");
    for (from, name) in [(busybox, "busybox"), (daemon, "dockerd-rs"), (cli, "docker"), (smoke, "smoke.sh")] {
        let to = root.join("bin").join(name);
        fs::copy(from, &to).with_context(|| format!("copy {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    fs::write(root.join("init"), INIT)?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let archive = work.join("initramfs.gz");
    let script =
        format!("cd '{}' && find . | cpio -o -H newc --quiet | gzip -1 > '{}'", root.display(), archive.display());
    output(Command::new("sh").args(["-c", &script]))?;
    Ok(archive)
}

fn boot(kernel: &Kernel, initramfs: &Path) -> Result<String> {
    let mut qemu = Command::new("timeout");
    qemu.arg(LIMIT.as_secs().to_string());
    qemu.args(["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"]);
    qemu.args(["-nographic", "-no-reboot", "-nic", "none", "-append", "console=ttyS0 quiet panic=-1"]);
    qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initramfs).stdin(Stdio::null());
    output(&mut qemu)
}

fn print_tail(console: &str) {
    let lines: Vec<&str> = console.lines().collect();
    for line in &lines[lines.len().saturating_sub(80)..] {
        eprintln!("vm| {line}");
    }
}

/// Runs `command` and returns its standard output; a failure carries its standard error.
fn output(command: &mut Command) -> Result<String> {
    let result = command.output().with_context(|| format!("run {command:?}"))?;
    if !result.status.success() {
        bail!("{command:?} failed ({}): {}", result.status, String::from_utf8_lossy(&result.stderr));
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}
