//! What `-v`, `--mount`, `--tmpfs` and VOLUME ask for, parsed and checked: host paths made clean, modes taken apart, the
//! texts of refusals as the stock daemon's. Looks at the host only to see whether a bind's source exists.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use dockerd_types::container::{ContainerConfig, HostConfig, MountKind, MountSpec};

use super::create_error::{MountError, MountProblem};

/// A mount asked for; volumes are still names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedMount {
    /// What it is.
    pub kind: MountKind,
    /// Clean absolute path in the container.
    pub destination: String,
    /// Read-only.
    pub read_only: bool,
    /// `-v` mode text.
    pub mode: String,
    /// From the typed list.
    pub typed: bool,
    /// Make the host directory at start (`-v` only).
    pub create_source: bool,
}

/// All mounts of `host` and the anonymous volumes of `config`, checked for duplicates.
pub fn wanted(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<WantedMount>, MountError> {
    let mut out: Vec<WantedMount> = Vec::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for at in host.tmpfs.keys() {
        check_target(at).map_err(MountError::Tmpfs)?;
        taken.insert(clean(at));
    }
    for text in &host.binds {
        add(&mut out, &mut taken, parse_bind(text, &host.volume_driver)?)?;
    }
    for mount in &host.mounts {
        add(&mut out, &mut taken, typed(mount)?)?;
    }
    for at in &config.volumes {
        let destination = clean(&format!("/{at}"));
        if destination != "/" && taken.insert(destination.clone()) {
            out.push(anonymous(destination, &host.volume_driver));
        }
    }
    Ok(out)
}

fn add(out: &mut Vec<WantedMount>, taken: &mut BTreeSet<String>, mount: WantedMount) -> Result<(), MountError> {
    if !taken.insert(mount.destination.clone()) {
        return Err(MountError::Duplicate(mount.destination));
    }
    out.push(mount);
    Ok(())
}

fn anonymous(destination: String, driver: &str) -> WantedMount {
    let options = dockerd_types::container::VolumeOptions { driver: driver.to_owned(), ..Default::default() };
    WantedMount {
        kind: MountKind::Volume { source: String::new(), options },
        destination,
        read_only: false,
        mode: String::new(),
        typed: false,
        create_source: false,
    }
}

/// Parses one `-v` text, `[source:]destination[:mode]`.
pub fn parse_bind(text: &str, volume_driver: &str) -> Result<WantedMount, MountError> {
    let invalid = || MountError::Spec(text.to_owned());
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [""] => return Err(invalid()),
        [target] => ("", target, ""),
        [source, mode] if Mode::parse(mode).is_some() || source.is_empty() => return Err(invalid()),
        [source, target] => (source, target, ""),
        [source, target, mode] if !source.is_empty() => (source, target, mode),
        _ => return Err(invalid()),
    };
    let parsed = Mode::parse(mode).ok_or_else(|| MountError::Mode(mode.to_owned()));
    let parsed = if mode.is_empty() { Mode::default() } else { parsed? };
    let part = |kind, problem| MountError::SpecPart {
        spec: text.to_owned(),
        source: Box::new(MountError::Config { kind, problem }),
    };
    let bind = source.starts_with('/');
    let kind = if bind { "bind" } else { "volume" };
    check_target(target).map_err(|problem| part(kind, problem))?;
    let kind = if bind {
        if parsed.no_copy {
            return Err(part("bind", MountProblem::Specified("VolumeOptions")));
        }
        MountKind::Bind {
            source: clean(source),
            options: dockerd_types::container::BindOptions { propagation: parsed.propagation, ..Default::default() },
        }
    } else {
        if !parsed.propagation.is_empty() {
            return Err(part("volume", MountProblem::Specified("BindOptions")));
        }
        check_volume_name(source)?;
        let options = dockerd_types::container::VolumeOptions {
            no_copy: parsed.no_copy,
            driver: volume_driver.to_owned(),
            ..Default::default()
        };
        MountKind::Volume { source: source.to_owned(), options }
    };
    Ok(WantedMount {
        kind,
        destination: clean(target),
        read_only: parsed.read_only,
        mode: mode.to_owned(),
        typed: false,
        create_source: bind,
    })
}

/// A `-v` mode, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mode {
    /// `ro`.
    pub read_only: bool,
    /// `nocopy`.
    pub no_copy: bool,
    /// `rshared` and the like.
    pub propagation: String,
}

impl Mode {
    /// `None` for what is no mode: unknown words, or two of one sort.
    pub fn parse(text: &str) -> Option<Self> {
        let mut out = Self::default();
        let (mut access, mut label, mut copy, mut propagation, mut consistency) = (0, 0, 0, 0, 0);
        for word in text.split(',') {
            match word {
                "ro" | "rw" => {
                    access += 1;
                    out.read_only = word == "ro";
                }
                "z" | "Z" => label += 1,
                "nocopy" => {
                    copy += 1;
                    out.no_copy = true;
                }
                "consistent" | "cached" | "delegated" | "default" => consistency += 1,
                word if is_propagation(word) => {
                    propagation += 1;
                    word.clone_into(&mut out.propagation);
                }
                _ => return None,
            }
        }
        [access, label, copy, propagation, consistency].iter().all(|n| *n <= 1).then_some(out)
    }
}

fn is_propagation(word: &str) -> bool {
    matches!(word, "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave")
}

fn typed(mount: &MountSpec) -> Result<WantedMount, MountError> {
    let kind_name = match &mount.kind {
        MountKind::Bind { .. } => "bind",
        MountKind::Volume { .. } => "volume",
        MountKind::Tmpfs { .. } => "tmpfs",
        MountKind::Image { .. } => "image",
    };
    check_typed(mount).map_err(|problem| MountError::Config { kind: kind_name, problem })?;
    if let MountKind::Volume { source, .. } = &mount.kind {
        check_volume_name(source)?;
    }
    let mut kind = mount.kind.clone();
    if let MountKind::Bind { source, .. } = &mut kind {
        *source = clean(source);
    }
    Ok(WantedMount {
        kind,
        destination: clean(&mount.target),
        read_only: mount.read_only,
        mode: String::new(),
        typed: true,
        create_source: false,
    })
}

fn check_typed(mount: &MountSpec) -> Result<(), MountProblem> {
    if mount.target.is_empty() {
        return Err(MountProblem::Empty("Target"));
    }
    check_target(&mount.target)?;
    match &mount.kind {
        MountKind::Bind { source, options } => {
            if source.is_empty() {
                return Err(MountProblem::Empty("Source"));
            }
            if !options.propagation.is_empty() && !is_propagation(&options.propagation) {
                return Err(MountProblem::Propagation(options.propagation.clone()));
            }
            if !source.starts_with('/') {
                return Err(MountProblem::Relative(source.clone()));
            }
            if !options.create_mountpoint && !Path::new(source).exists() {
                return Err(MountProblem::SourceMissing(source.clone()));
            }
            Ok(())
        }
        MountKind::Volume { source, options } => {
            if source.is_empty() && !options.subpath.is_empty() {
                return Err(MountProblem::AnonymousSubpath);
            }
            if source.is_empty() && mount.read_only {
                return Err(MountProblem::AnonymousReadOnly);
            }
            let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
            if !Path::new(&options.subpath).components().all(inside) {
                return Err(MountProblem::Subpath);
            }
            Ok(())
        }
        MountKind::Tmpfs { options, .. } => {
            for option in options {
                let word = option.first().map(String::as_str).unwrap_or_default();
                if !matches!(word, "exec" | "noexec") {
                    return Err(MountProblem::Option(word.to_owned()));
                }
            }
            Ok(())
        }
        MountKind::Image { source, .. } if source.is_empty() => Err(MountProblem::Empty("Source")),
        MountKind::Image { .. } => Ok(()),
    }
}

fn check_target(target: &str) -> Result<(), MountProblem> {
    if !target.starts_with('/') {
        return Err(MountProblem::Relative(target.to_owned()));
    }
    if clean(target) == "/" { Err(MountProblem::Root) } else { Ok(()) }
}

/// A volume's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`; empty is anonymous.
pub fn check_volume_name(name: &str) -> Result<(), MountError> {
    match name.len() {
        0 => Ok(()),
        1 => Err(MountError::VolumeNameShort(name.to_owned())),
        _ if super::names::is_valid(name) => Ok(()),
        _ => Err(MountError::VolumeName(name.to_owned())),
    }
}

/// The path without `.`, `..`, doubled and trailing slashes; the root has no parent.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(text: &str) -> String {
        fn chain(error: &MountError) -> String {
            error.to_string()
        }
        parse_bind(text, "").map(|_| String::new()).unwrap_or_else(|e| chain(&e))
    }

    #[test]
    fn refusals_read_as_the_stock_daemons() {
        let prefix = |spec: &str, rest: &str| format!("invalid volume specification: '{spec}'{rest}");
        let relative = "invalid mount path: 'x' mount path must be absolute";
        assert_eq!(refusal("x"), prefix("x", &format!(": invalid mount config for type \"volume\": {relative}")));
        assert_eq!(
            refusal("/tmp:/"),
            prefix(
                "/tmp:/",
                ": invalid mount config for type \"bind\": invalid specification: destination can't be '/'"
            )
        );
        assert_eq!(refusal("/tmp:/x:foo"), "invalid mode: foo");
        assert_eq!(refusal("/tmp:/x:ro,rw"), "invalid mode: ro,rw");
        assert_eq!(refusal("/tmp:/x:ro:y"), prefix("/tmp:/x:ro:y", ""));
        assert_eq!(refusal(""), prefix("", ""));
        assert_eq!(
            refusal("vv:/x:shared"),
            prefix(
                "vv:/x:shared",
                ": invalid mount config for type \"volume\": field BindOptions must not be specified"
            )
        );
        assert!(refusal("a:/x").starts_with("create a: volume name is too short"));
    }

    #[test]
    fn shapes() {
        let bind = parse_bind("/a/../b/:/x/:ro,rshared", "").expect("valid");
        assert!(bind.read_only && bind.create_source);
        assert_eq!(bind.destination, "/x");
        assert!(
            matches!(bind.kind, MountKind::Bind { source, options } if source == "/b" && options.propagation == "rshared")
        );
        let volume = parse_bind("vol:/x:nocopy", "local").expect("valid");
        assert!(matches!(volume.kind, MountKind::Volume { source, options } if source == "vol" && options.no_copy));
        assert!(
            matches!(parse_bind("/x", "").expect("valid").kind, MountKind::Volume { source, .. } if source.is_empty())
        );
    }

    #[test]
    fn duplicates_are_refused_across_kinds() {
        let mut host = HostConfig { binds: vec!["/tmp:/x".to_owned()], ..HostConfig::default() };
        host.tmpfs.insert("/x".to_owned(), String::new());
        let error = wanted(&ContainerConfig::default(), &host).expect_err("duplicate");
        assert_eq!(error.to_string(), "Duplicate mount point: /x");
    }

    #[test]
    fn an_image_volume_yields_to_a_mount() {
        let config = ContainerConfig { volumes: ["/x".to_owned(), "/y".to_owned()].into(), ..Default::default() };
        let host = HostConfig { binds: vec!["/tmp:/x".to_owned()], ..HostConfig::default() };
        assert_eq!(wanted(&config, &host).expect("valid").len(), 2);
    }

    proptest! {
        #[test]
        fn clean_paths_are_absolute_and_stay_clean(path in "[a-z./]{0,30}") {
            let once = clean(&path);
            prop_assert!(once.starts_with('/') && !once.contains("//") && (once == "/" || !once.ends_with('/')));
            prop_assert_eq!(clean(&once), once.clone());
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = parse_bind(&text, "");
        }
    }
}
