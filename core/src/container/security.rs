//! `--security-opt`, parsed.

use dockerd_types::boolean::parse_bool;
use dockerd_types::container::HostConfig;

use super::create_error::CreateError;

/// What a container's security options mean.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecurityOptions {
    /// `None`: the daemon's default.
    pub no_new_privileges: Option<bool>,
    /// `None`: the daemon's default.
    pub seccomp: Option<SeccompChoice>,
    /// AppArmor profile; `None`: none is set.
    pub apparmor: Option<String>,
    /// SELinux label parts; only kept.
    pub labels: Vec<String>,
    /// cgroup file systems are writable.
    pub writable_cgroups: bool,
}

/// Seccomp profile asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeccompChoice {
    /// None at all.
    Unconfined,
    /// The built-in one, whatever the daemon's default is.
    Builtin,
    /// This profile's JSON text.
    Profile(String),
}

impl SecurityOptions {
    /// Parses the options of `host`.
    pub fn parse(host: &HostConfig) -> Result<Self, CreateError> {
        let mut out = Self::default();
        for option in &host.security_opt {
            out.add(option)?;
        }
        Ok(out)
    }

    fn add(&mut self, option: &str) -> Result<(), CreateError> {
        if option == "no-new-privileges" {
            self.no_new_privileges = Some(true);
            return Ok(());
        }
        if option == "writable-cgroups" {
            self.writable_cgroups = true;
            return Ok(());
        }
        if option == "disable" {
            self.labels.push(option.to_owned());
            return Ok(());
        }
        // The colon is the old separator.
        let Some((key, value)) = option.split_once('=').or_else(|| option.split_once(':')) else {
            return Err(CreateError::SecurityOpt { place: 1, option: option.to_owned() });
        };
        let flag = || parse_bool(value).ok_or_else(|| CreateError::SecurityOpt { place: 2, option: option.to_owned() });
        match key {
            "label" => self.labels.push(value.to_owned()),
            "apparmor" => self.apparmor = Some(value.to_owned()),
            "seccomp" => {
                self.seccomp = Some(match value {
                    "unconfined" => SeccompChoice::Unconfined,
                    "builtin" => SeccompChoice::Builtin,
                    json => SeccompChoice::Profile(json.to_owned()),
                });
            }
            "no-new-privileges" => self.no_new_privileges = Some(flag()?),
            "writable-cgroups" => self.writable_cgroups = flag()?,
            _ => return Err(CreateError::SecurityOpt { place: 2, option: option.to_owned() }),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<SecurityOptions, String> {
        let host =
            HostConfig { security_opt: options.iter().map(|o| (*o).to_owned()).collect(), ..HostConfig::default() };
        SecurityOptions::parse(&host).map_err(|e| e.to_string())
    }

    #[test]
    fn texts() {
        let got = parse(&["no-new-privileges", "seccomp=unconfined", "apparmor:x", "writable-cgroups=true"]);
        let got = got.expect("valid");
        assert_eq!(got.no_new_privileges, Some(true));
        assert_eq!(got.seccomp, Some(SeccompChoice::Unconfined));
        assert_eq!(got.apparmor.as_deref(), Some("x"));
        assert!(got.writable_cgroups);
        assert_eq!(parse(&["foo"]), Err("invalid --security-opt 1: \"foo\"".to_owned()));
        assert_eq!(parse(&["foo=bar"]), Err("invalid --security-opt 2: \"foo=bar\"".to_owned()));
        assert_eq!(
            parse(&["no-new-privileges=xyz"]),
            Err("invalid --security-opt 2: \"no-new-privileges=xyz\"".to_owned())
        );
    }
}
