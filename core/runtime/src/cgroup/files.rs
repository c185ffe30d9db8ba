//! Reading and writing the small files of a cgroup. One open, one call, one close each.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::CgroupError;

/// Joins a mount point and an absolute cgroup path.
pub(super) fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Writes `value` to an existing file.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|source| CgroupError::Write { value: value.to_owned(), path: path.to_owned(), source })
}

/// Reads a whole file.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let mut text = String::with_capacity(256);
    File::open(path)?.read_to_string(&mut text)?;
    Ok(text)
}

/// Reads a file of one number; `max` and absent files are `None`.
pub(super) fn number(path: &Path) -> Option<u64> {
    read(path).ok()?.trim().parse().ok()
}

/// Reads a file of `key value` lines; an absent file is empty.
pub(super) fn pairs(path: &Path) -> Vec<(String, u64)> {
    read(path).map(|text| parse_pairs(&text)).unwrap_or_default()
}

pub(super) fn parse_pairs(text: &str) -> Vec<(String, u64)> {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

/// Makes `path` and its missing parents.
pub(super) fn make_all(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(CgroupError::io("mkdir", path))
}

/// Removes a cgroup and those below it, deepest first. `Ok(false)` if something in there is still in use.
pub(super) fn remove_tree(path: &Path) -> Result<bool, CgroupError> {
    match fs::remove_dir(path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) if !matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty) => {
            return Err(CgroupError::io("rmdir", path)(error));
        }
        Err(_) => {}
    }
    let children = children(path);
    if children.is_empty() {
        return Ok(false);
    }
    for child in children {
        if !remove_tree(&child)? {
            return Ok(false);
        }
    }
    match fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(_) => Ok(false),
    }
}

/// The cgroups directly below.
pub(super) fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect()
}

/// The processes of a cgroup and of all below it. A cgroup that is gone has none.
pub(super) fn processes(path: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    match read(&path.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pids),
        // A threaded cgroup of version 2 does not list processes; its domain above does.
        Err(error) if error.raw_os_error() == Some(OPERATION_NOT_SUPPORTED) => {}
        Err(error) => return Err(error),
    }
    for child in children(path) {
        pids.extend(processes(&child)?);
    }
    Ok(pids)
}

const OPERATION_NOT_SUPPORTED: i32 = 95;
