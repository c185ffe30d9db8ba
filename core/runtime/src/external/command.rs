//! Command lines of OCI runtimes, and what their log says when they fail. The options used are the ones runc and crun
//! (and those that imitate them) share.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::runtimes::ExternalRuntime;

/// The program's absolute path, looked up in `PATH` if it is a bare name.
pub(super) fn program(path: &Path) -> PathBuf {
    let bare = path.components().count() == 1 && !path.is_absolute();
    let search = std::env::var_os("PATH").filter(|_| bare).unwrap_or_default();
    let found = std::env::split_paths(&search).map(|dir| dir.join(path)).find(|candidate| candidate.is_file());
    found.unwrap_or_else(|| path.to_owned())
}

/// Global options come first: where the runtime keeps its state, and where it logs as JSON.
pub(super) fn line(runtime: &ExternalRuntime, root: &Path, log: &Path, verb: Vec<String>) -> Vec<String> {
    let mut argv = words([&program(&runtime.path)]);
    argv.extend(runtime.args.iter().cloned());
    argv.extend(words([&"--root", &root, &"--log", &log, &"--log-format", &"json"]));
    argv.extend(verb);
    argv
}

/// Texts and paths as words of a command line. Paths below our own directories are always text.
pub(super) fn words<const N: usize>(words: [&dyn AsRef<OsStr>; N]) -> Vec<String> {
    words.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect()
}

/// The runtime's environment: what it needs of ours and nothing else. A runtime reads `PATH` to find helpers and
/// `XDG_RUNTIME_DIR` when it is not root.
pub(super) fn environment() -> Vec<String> {
    let pair = |name: &str| Some(format!("{name}={}", std::env::var(name).ok()?));
    ["PATH", "XDG_RUNTIME_DIR", "HOME", "LANG", "TMPDIR"].into_iter().filter_map(pair).collect()
}

/// The message of the last error in a JSON log, else whatever was printed.
pub(super) fn failure(log: &str, printed: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Line {
        #[serde(default)]
        level: String,
        #[serde(default)]
        msg: String,
    }
    let lines = || log.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines()
        .rfind(|line| line.level == "error" || line.level == "fatal")
        .map(|line| line.msg)
        .filter(|message| !message.is_empty())
        .or_else(|| printed.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned))
        .unwrap_or_else(|| "the runtime gave no reason".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_counts() {
        let log = "{\"level\":\"warning\",\"msg\":\"w\",\"time\":\"t\"}\n{\"level\":\"error\",\"msg\":\"first\"}\n\
                   {\"msg\":\"second\",\"level\":\"error\"}\nnot json\n{\"level\":\"info\",\"msg\":\"later\"}\n";
        assert_eq!(failure(log, "printed"), "second");
        assert_eq!(failure("", "one\n two \n\n"), "two");
        assert_eq!(failure("", ""), "the runtime gave no reason");
    }

    #[test]
    fn words_stand_in_order() {
        let runtime = ExternalRuntime { path: "/x/runc".into(), args: vec!["--debug".to_owned()] };
        let argv = line(&runtime, Path::new("/r"), Path::new("/l"), words([&"kill", &"id", &"9"]));
        assert_eq!(
            argv,
            ["/x/runc", "--debug", "--root", "/r", "--log", "/l", "--log-format", "json", "kill", "id", "9"]
        );
    }
}
