//! mount(2) with the options people write for it (mount(8), fstab(5)): words that are flags, and the rest for the file
//! system. For volumes whose options name a device; everything else is mounted by descriptors.

use std::io;
use std::path::Path;

use nix::mount::MsFlags;

/// What a text of options asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    flags: MsFlags,
    propagation: MsFlags,
    /// What the file system itself is told.
    pub data: String,
}

const PROPAGATION: MsFlags =
    MsFlags::MS_SHARED.union(MsFlags::MS_PRIVATE).union(MsFlags::MS_SLAVE).union(MsFlags::MS_UNBINDABLE);

impl MountOptions {
    /// Takes a comma separated text apart.
    pub fn parse(text: &str) -> Self {
        let (mut flags, mut propagation, mut data) = (MsFlags::empty(), MsFlags::empty(), Vec::new());
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match flag(word) {
                Some((true, bits)) if bits.intersects(PROPAGATION) => propagation |= bits,
                Some((true, bits)) => flags |= bits,
                Some((false, bits)) => flags -= bits,
                None => data.push(word),
            }
        }
        Self { flags, propagation, data: data.join(",") }
    }

    /// The flags of the mount itself, as the kernel numbers them.
    pub fn bits(&self) -> u64 {
        (self.flags | self.propagation).bits()
    }
}

/// A word's flags, and whether it sets or clears them; `None` for what only a file system knows.
fn flag(word: &str) -> Option<(bool, MsFlags)> {
    Some(match word {
        "defaults" => (true, MsFlags::empty()),
        "ro" => (true, MsFlags::MS_RDONLY),
        "rw" => (false, MsFlags::MS_RDONLY),
        "nosuid" => (true, MsFlags::MS_NOSUID),
        "suid" => (false, MsFlags::MS_NOSUID),
        "nodev" => (true, MsFlags::MS_NODEV),
        "dev" => (false, MsFlags::MS_NODEV),
        "noexec" => (true, MsFlags::MS_NOEXEC),
        "exec" => (false, MsFlags::MS_NOEXEC),
        "sync" => (true, MsFlags::MS_SYNCHRONOUS),
        "async" => (false, MsFlags::MS_SYNCHRONOUS),
        "dirsync" => (true, MsFlags::MS_DIRSYNC),
        "remount" => (true, MsFlags::MS_REMOUNT),
        "mand" => (true, MsFlags::MS_MANDLOCK),
        "nomand" => (false, MsFlags::MS_MANDLOCK),
        "noatime" => (true, MsFlags::MS_NOATIME),
        "atime" => (false, MsFlags::MS_NOATIME),
        "nodiratime" => (true, MsFlags::MS_NODIRATIME),
        "diratime" => (false, MsFlags::MS_NODIRATIME),
        "relatime" => (true, MsFlags::MS_RELATIME),
        "norelatime" => (false, MsFlags::MS_RELATIME),
        "strictatime" => (true, MsFlags::MS_STRICTATIME),
        "nostrictatime" => (false, MsFlags::MS_STRICTATIME),
        "bind" => (true, MsFlags::MS_BIND),
        "rbind" => (true, MsFlags::MS_BIND | MsFlags::MS_REC),
        "shared" => (true, MsFlags::MS_SHARED),
        "rshared" => (true, MsFlags::MS_SHARED | MsFlags::MS_REC),
        "private" => (true, MsFlags::MS_PRIVATE),
        "rprivate" => (true, MsFlags::MS_PRIVATE | MsFlags::MS_REC),
        "slave" => (true, MsFlags::MS_SLAVE),
        "rslave" => (true, MsFlags::MS_SLAVE | MsFlags::MS_REC),
        "unbindable" => (true, MsFlags::MS_UNBINDABLE),
        "runbindable" => (true, MsFlags::MS_UNBINDABLE | MsFlags::MS_REC),
        _ => return None,
    })
}

/// Mounts `device` at `target`: the mount, then what a bind mount only takes afterwards, then propagation.
pub fn mount(device: &str, target: &Path, kind: &str, options: &MountOptions) -> io::Result<()> {
    let MountOptions { flags, propagation, data } = options;
    let data = Some(data.as_str()).filter(|data| !data.is_empty());
    nix::mount::mount(Some(device), target, Some(kind), *flags, data)?;
    let none = None::<&str>;
    let after = || {
        if flags.contains(MsFlags::MS_BIND) && flags.contains(MsFlags::MS_RDONLY) {
            nix::mount::mount(none, target, none, *flags | MsFlags::MS_REMOUNT, none)?;
        }
        if !propagation.is_empty() {
            nix::mount::mount(none, target, none, *propagation, none)?;
        }
        Ok::<_, nix::errno::Errno>(())
    };
    after().map_err(|error| {
        // Half a mount is worse than none.
        let _ = super::detach(target);
        error.into()
    })
}

/// Whether something is mounted exactly at `path`, in this mount namespace.
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points.map(unescape).any(|point| Path::new(&point) == path))
}

/// The kernel writes blanks and the like as `\040` (proc_pid_mountinfo(5)).
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 8).ok());
        out.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_data() {
        let options = MountOptions::parse("size=10m,ro,nosuid,rw,uid=5,rshared");
        assert_eq!((options.flags, options.data.as_str()), (MsFlags::MS_NOSUID, "size=10m,uid=5"));
        assert_eq!(options.propagation, MsFlags::MS_SHARED | MsFlags::MS_REC);
        assert_eq!(MountOptions::parse("bind").bits(), 0x1000);
        assert_eq!(unescape("/a\\040b\\"), "/a b\\");
    }

    #[test]
    fn privileged_mounts_come_and_go() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let target = dir.path().join("a b");
        std::fs::create_dir(&target).expect("directory");
        assert!(!is_mounted(&target).expect("read"));
        mount("tmpfs", &target, "tmpfs", &MountOptions::parse("size=1m,private")).expect("mounted");
        assert!(is_mounted(&target).expect("read"));
        super::super::detach(&target).expect("detached");
        assert!(!is_mounted(&target).expect("read"));
        assert!(mount("x", &target, "nonsense", &MountOptions::parse("")).is_err());
    }
}
