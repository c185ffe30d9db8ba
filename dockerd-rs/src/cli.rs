//! Command line of the daemon: the flag table as a clap command, with the stock daemon's error texts and help page.
//!
//! Yields what the user wrote, flag by flag; what it means together with the file is decided in `config`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};
use serde_json::Value;

use crate::flags::{self, FLAGS, Flag, Kind};
use crate::values;

/// What was written on the command line.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Cli {
    /// Values by flag name, in the shape the configuration file has.
    pub(crate) set: BTreeMap<&'static str, Value>,
}

/// The command line makes no sense. The text is the stock daemon's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum CliError {
    /// Not in the table.
    #[error("unknown flag: {0}")]
    UnknownFlag(String),
    /// Not in the table, short form.
    #[error("unknown shorthand flag: '{flag}' in -{cluster}")]
    UnknownShort {
        /// The letter.
        flag: char,
        /// What follows the dash.
        cluster: String,
    },
    /// A flag without its value.
    #[error("flag needs an argument: {0}")]
    MissingValue(String),
    /// A value that does not parse.
    #[error("invalid argument {value:?} for \"{flag}\" flag: {reason}")]
    InvalidValue {
        /// As written.
        value: String,
        /// `-H, --host` or `--dns`.
        flag: String,
        /// Why.
        reason: String,
    },
    /// The daemon takes flags only; the page is all that is said.
    #[error("{}", help_page())]
    Argument,
    /// What clap says and we have no text for.
    #[error("{0}")]
    Syntax(String),
}

impl Cli {
    /// Parses the arguments after the program name.
    pub(crate) fn parse<I>(args: I) -> Result<Self, CliError>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let matches = command().try_get_matches_from(&args).map_err(|e| explain(&e, args.last()))?;
        let mut set = BTreeMap::new();
        for row in FLAGS.iter().filter(|f| !f.name.is_empty()) {
            let Some(written) = matches.get_many::<String>(row.name) else { continue };
            let written: Vec<&str> = written.map(String::as_str).collect();
            let value = values::from_flag(row.name, row.kind, &written).map_err(|bad| CliError::InvalidValue {
                value: bad.value,
                flag: display_name(row),
                reason: bad.reason,
            })?;
            set.insert(row.name, value);
        }
        Ok(Self { set })
    }

    /// Whether a boolean flag was given and is true.
    pub(crate) fn is_true(&self, name: &str) -> bool {
        self.set.get(name) == Some(&Value::Bool(true))
    }
}

/// The name as error texts show it.
fn display_name(row: &Flag) -> String {
    match row.short {
        Some(short) => format!("-{short}, --{}", row.name),
        None => format!("--{}", row.name),
    }
}

fn command() -> Command {
    let mut command = Command::new("dockerd").no_binary_name(true).disable_help_flag(true).disable_version_flag(true);
    for row in FLAGS.iter().filter(|f| !f.name.is_empty()) {
        let mut arg = Arg::new(row.name).long(row.name).action(ArgAction::Append);
        if let Some(short) = row.short {
            arg = arg.short(short);
        } else if row.name == "help" {
            arg = arg.short('h');
        }
        command = command.arg(match row.kind {
            Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            _ => arg.num_args(1).allow_hyphen_values(true),
        });
    }
    command
}

fn explain(error: &clap::Error, last: Option<&OsString>) -> CliError {
    let argument = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with("--") => CliError::UnknownFlag(argument),
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let cluster: String = argument.chars().skip(1).collect();
            CliError::UnknownShort { flag: cluster.chars().next().unwrap_or('-'), cluster }
        }
        ErrorKind::UnknownArgument => CliError::Argument,
        ErrorKind::InvalidValue => CliError::MissingValue(missing_name(&argument, last)),
        _ => CliError::Syntax(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// clap shows `--host <host>`; the stock texts are `--host`, and `'H' in -H` for the short form.
fn missing_name(argument: &str, last: Option<&OsString>) -> String {
    let cluster = last.and_then(|last| last.to_str()).filter(|last| last.starts_with('-') && !last.starts_with("--"));
    match cluster.and_then(|cluster| cluster.chars().next_back()) {
        Some(letter) => format!("'{letter}' in {}", cluster.unwrap_or_default()),
        None => argument.split_whitespace().next().unwrap_or_default().to_owned(),
    }
}

/// Between the longest flag and its text.
const GAP: usize = 2;
/// Width of the page.
const HELP_WIDTH: usize = 79;
/// A line may be so much longer when that ends the text.
const SLOP: usize = 5;

/// The help page in the stock daemon's layout.
pub(crate) fn help_page() -> String {
    let mut page =
        String::from("\nUsage:\tdockerd [OPTIONS]\n\nA self-sufficient runtime for containers.\n\nOptions:\n");
    let shown = || FLAGS.iter().filter(|f| !f.name.is_empty() && !f.is_hidden);
    let left = |row: &Flag| {
        let short = row.short.map_or_else(|| "    ".to_owned(), |s| format!("-{s}, "));
        let text = format!("  {short}--{} {}", row.name, row.value_name);
        text.trim_end().to_owned()
    };
    let column = shown().map(|row| left(row).len()).max().unwrap_or_default() + GAP + 1;
    for row in shown() {
        let default = match (row.kind, flags::default_of(row)) {
            (_, text) if text.is_empty() => String::new(),
            (Kind::Text, text) => format!(" (default \"{text}\")"),
            (_, text) => format!(" (default {text})"),
        };
        let text = wrap(&format!("{}{default}", row.help), HELP_WIDTH - column, column);
        page.push_str(&format!("{:<width$}{text}\n", left(row), width = column));
    }
    page
}

/// Breaks `text` at spaces into lines of `width`, each but the first begun at `column`.
fn wrap(text: &str, width: usize, column: usize) -> String {
    let width = width - SLOP;
    let (mut rest, mut out) = (text, String::new());
    // All help texts are ASCII.
    while width + SLOP <= rest.len() {
        let Some(space) = rest[..width].rfind(' ').filter(|space| *space > 0) else { break };
        out.push_str(&rest[..space]);
        out.push('\n');
        out.push_str(&" ".repeat(column));
        rest = &rest[space + 1..];
    }
    out + rest
}

/// Everything the stock daemon prints when the command line makes no sense.
pub(crate) fn complaint(error: &CliError) -> String {
    match error {
        CliError::Argument => help_page(),
        other => format!("Status: {other}\nSee 'dockerd --help'.\n{}, Code: 125\n", help_page()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(args: &[&str]) -> String {
        Cli::parse(args).expect_err("must be refused").to_string()
    }

    #[test]
    fn refuses_in_the_stock_daemons_words() {
        for (args, expected) in [
            (&["--nosuch"][..], "unknown flag: --nosuch"),
            (&["-Z"], "unknown shorthand flag: 'Z' in -Z"),
            (
                &["--dns", "1.2.3"],
                r#"invalid argument "1.2.3" for "--dns" flag: invalid string being converted to IP address: 1.2.3"#,
            ),
            (&["--dns"], "flag needs an argument: --dns"),
            (&["-H"], "flag needs an argument: 'H' in -H"),
            (
                &["--mtu", "abc"],
                r#"invalid argument "abc" for "--mtu" flag: strconv.ParseInt: parsing "abc": invalid syntax"#,
            ),
            (
                &["--icc=maybe"],
                r#"invalid argument "maybe" for "--icc" flag: strconv.ParseBool: parsing "maybe": invalid syntax"#,
            ),
            (
                &["--debug=no"],
                r#"invalid argument "no" for "-D, --debug" flag: strconv.ParseBool: parsing "no": invalid syntax"#,
            ),
            (
                &["-D=x"],
                r#"invalid argument "x" for "-D, --debug" flag: strconv.ParseBool: parsing "x": invalid syntax"#,
            ),
            (
                &["--add-runtime", "foo"],
                r#"invalid argument "foo" for "--add-runtime" flag: invalid runtime argument: foo"#,
            ),
            (
                &["--add-runtime", "runc=/x"],
                r#"invalid argument "runc=/x" for "--add-runtime" flag: runtime name 'runc' is reserved"#,
            ),
            (
                &["--add-runtime", "a=/x", "--add-runtime", "a=/y"],
                r#"invalid argument "a=/y" for "--add-runtime" flag: runtime 'a' was already defined"#,
            ),
            (
                &["--default-ulimit", "nofile"],
                r#"invalid argument "nofile" for "--default-ulimit" flag: invalid ulimit argument: nofile"#,
            ),
            (
                &["--default-ulimit", "foo=1"],
                r#"invalid argument "foo=1" for "--default-ulimit" flag: invalid ulimit type: foo"#,
            ),
            (
                &["--default-ulimit", "nofile=1024:512"],
                r#"invalid argument "nofile=1024:512" for "--default-ulimit" flag: ulimit soft limit must be less than or equal to hard limit: 1024 > 512"#,
            ),
            (
                &["--default-shm-size", "abc"],
                r#"invalid argument "abc" for "--default-shm-size" flag: invalid size: 'abc'"#,
            ),
            (
                &["-H", "foo://x"],
                r#"invalid argument "foo://x" for "-H, --host" flag: invalid bind address (foo://x): unsupported proto 'foo'"#,
            ),
            (
                &["--default-gateway", "300.1.1.1"],
                r#"invalid argument "300.1.1.1" for "--default-gateway" flag: failed to parse IP: "300.1.1.1""#,
            ),
            (
                &["--feature", "x=2"],
                r#"invalid argument "x=2" for "--feature" flag: strconv.ParseBool: parsing "2": invalid syntax"#,
            ),
            (
                &["--registry-mirror", "foo"],
                r#"invalid argument "foo" for "--registry-mirror" flag: invalid mirror: no scheme specified for "foo": must use either 'https://' or 'http://'"#,
            ),
            (&["--label", "foo"], r#"invalid argument "foo" for "--label" flag: bad attribute format: foo"#),
            (&["--dns-search", "x y"], r#"invalid argument "x y" for "--dns-search" flag: x y is not a valid domain"#),
            (
                &["--default-address-pool", "x"],
                r#"invalid argument "x" for "--default-address-pool" flag: invalid field 'x' must be a key=value pair"#,
            ),
        ] {
            assert_eq!(text(args), expected);
        }
    }

    #[test]
    fn reads_every_way_of_writing() {
        let cli =
            Cli::parse(["-Dl", "debug", "-H=unix:///a", "-Hunix:///b", "--icc=false", "--mtu", "-5", "--label", "a=b"])
                .expect("valid");
        assert_eq!(cli.set["debug"], json!(true));
        assert_eq!(cli.set["log-level"], json!("debug"));
        assert_eq!(cli.set["host"], json!(["unix:///a", "unix:///b"]));
        assert_eq!(cli.set["icc"], json!(false));
        assert_eq!(cli.set["mtu"], json!(-5));
        assert_eq!(cli.set["label"], json!(["a=b"]));
        assert_eq!(cli.set.len(), 6);
    }

    #[test]
    fn complaints_end_with_the_page() {
        let said = complaint(&Cli::parse(["--nosuch"]).expect_err("must be refused"));
        assert!(
            said.starts_with("Status: unknown flag: --nosuch\nSee 'dockerd --help'.\n\nUsage:\tdockerd [OPTIONS]\n")
        );
        assert!(said.ends_with("and quit\n, Code: 125\n"), "{said}");
        assert_eq!(complaint(&Cli::parse(["word"]).expect_err("must be refused")), help_page());
    }

    #[test]
    fn lines_break_where_the_stock_daemons_do() {
        let lines = |text: &str| wrap(text, 33, 2).replace("\n  ", "|");
        assert_eq!(lines("IPv4 address for the default bridge"), "IPv4 address for the|default bridge");
        assert_eq!(lines("Path to the docker-init binary"), "Path to the docker-init binary");
        assert_eq!(
            lines("Do not set the filter-FORWARD policy to DROP when enabling IP forwarding"),
            "Do not set the|filter-FORWARD policy to|DROP when enabling IP forwarding"
        );
    }

    #[test]
    fn help_fits_the_page_and_names_every_flag() {
        let page = help_page();
        for row in FLAGS.iter().filter(|f| !f.name.is_empty() && !f.is_hidden) {
            assert!(page.contains(&format!("--{}", row.name)), "{}", row.name);
        }
    }
}
