//! Who a process is: `user[:group]` and extra groups, resolved with the container's own `/etc/passwd` and `/etc/group`.
//! Pure over the two texts; [`read_files`] fetches them without leaving the container's root.

use std::os::fd::BorrowedFd;

/// A user or group the container does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// Name not in passwd.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    /// Name not in group.
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
    /// Number out of range.
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
}

/// Numbers of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, the group itself first.
    pub groups: Vec<u32>,
}

/// The two files of a container; missing ones are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountFiles {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

/// Largest number a user or group may have.
const MAX_ID: u32 = i32::MAX as u32;

/// Reads the files below `root`. Blocking.
pub fn read_files(root: BorrowedFd<'_>) -> AccountFiles {
    let read = |path| dockerd_sys::inside::read_to_string(root, path).unwrap_or_default();
    AccountFiles { passwd: read("etc/passwd"), group: read("etc/group") }
}

/// Resolves `text` (`user`, `user:group`, names or numbers, empty for root) and the extra `groups`.
pub fn resolve(text: &str, groups: &[String], files: &AccountFiles) -> Result<Identity, UserError> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let entry = find_user(user, &files.passwd);
    let (uid, mut gid, name) = match entry {
        Some(found) => found,
        None if user.is_empty() => (0, 0, None),
        None => (number(user)?.ok_or_else(|| UserError::User(user.to_owned()))?, 0, None),
    };
    let mut supplementary = Vec::new();
    if group.is_empty() {
        supplementary = name.map(|name| member_of(name, &files.group)).unwrap_or_default();
    } else {
        gid = find_group(group, &files.group)?;
    }
    let mut all = vec![gid];
    all.append(&mut supplementary);
    for group in groups {
        all.push(find_group(group, &files.group)?);
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    Ok(Identity { uid, gid, groups: all })
}

/// uid, gid and name of a user by name or number; the empty text is root.
fn find_user<'a>(wanted: &str, passwd: &'a str) -> Option<(u32, u32, Option<&'a str>)> {
    let wanted_uid = if wanted.is_empty() { Some(0) } else { wanted.parse::<u32>().ok() };
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, ..] = fields[..] else { return None };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        let hit = (!wanted.is_empty() && name == wanted) || wanted_uid == Some(uid);
        hit.then_some((uid, gid, Some(name)))
    })
}

fn find_group(wanted: &str, group: &str) -> Result<u32, UserError> {
    let by_name = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?);
        (name == wanted).then(|| gid.parse().ok()).flatten()
    });
    match by_name {
        Some(gid) => Ok(gid),
        None => number(wanted)?.ok_or_else(|| UserError::Group(wanted.to_owned())),
    }
}

fn member_of(name: &str, group: &str) -> Vec<u32> {
    let listed = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members, ..] = fields[..] else { return None };
        members.split(',').any(|member| member == name).then(|| gid.parse().ok()).flatten()
    };
    group.lines().filter_map(listed).collect()
}

fn number(text: &str) -> Result<Option<u32>, UserError> {
    match text.parse::<i64>() {
        Ok(n) => match u32::try_from(n) {
            Ok(n) if n <= MAX_ID => Ok(Some(n)),
            _ => Err(UserError::Range),
        },
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> AccountFiles {
        AccountFiles {
            passwd: "root:x:0:0:root:/root:/bin/sh\nann:x:1000:50::/home/ann:/bin/sh\nbroken\n".to_owned(),
            group: "root:x:0:root\nwheel:x:10:root,ann\nstaff:x:50:\n".to_owned(),
        }
    }

    fn run(text: &str, groups: &[&str]) -> Result<(u32, u32, Vec<u32>), String> {
        let groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        resolve(text, &groups, &files()).map(|i| (i.uid, i.gid, i.groups)).map_err(|e| e.to_string())
    }

    #[test]
    fn names_numbers_and_groups() {
        assert_eq!(run("", &[]), Ok((0, 0, vec![0, 10])));
        assert_eq!(run("ann", &[]), Ok((1000, 50, vec![50, 10])));
        assert_eq!(run("1000", &["staff", "7"]), Ok((1000, 50, vec![50, 10, 7])));
        assert_eq!(run("ann:wheel", &[]), Ok((1000, 10, vec![10])));
        assert_eq!(run("77", &[]), Ok((77, 0, vec![0])));
        assert_eq!(run("77:88", &[]), Ok((77, 88, vec![88])));
    }

    #[test]
    fn the_unknown_is_named() {
        assert_eq!(run("bob", &[]), Err("unable to find user bob: no matching entries in passwd file".to_owned()));
        assert_eq!(run("ann:x", &[]), Err("unable to find group x: no matching entries in group file".to_owned()));
        assert!(run("-1", &[]).is_err() && run("4294967295", &[]).is_err());
        let empty = AccountFiles::default();
        assert_eq!(resolve("", &[], &empty).map(|i| (i.uid, i.groups)), Ok((0, vec![0])));
    }
}
