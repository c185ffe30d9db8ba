//! `cargo xtask vm`: a smoke test on a pure cgroup v2 machine with an older kernel.
//!
//! Boots Debian's cloud kernel under software emulation with an initramfs that holds the static daemon, the docker CLI,
//! busybox and static unit tests, runs `smoke.sh` in it, and reads its verdict off the serial console. Needs no root file
//! system, no network and no virtualisation; takes a few minutes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Modules the daemon's features need, in load order; their dependencies are found by modprobe.
const MODULES: [&str; 18] = [
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
    "macvlan",
    "ipvlan",
    "8021q",
    "dummy",
    "sctp",
    "fuse",
];

/// What the guest runs first: the initial root cannot be pivoted away from, so everything moves to a tmpfs.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir /new
/bin/busybox mount -t tmpfs -o mode=755 root /new
/bin/busybox cp -a /bin /sbin /usr /dev /proc /sys /tmp /run /etc /var /lib /lib64 /guest /new/
exec /bin/busybox switch_root /new /guest
"#;

/// What the guest runs then as PID 1: mounts, modules, then the smoke script.
const GUEST: &str = r#"#!/bin/busybox sh
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
const LIMIT: Duration = Duration::from_secs(900);

/// Boots the guest with `programs`, each under its name in `/bin`; `smoke.sh` is the one that is run.
pub(crate) fn run(work: &Path, programs: &[(PathBuf, String)]) -> Result<()> {
    let kernel = Kernel::fetch(&work.join("kernel"))?;
    let initramfs = build_initramfs(work, &kernel, programs)?;
    let console = boot(&kernel, &initramfs, &work.join("console"))?;
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
                // What follows is what the module is told.
                let file = line.strip_prefix("insmod ").and_then(|rest| rest.split_whitespace().next());
                let Some(file) = file.map(PathBuf::from) else { continue };
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        Ok(files)
    }
}

fn build_initramfs(work: &Path, kernel: &Kernel, programs: &[(PathBuf, String)]) -> Result<PathBuf> {
    let root = work.join("initramfs");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for dir in ["bin", "sbin", "usr/bin", "dev", "proc", "sys", "tmp", "run", "etc", "var/lib", "lib/modules", "lib64"]
    {
        fs::create_dir_all(root.join(dir))?;
    }
    for (index, module) in kernel.modules()?.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
        fs::copy(module, root.join(format!("lib/modules/{index:03}-{name}")))?;
    }
    for (from, name) in programs {
        install(from, &root.join("bin").join(name))?;
        for library in libraries(from) {
            let to = root.join(library.strip_prefix("/").unwrap_or(&library));
            fs::create_dir_all(to.parent().context("a library is in a directory")?)?;
            install(&library, &to)?;
        }
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    for (name, script) in [("init", INIT), ("guest", GUEST)] {
        fs::write(root.join(name), script)?;
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755))?;
    }
    let archive = work.join("initramfs.gz");
    let script =
        format!("cd '{}' && find . | cpio -o -H newc --quiet | gzip -1 > '{}'", root.display(), archive.display());
    output(Command::new("sh").args(["-c", &script]))?;
    Ok(archive)
}

fn install(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(0o755))?)
}

/// Shared libraries `program` is loaded with; none for a static one or a script. Distributions have a dynamic docker CLI.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let Ok(listing) = Command::new("ldd").arg(program).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&listing.stdout).into_owned();
    text.split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .filter(|path| path.exists())
        .collect()
}

/// Runs the guest to its end; what it says goes to the file `console` as it says it.
fn boot(kernel: &Kernel, initramfs: &Path, console: &Path) -> Result<String> {
    let mut qemu = Command::new("timeout");
    qemu.arg(LIMIT.as_secs().to_string());
    qemu.args(["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"]);
    qemu.args(["-nographic", "-no-reboot", "-nic", "none", "-append", "console=ttyS0 quiet panic=-1"]);
    qemu.arg("-kernel").arg(kernel.image()).arg("-initrd").arg(initramfs).stdin(Stdio::null());
    let status = qemu.stdout(fs::File::create(console)?).status()?;
    let said = String::from_utf8_lossy(&fs::read(console)?).into_owned();
    if !status.success() {
        print_tail(&said);
        bail!("the virtual machine ended with {status}; 124 means that it took longer than {} s", LIMIT.as_secs());
    }
    Ok(said)
}

fn print_tail(console: &str) {
    let lines: Vec<&str> = console.lines().collect();
    // All checks of the smoke test, and the daemon's last words.
    for line in &lines[lines.len().saturating_sub(200)..] {
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
