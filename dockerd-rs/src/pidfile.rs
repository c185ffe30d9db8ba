//! The file with the daemon's process id: nobody starts beside a daemon that lives, and what a dead one left is taken over.

use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::values::go_error;

/// The file while this daemon owns it; dropping it removes the file.
#[derive(Debug)]
pub(crate) struct PidFile(PathBuf);

impl PidFile {
    /// Writes our process id to `path`, unless the process named there lives.
    pub(crate) fn claim(path: &Path) -> Result<Self, ConfigError> {
        let old = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(pid) = old.filter(|pid| *pid != std::process::id() && is_alive(*pid)) {
            return Err(ConfigError::Value(format!(
                "failed to start daemon, ensure docker is not running or delete {}: process with PID {pid} is still running",
                path.display()
            )));
        }
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = written.and_then(|()| std::fs::write(path, std::process::id().to_string()));
        written.map_err(|error| {
            let (path, error) = (path.display(), go_error(&error));
            ConfigError::Value(format!(
                "failed to start daemon, ensure docker is not running or delete {path}: {error}"
            ))
        })?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // It may be another daemon's by now.
        let written = std::fs::read_to_string(&self.0).unwrap_or_default();
        if written.trim() == std::process::id().to_string() {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// Whether the process runs; one that has ended and was not collected does not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may contain anything.
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_daemon_is_not_disturbed_and_a_dead_one_is_followed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("sub/pid");
        drop(PidFile::claim(&path).expect("free"));
        assert!(!path.exists(), "it is removed at the end");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a process");
        std::fs::write(&path, format!("{}\n", child.id())).expect("written");
        let refused = PidFile::claim(&path).expect_err("it lives").to_string();
        assert!(refused.ends_with(&format!("process with PID {} is still running", child.id())), "{refused}");
        child.kill().expect("killed");
        // Not collected yet, and still it does not count as running.
        while is_alive(child.id()) {
            std::thread::yield_now();
        }
        let claimed = PidFile::claim(&path).expect("taken over");
        std::fs::write(&path, "1").expect("somebody else's");
        drop(claimed);
        assert!(path.exists(), "another's file is left alone");
        child.wait().expect("collected");
    }
}
