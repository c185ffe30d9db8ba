//! Matching paths. Names may contain slashes in the middle of a pattern (`/images/{name}/json`), so a placeholder takes as
//! much as it can while the rest still matches.

/// The names matched by `pattern`'s placeholders in `path`, or `None`. A placeholder is `{}` and matches at least one
/// character.
pub(crate) fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    let parts: Vec<&str> = pattern.split("{}").collect();
    let rest = path.strip_prefix(parts[0])?;
    let mut names = Vec::new();
    take(&parts[1..], rest, &mut names).then_some(names)
}

/// The path without `//`, `/./` and `/../`, if it has any of them: clients are sent there, as by the stock daemon's router.
pub(crate) fn cleaned(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    let mut out = format!("/{}", parts.join("/"));
    // The last slash is kept.
    if path.ends_with('/') && out.len() > 1 {
        out.push('/');
    }
    (out != path).then_some(out)
}

fn take(parts: &[&str], rest: &str, names: &mut Vec<String>) -> bool {
    let Some((literal, later)) = parts.split_first() else { return rest.is_empty() };
    if later.is_empty() {
        return match rest.strip_suffix(literal) {
            Some(name) if !name.is_empty() => {
                names.push(name.to_owned());
                true
            }
            _ => false,
        };
    }
    // The longest first: `/containers/{}/checkpoints/{}`.
    let ends: Vec<usize> = rest.match_indices(literal).map(|(index, _)| index).filter(|index| *index > 0).collect();
    for end in ends.into_iter().rev() {
        let length = names.len();
        names.push(rest[..end].to_owned());
        if take(later, &rest[end + literal.len()..], names) {
            return true;
        }
        names.truncate(length);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_in_names() {
        let names = |pattern, path| matches(pattern, path).map(|names| names.join("|"));
        assert_eq!(names("/images/{}/json", "/images/a/b:c/json").as_deref(), Some("a/b:c"));
        assert_eq!(names("/containers/{}", "/containers/x").as_deref(), Some("x"));
        assert_eq!(names("/containers/{}/checkpoints/{}", "/containers/x/checkpoints/y").as_deref(), Some("x|y"));
        assert_eq!(names("/containers/{}/json", "/containers//json"), None);
        assert_eq!(names("/info", "/info").as_deref(), Some(""));
        assert_eq!(names("/info", "/info/x"), None);
    }

    #[test]
    fn paths_are_cleaned_only_when_they_must_be() {
        for path in ["/", "/info", "/networks/", "/images/a/b:c/json", "/containers/..x/json"] {
            assert_eq!(cleaned(path), None, "{path}");
        }
        for (path, expected) in [
            ("//info", "/info"),
            ("/containers//json", "/containers/json"),
            ("/a/../info", "/info"),
            ("/a/./b/", "/a/b/"),
            ("/../..", "/"),
        ] {
            assert_eq!(cleaned(path).as_deref(), Some(expected));
        }
    }

    proptest::proptest! {
        #[test]
        fn a_cleaned_path_is_clean(path in "(/[a.]{0,2}){1,6}") {
            if let Some(clean) = cleaned(&path) {
                proptest::prop_assert_eq!(cleaned(&clean), None);
            }
        }

        #[test]
        fn what_is_matched_can_be_put_back(path in "/images/[a-z/]{0,12}/json") {
            if let Some(names) = matches("/images/{}/json", &path) {
                proptest::prop_assert_eq!(format!("/images/{}/json", names[0]), path);
            }
        }
    }
}
