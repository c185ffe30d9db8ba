//! Trees and tars outside of layers: `docker import`, `docker cp`, `docker export`, and the copy into an empty volume.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use dockerd_types::container::ContainerConfig;
use dockerd_types::network::Port;
use dockerd_types::{Reference, Timestamp};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::config::{History, ImageConfig, RootFs};
use crate::decompress;
use crate::error::ImageError;
use crate::layer::{self, UnpackOptions, Unpacked};
use crate::load::go_architecture;
use crate::store::{Image, ImageStore};

/// What an import makes of a tar.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The image's name.
    pub reference: Option<Reference>,
    /// Dockerfile instructions for its configuration.
    pub changes: Vec<String>,
    /// Comment of its history.
    pub message: String,
    /// Architecture, where it is not this machine's.
    pub architecture: Option<String>,
}

impl ImageStore {
    /// Makes an image of one layer from the tar `reader`, compressed or not.
    pub fn import(&self, reader: impl Read + Send, options: &ImportOptions) -> Result<Arc<Image>, ImageError> {
        let mut run = ContainerConfig::default();
        for change in &options.changes {
            apply_change(&mut run, change)?;
        }
        let layer = self.add_layer(None, None, decompress::plain(reader)?)?;
        let now = Timestamp::now().rfc3339_nano();
        let architecture = options.architecture.as_deref().unwrap_or_else(|| go_architecture());
        let mut config = ImageConfig {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            created: Some(now.clone()),
            comment: options.message.clone(),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![layer.diff_id.clone()] },
            history: vec![History { created: Some(now), comment: options.message.clone(), ..History::default() }],
            ..ImageConfig::default()
        };
        config.set_container_config(&run);
        let raw = serde_json::to_vec(&config).map_err(|error| ImageError::Archive(error.to_string()))?;
        let references: Vec<Reference> = options.reference.clone().into_iter().collect();
        self.add_image(&raw, &[layer], &references)
    }
}

/// One `--change`: the instructions that only touch the configuration.
fn apply_change(config: &mut ContainerConfig, change: &str) -> Result<(), ImageError> {
    let invalid = |text: String| ImageError::InvalidArgument(text);
    let (word, rest) = change.trim().split_once(char::is_whitespace).unwrap_or_else(|| (change.trim(), ""));
    let rest = rest.trim();
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest)),
        "ENV" => config.env.extend(pairs(rest).into_iter().map(|(key, value)| format!("{key}={value}"))),
        "LABEL" => config.labels.extend(pairs(rest)),
        "USER" => config.user = rest.to_owned(),
        "WORKDIR" => config.working_dir = rest.to_owned(),
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                config.exposed_ports.extend(Port::parse_range(port).map_err(|error| invalid(error.to_string()))?);
            }
        }
        "VOLUME" => match serde_json::from_str::<Vec<String>>(rest) {
            Ok(paths) => config.volumes.extend(paths),
            Err(_) => config.volumes.extend(rest.split_whitespace().map(str::to_owned)),
        },
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        _ => return Err(invalid(format!("{word} is not a valid change command"))),
    }
    Ok(())
}

/// Exec form as it is, shell form by /bin/sh.
fn command(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

/// `K=V K2="v v"`, or the old `K rest of the line`.
fn pairs(text: &str) -> Vec<(String, String)> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        return vec![(key.to_owned(), value.trim().to_owned())];
    }
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (c, _) => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words.iter().filter_map(|word| word.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// Unpacks the tar `reader`, compressed or not, into `directory`, which is the root for everything in the archive.
pub fn extract(
    reader: impl Read + Send,
    directory: BorrowedFd<'_>,
    options: UnpackOptions,
) -> Result<Unpacked, ImageError> {
    layer::unpack(decompress::plain(reader)?, directory, options)
}

/// Copies what is below directory `path` of the tree `root` (resolved in it) into the directory `to`: content, owners,
/// modes, times, links, extended attributes. The directory's own owner and mode go to `to`. A `path` that is no directory
/// copies nothing, as Docker has it.
pub fn copy_tree(root: BorrowedFd<'_>, path: &Path, to: &Path) -> Result<(), ImageError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = match rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
        Ok(from) => from,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        Err(error) => return Err(ImageError::io("open directory to copy")(error.into())),
    };
    let target = rustix::fs::open(to, flags, Mode::empty()).map_err(|e| ImageError::io("open volume")(e.into()))?;
    copy_directory(&from, &target).map_err(ImageError::io("copy directory"))
}

fn copy_directory(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    for entry in rustix::fs::Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::mkdirat(to, name, Mode::RWXU)?;
                let (below, target) = (
                    rustix::fs::openat(from, name, flags, Mode::empty())?,
                    rustix::fs::openat(to, name, flags, Mode::empty())?,
                );
                // It dresses `target` itself when it is done.
                copy_directory(&below, &target)?;
                continue;
            }
            FileType::RegularFile => {
                let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut source = File::from(rustix::fs::openat(from, name, read, Mode::empty())?);
                let mut copy = File::from(rustix::fs::openat(to, name, write, Mode::RUSR | Mode::WUSR)?);
                io::copy(&mut source, &mut copy)?;
                copy_xattrs(&source, &copy)?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
            }
            _ => rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
        }
        rustix::fs::utimensat(to, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    let stat = rustix::fs::fstat(from)?;
    copy_xattrs(from, to)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    Ok(rustix::fs::futimens(to, &times(&stat))?)
}

fn times(stat: &rustix::fs::Stat) -> Timestamps {
    let time = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Attributes of the union mount itself (`trusted.overlay.*`) stay behind.
fn copy_xattrs(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut names = vec![0; 16 * 1024];
    let length = match rustix::fs::flistxattr(&from, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        if name.starts_with("trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::fgetxattr(&from, name, &mut value)?;
        match rustix::fs::fsetxattr(&to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_dockerfile_instructions() {
        let mut config = ContainerConfig::default();
        for change in ["CMD [\"a\",\"b\"]", "ENTRYPOINT x y", "ENV A=1 B=\"2 3\"", "ENV C d e", "EXPOSE 80 90/udp"] {
            apply_change(&mut config, change).expect(change);
        }
        assert_eq!(config.cmd, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(config.env, ["A=1", "B=2 3", "C=d e"]);
        assert_eq!(config.exposed_ports.len(), 2);
        assert!(apply_change(&mut config, "RUN x").is_err());
    }
}
