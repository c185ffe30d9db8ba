//! The local driver's options, which are mount(8)'s: a volume with a device is mounted while a container that uses it runs.

use std::collections::BTreeMap;
use std::path::Path;

use dockerd_sys::mount::local::{self, MountOptions};
use dockerd_types::{ErrorKind, Kinded};

/// What can be wrong with options; Docker's words.
#[derive(Debug, thiserror::Error)]
pub(super) enum OptionError {
    /// Not an option.
    #[error("create {volume}: invalid option: {option:?}")]
    Unknown {
        /// The volume.
        volume: String,
        /// The option.
        option: String,
    },
    /// One option needs another.
    #[error("create {volume}: missing required option: {option:?}")]
    Missing {
        /// The volume.
        volume: String,
        /// The option.
        option: &'static str,
    },
    /// Not a size.
    #[error("create {volume}: invalid size: '{size}'")]
    Size {
        /// The volume.
        volume: String,
        /// What was given.
        size: String,
    },
    /// A size needs project quotas.
    #[error("create {0}: quota size requested but no quota support")]
    Quota(String),
}

impl Kinded for OptionError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// The kernel refused; Docker's words.
#[derive(Debug, thiserror::Error)]
#[error("error while mounting volume '{}': failed to mount local volume: {what}: {source}", .path.display())]
pub(super) struct MountError {
    path: std::path::PathBuf,
    what: String,
    source: Reason,
}

/// What the kernel said, without Rust's numbers.
#[derive(Debug, thiserror::Error)]
#[error("{}", text(.0))]
struct Reason(std::io::Error);

fn text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

impl Kinded for MountError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::System
    }
}

/// Each option and those it needs.
const NEEDS: [(&str, &[&str]); 3] = [("device", &["type"]), ("o", &["device", "type"]), ("type", &["device"])];

/// Refuses options the driver does not have.
pub(super) fn check(volume: &str, options: &BTreeMap<String, String>) -> Result<(), OptionError> {
    let volume = volume.to_owned();
    if let Some(option) = options.keys().find(|key| !matches!(key.as_str(), "type" | "device" | "o" | "size")) {
        return Err(OptionError::Unknown { volume, option: option.clone() });
    }
    let mut needed = NEEDS.iter().filter(|(option, _)| options.contains_key(*option)).flat_map(|(_, needed)| *needed);
    if let Some(option) = needed.find(|needed| !options.contains_key(**needed)) {
        return Err(OptionError::Missing { volume, option });
    }
    if let Some(size) = options.get("size") {
        let bytes = ram_bytes(size).ok_or_else(|| OptionError::Size { volume: volume.clone(), size: size.clone() })?;
        if bytes > 0 {
            return Err(OptionError::Quota(volume));
        }
    }
    Ok(())
}

/// `10m`, `1.5GiB`, in powers of 1024.
fn ram_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    Some((number * 1024f64.powi(power)) as u64)
}

/// Whether the volume is more than its directory.
pub(super) fn needs_mount(options: &BTreeMap<String, String>) -> bool {
    ["device", "type"].iter().any(|key| options.get(*key).is_some_and(|value| !value.is_empty()))
}

/// Mounts the volume at its directory. Blocking.
pub(super) fn mount(options: &BTreeMap<String, String>, at: &Path) -> Result<(), MountError> {
    let option = |key: &str| options.get(key).map_or("", String::as_str);
    let (device, kind) = (option("device"), option("type"));
    let parsed = MountOptions::parse(option("o"));
    local::mount(device, at, kind, &parsed).map_err(|error| {
        let mut what = format!("mount {device}:{}", at.display());
        if parsed.bits() != 0 {
            what.push_str(&format!(", flags: {:#x}", parsed.bits()));
        }
        if !parsed.data.is_empty() {
            what.push_str(&format!(", data: {}", without_password(&parsed.data)));
        }
        MountError { path: at.to_owned(), what, source: Reason(error) }
    })
}

/// The password of a share is for the kernel only.
fn without_password(data: &str) -> String {
    let hide = |word: &str| match word.split_once('=') {
        Some((key @ ("password" | "pass"), _)) => format!("{key}=********"),
        _ => word.to_owned(),
    };
    data.split(',').map(hide).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn refusals() {
        for (pairs, words) in [
            (&[("foo", "bar")][..], "create v: invalid option: \"foo\""),
            (&[("type", "tmpfs")], "create v: missing required option: \"device\""),
            (&[("device", "x")], "create v: missing required option: \"type\""),
            (&[("o", "size=1m")], "create v: missing required option: \"device\""),
            (&[("size", "x")], "create v: invalid size: 'x'"),
            (&[("size", "10m")], "create v: quota size requested but no quota support"),
        ] {
            assert_eq!(check("v", &options(pairs)).expect_err(words).to_string(), words);
        }
        assert!(check("v", &options(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")])).is_ok());
        assert!(!needs_mount(&options(&[("type", ""), ("device", "")])));
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(without_password("user=a,password=b,x"), "user=a,password=********,x");
    }
}
