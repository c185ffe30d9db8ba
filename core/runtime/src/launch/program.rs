//! Finding the program the way Docker's users know it from runc: `PATH` of the container, then permission, with the
//! same words when it is not there.

use std::ffi::CString;
use std::io;

use rustix::fs::{Access, AtFlags, FileType};
use rustix::io::Errno;

use super::failure::{Setup, describe};
use super::plan::{SetupFailure, Step};

/// The file to execute for `name`: itself when it has a slash, else the first executable in the `PATH` of `env`. Run in
/// the container's root, as the workload's user.
pub(super) fn find(name: &str, env: &[String]) -> Setup<CString> {
    if name.contains('/') {
        return match check(name) {
            Ok(path) => Ok(path),
            Err(error) => Err(refuse(name, error)),
        };
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    let found = path
        .split(':')
        .map(|dir| if dir.is_empty() { format!("./{name}") } else { format!("{dir}/{name}") })
        .find_map(|candidate| check(&candidate).ok());
    found.filter(|_| !name.is_empty()).ok_or_else(|| SetupFailure {
        step: Step::ProgramMissing,
        subject: name.to_owned(),
        errno: 0,
        reason: "executable file not found in $PATH".to_owned(),
    })
}

fn check(path: &str) -> Result<CString, Errno> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    rustix::fs::accessat(rustix::fs::CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    CString::new(path).map_err(|_| Errno::INVAL)
}

fn refuse(name: &str, error: Errno) -> SetupFailure {
    let words = describe(&io::Error::from(error));
    let (step, reason) = match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => {
            (Step::ProgramMissing, format!("stat {name}: {words}"))
        }
        // As runc puts it, whose users look for these words.
        Errno::ISDIR => (Step::ProgramRefused, format!("{words}: permission denied")),
        Errno::ACCESS | Errno::PERM => (Step::ProgramRefused, words),
        _ => (Step::Exec, words),
    };
    SetupFailure { step, subject: name.to_owned(), errno: error.raw_os_error(), reason }
}
