//! Platforms as people write them: `linux/arm64/v8`, `linux`, `arm64` (containerd's platforms package).

use dockerd_image::Platform;
use dockerd_types::{ErrorKind, Kinded};

use crate::error::EngineError;

const SYSTEMS: [&str; 15] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "solaris",
    "windows",
];
const ARCHITECTURES: [&str; 15] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv64",
    "s390x", "sparc64", "wasm",
];

/// A text that is no platform, or none of ours; Docker's words.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// Neither a system nor an architecture.
    #[error("{0:?}: unknown operating system or architecture: invalid argument")]
    Unknown(String),
    /// Too many parts or bad characters.
    #[error(
        "{0:?} is an invalid component of {1:?}: platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
    )]
    Component(String, String),
    /// Too many parts.
    #[error("{0:?}: cannot parse platform specifier: invalid argument")]
    Shape(String),
    /// Not Linux.
    #[error("operating system is not supported")]
    System,
}

impl Kinded for PlatformError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// The Linux platform that `text` means; this machine's for the empty text.
pub fn parse(text: &str) -> Result<Platform, EngineError> {
    linux(read(text)?)
}

/// The platform that `text` means, whatever its system; this machine's for the empty text.
pub fn read(text: &str) -> Result<Platform, EngineError> {
    if text.is_empty() { Ok(Platform::host()) } else { specifier(text).map_err(EngineError::module) }
}

/// `platform`, if it is one of Linux.
pub fn linux(platform: Platform) -> Result<Platform, EngineError> {
    if platform.os == "linux" { Ok(platform) } else { Err(EngineError::module(PlatformError::System)) }
}

fn specifier(text: &str) -> Result<Platform, PlatformError> {
    let lower = text.to_ascii_lowercase();
    let parts: Vec<&str> = lower.split('/').collect();
    let valid = |part: &&str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    };
    if let Some(bad) = parts.iter().find(|part| !valid(part)) {
        return Err(PlatformError::Component((*bad).to_owned(), text.to_owned()));
    }
    let host = Platform::host();
    let (os, architecture, variant) = match parts[..] {
        [one] if SYSTEMS.contains(&one) => (one, host.architecture.as_str(), ""),
        [one] if ARCHITECTURES.contains(&normal(one).0) => ("linux", one, ""),
        [os, architecture] => (os, architecture, ""),
        [os, architecture, variant] => (os, architecture, variant),
        [_] => return Err(PlatformError::Unknown(text.to_owned())),
        _ => return Err(PlatformError::Shape(text.to_owned())),
    };
    let (architecture, implied) = normal(architecture);
    let variant = if variant.is_empty() { implied } else { variant };
    // arm64 has one variant, which is not written.
    let variant = if architecture == "arm64" && matches!(variant, "v8" | "8") { "" } else { variant };
    Ok(Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.to_owned() })
}

/// Other names of architectures, and the variant they imply.
fn normal(architecture: &str) -> (&str, &'static str) {
    match architecture {
        "i386" => ("386", ""),
        "x86_64" | "x86-64" => ("amd64", ""),
        "aarch64" => ("arm64", ""),
        "armhf" => ("arm", "v7"),
        "armel" => ("arm", "v6"),
        other => (other, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifiers() {
        for (text, want) in
            [("linux/arm64/v8", "linux/arm64"), ("armhf", "linux/arm/v7"), ("Linux/AMD64", "linux/amd64")]
        {
            assert_eq!(parse(text).map(|p| p.to_string()).ok().as_deref(), Some(want));
        }
        assert_eq!(parse("linux").ok(), Some(Platform::host()));
        for (text, words) in [
            ("foo", "\"foo\": unknown operating system or architecture: invalid argument"),
            ("windows/amd64", "operating system is not supported"),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), words);
        }
    }
}
