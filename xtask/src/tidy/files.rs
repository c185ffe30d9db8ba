//! What every source file must begin with, how long it may get, and what may not be in it.

/// Longest file, tests left out.
const MAX_LINES: usize = 800;

/// Crates that become the daemon; what may not be in them stands in [`FORBIDDEN`].
const PRODUCT: [&str; 3] = ["dockerd-rs/", "api-compat/", "core/"];

/// Words, where they are allowed nonetheless, and why not elsewhere. Split, so that this file does not find itself.
const FORBIDDEN: [(&str, &str, &str); 3] = [
    (concat!("process::", "Command"), "core/sys/", "processes are spawned in core/sys only"),
    (concat!("env::", "set_var"), "", "the environment is shared by all threads"),
    (concat!("#[", "ignore"), "", "a test that is never run"),
];

/// Checks one file.
pub(super) fn check(name: &str, text: &str, wrong: &mut Vec<String>) {
    if !text.starts_with("//!") {
        wrong.push(format!("{name}: does not begin with what it is"));
    }
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = body.lines().count();
    let is_test = name.contains("/tests/") || name.ends_with("/tests.rs");
    if lines > MAX_LINES && !is_test {
        wrong.push(format!("{name}: {lines} lines, more than {MAX_LINES}"));
    }
    let keyword = concat!("unsafe", " {");
    if text.contains(keyword) && !name.starts_with("core/sys/") {
        wrong.push(format!("{name}: {keyword}...}} outside of core/sys"));
    }
    if text.contains(concat!("/wo", "rk/")) || text.contains(concat!("/tmp/", "wt/")) {
        wrong.push(format!("{name}: path of some machine"));
    }
    let elsewhere = ["/tests", "/examples", "/build.rs"];
    let product = PRODUCT.iter().any(|dir| name.starts_with(dir)) && !elsewhere.iter().any(|part| name.contains(part));
    for (word, allowed, why) in FORBIDDEN.iter().filter(|_| product) {
        if body.contains(word) && (allowed.is_empty() || !name.starts_with(allowed)) {
            wrong.push(format!("{name}: {word}: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, text: &str) -> usize {
        let mut wrong = Vec::new();
        check(name, text, &mut wrong);
        wrong.len()
    }

    #[test]
    fn rules_hold_where_they_are_for() {
        let spawn = concat!("//! x\nuse std::process::", "Command;\n");
        assert_eq!(
            [found("core/src/x.rs", spawn), found("core/sys/src/x.rs", spawn), found("xtask/src/x.rs", spawn)],
            [1, 0, 0]
        );
        let test = format!("//! x\n#[cfg(test)]\nmod tests {{\n{spawn}}}");
        assert_eq!(found("core/src/x.rs", &test), 0);
        let danger = concat!("//! x\nfn f() { uns", "afe { } }");
        assert_eq!([found("core/src/x.rs", danger), found("core/sys/src/x.rs", danger)], [1, 0]);
        assert_eq!(found("core/src/x.rs", "use a;"), 1);
        assert_eq!(found("core/src/x.rs", &format!("//! x\n{}", "\n".repeat(MAX_LINES))), 1);
        assert_eq!(
            found("core/src/x.rs", &format!("//! x\n#[cfg(test)]\nmod tests {{{}}}", "\n".repeat(MAX_LINES))),
            0
        );
    }
}
