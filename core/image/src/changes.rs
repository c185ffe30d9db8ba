//! The instructions of `--change` (import, commit): those of a Dockerfile that touch nothing but the configuration, in the
//! builder's syntax and with its words for what is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use dockerd_types::container::{ContainerConfig, Healthcheck};
use dockerd_types::network::{InvalidPort, Port};
use dockerd_types::signal::Signal;

/// A change that cannot be made; the builder's texts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Blank lines and comments only.
    #[error("file with no instructions")]
    Empty,
    /// Not an instruction, or one that does more than configure.
    #[error("{0} is not a valid change command")]
    Instruction(String),
    /// Nothing behind the instruction.
    #[error("{0} requires at least one argument")]
    NoArgument(&'static str),
    /// Nothing, or too much.
    #[error("{0} requires exactly one argument")]
    OneArgument(&'static str),
    /// A key without a value.
    #[error("{0} must have two arguments")]
    TwoArguments(&'static str),
    /// A pair among pairs that is none.
    #[error("Syntax error - can't find = in {0:?}. Must be of the form: name=value")]
    Pair(String),
    /// `=value`.
    #[error("{0} names can not be blank")]
    BlankName(&'static str),
    /// A quote without its end.
    #[error("unexpected end of statement while looking for matching {0}")]
    Quote(&'static str),
    /// Not a port.
    #[error("Invalid containerPort: {0}")]
    Port(String),
    /// Not a protocol.
    #[error("Invalid proto: {0}")]
    Protocol(String),
    /// Not a signal.
    #[error("invalid signal: {0}")]
    Signal(String),
    /// Neither NONE nor CMD.
    #[error("Unknown type {0:?} in HEALTHCHECK (try CMD)")]
    HealthType(String),
    /// CMD without a command.
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthCommand,
    /// NONE with something behind it.
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthNone,
    /// An option that is none.
    #[error("unknown flag: {0}")]
    Flag(String),
    /// An option's value.
    #[error("invalid value {value:?} of HEALTHCHECK option {option}")]
    Option {
        /// The option.
        option: String,
        /// What it was given.
        value: String,
    },
    /// Shorter than a check can be.
    #[error("Interval {0:?} cannot be less than 1ms")]
    Interval(String),
    /// Not allowed behind ONBUILD.
    #[error("{0} isn't allowed as an ONBUILD trigger")]
    Trigger(String),
    /// ONBUILD behind ONBUILD.
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    TriggerChain,
    /// A volume without a path.
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
}

const KNOWN: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// Makes the changes to `config`, or none of them.
pub fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<(), ChangeError> {
    if changes.is_empty() {
        return Ok(());
    }
    let instructions = instructions(&changes.join("\n"));
    if instructions.is_empty() {
        return Err(ChangeError::Empty);
    }
    let mut parsed = Vec::new();
    for line in &instructions {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let known = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(word));
        parsed.push((*known.ok_or_else(|| ChangeError::Instruction(word.to_owned()))?, rest.trim()));
    }
    let mut next = config.clone();
    let mut command_set = false;
    for (word, rest) in parsed {
        one(&mut next, word, rest, &mut command_set)?;
    }
    *config = next;
    Ok(())
}

/// Lines without comments, continued ones joined.
fn instructions(text: &str) -> Vec<String> {
    let (mut out, mut open): (Vec<String>, bool) = (Vec::new(), false);
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let (part, continued) = trimmed.strip_suffix('\\').map_or((trimmed, false), |part| (part, true));
        match out.last_mut().filter(|_| open) {
            Some(last) => last.push_str(part),
            None => out.push(part.to_owned()),
        }
        open = continued;
    }
    out
}

fn one(
    config: &mut ContainerConfig,
    word: &'static str,
    rest: &str,
    command_set: &mut bool,
) -> Result<(), ChangeError> {
    let environment = environment(&config.env);
    let argument = || if rest.is_empty() { Err(ChangeError::OneArgument(word)) } else { expand(rest, &environment) };
    match word {
        "CMD" => {
            config.cmd = Some(command(config, rest));
            *command_set = true;
        }
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(config, rest)).filter(|words| !words.is_empty());
            if !*command_set {
                config.cmd = None;
            }
        }
        "ENV" => {
            for (key, value) in pairs(word, rest, &environment)? {
                let prefix = format!("{key}=");
                match config.env.iter_mut().find(|known| known.starts_with(&prefix)) {
                    Some(known) => *known = format!("{prefix}{value}"),
                    None => config.env.push(format!("{prefix}{value}")),
                }
            }
        }
        "LABEL" => config.labels.extend(pairs(word, rest, &environment)?),
        "USER" => config.user = argument()?,
        "WORKDIR" => config.working_dir = join(&config.working_dir, &argument()?),
        "STOPSIGNAL" => {
            let signal = argument()?;
            Signal::parse(&signal).map_err(|_| ChangeError::Signal(signal.clone()))?;
            config.stop_signal = Some(signal);
        }
        "EXPOSE" => {
            if rest.is_empty() {
                return Err(ChangeError::NoArgument(word));
            }
            for port in rest.split_whitespace() {
                let port = expand(port, &environment)?;
                config.exposed_ports.extend(Port::parse_range(&port).map_err(|error| match error {
                    InvalidPort::Protocol(protocol) => ChangeError::Protocol(protocol),
                    _ => ChangeError::Port(port.split('/').next().unwrap_or_default().to_owned()),
                })?);
            }
        }
        "VOLUME" => {
            for path in json_list(rest).unwrap_or_else(|| rest.split_whitespace().map(str::to_owned).collect()) {
                let path = expand(&path, &environment)?;
                if path.trim().is_empty() {
                    return Err(ChangeError::EmptyVolume);
                }
                config.volumes.insert(path);
            }
            if matches!(rest, "" | "[]") {
                return Err(ChangeError::NoArgument(word));
            }
        }
        "ONBUILD" => {
            let trigger = rest.split_whitespace().next().ok_or(ChangeError::NoArgument(word))?.to_ascii_uppercase();
            match trigger.as_str() {
                "ONBUILD" => return Err(ChangeError::TriggerChain),
                "FROM" | "MAINTAINER" => return Err(ChangeError::Trigger(trigger)),
                _ => config.on_build.push(rest.to_owned()),
            }
        }
        _ => config.healthcheck = Some(healthcheck(rest)?),
    }
    Ok(())
}

/// A JSON list of texts; `None` for anything else.
fn json_list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// Exec form as it is, shell form by the shell.
fn command(config: &ContainerConfig, text: &str) -> Vec<String> {
    json_list(text).unwrap_or_else(|| {
        let shell = config.shell.clone().filter(|shell| !shell.is_empty());
        let mut out = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
        out.extend(Some(text.to_owned()).filter(|text| !text.is_empty()));
        out
    })
}

/// A relative directory is one below the last.
fn join(base: &str, path: &str) -> String {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("/{base}/{path}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn environment(env: &[String]) -> BTreeMap<String, String> {
    env.iter().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// `K=V K2="v v"`, or the old `K rest of the line`.
fn pairs(
    word: &'static str,
    text: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, ChangeError> {
    let words = words(text);
    let Some(first) = words.first() else { return Err(ChangeError::NoArgument(word)) };
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).ok_or(ChangeError::TwoArguments(word))?;
        return Ok(vec![(expand(key, environment)?, expand(value.trim(), environment)?)]);
    }
    let mut out = Vec::new();
    for text in words {
        let (key, value) = text.split_once('=').ok_or_else(|| ChangeError::Pair(text.clone()))?;
        let key = expand(key, environment)?;
        if key.is_empty() {
            return Err(ChangeError::BlankName(word));
        }
        out.push((key, expand(value, environment)?));
    }
    Ok(out)
}

/// Splits at blanks that are not quoted or escaped; quotes and escapes stay.
fn words(text: &str) -> Vec<String> {
    let (mut out, mut word, mut quote) = (Vec::new(), String::new(), None);
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (c, quote) {
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    out.push(std::mem::take(&mut word));
                }
                continue;
            }
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            ('\\', None | Some('"')) => {
                word.push(c);
                word.extend(rest.next());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    out.extend(Some(word).filter(|word| !word.is_empty()));
    out
}

/// Takes quotes and escapes away and puts variables in, as the builder does: `$X`, `${X}`, `${X:-word}`, `${X:+word}`.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> Result<String, ChangeError> {
    let mut out = String::new();
    let mut rest = text.chars().peekable();
    let mut double = false;
    while let Some(c) = rest.next() {
        match c {
            '\'' if !double => loop {
                match rest.next() {
                    Some('\'') => break,
                    Some(c) => out.push(c),
                    None => return Err(ChangeError::Quote("single-quote")),
                }
            },
            '"' => double = !double,
            '\\' => match rest.next() {
                // Inside double quotes only these are escaped.
                Some(c) if double && !matches!(c, '"' | '$' | '\\') => out.extend(['\\', c]),
                Some(c) => out.push(c),
                None => out.push('\\'),
            },
            '$' if rest.peek() == Some(&'{') => {
                rest.next();
                let inside: String = rest.by_ref().take_while(|c| *c != '}').collect();
                out.push_str(&braced(&inside, environment)?);
            }
            '$' => {
                let mut name = String::new();
                while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                match environment.get(&name) {
                    _ if name.is_empty() => out.push('$'),
                    Some(value) => out.push_str(value),
                    None => {}
                }
            }
            c => out.push(c),
        }
    }
    if double { Err(ChangeError::Quote("double-quote")) } else { Ok(out) }
}

fn braced(inside: &str, environment: &BTreeMap<String, String>) -> Result<String, ChangeError> {
    let known = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
    if let Some((name, word)) = inside.split_once(":-") {
        return known(name).map_or_else(|| expand(word, environment), Ok);
    }
    if let Some((name, word)) = inside.split_once(":+") {
        return if known(name).is_some() { expand(word, environment) } else { Ok(String::new()) };
    }
    Ok(environment.get(inside).cloned().unwrap_or_default())
}

fn healthcheck(text: &str) -> Result<Healthcheck, ChangeError> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (word, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let wrong = || ChangeError::Option { option: name.to_owned(), value: value.to_owned() };
        let time = || {
            let time = duration(value).ok_or_else(wrong)?;
            let short = !time.is_zero() && time < Duration::from_millis(1);
            if short { Err(ChangeError::Interval(name.to_owned())) } else { Ok(time) }
        };
        match name {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => check.retries = value.parse().ok().filter(|n| *n >= 0).ok_or_else(wrong)?,
            _ => return Err(ChangeError::Flag(name.to_owned())),
        }
        rest = after.trim_start();
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    match kind.to_ascii_uppercase().as_str() {
        "" => return Err(ChangeError::NoArgument("HEALTHCHECK")),
        "NONE" if command.is_empty() => check = Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() },
        "NONE" => return Err(ChangeError::HealthNone),
        "CMD" if command.is_empty() => return Err(ChangeError::HealthCommand),
        "CMD" => {
            check.test = match json_list(command) {
                Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
                None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
            };
        }
        other => return Err(ChangeError::HealthType(other.to_owned())),
    }
    Ok(check)
}

/// Go's duration text, not negative.
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 7] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut seconds, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &tail[..end])?;
        seconds += number * unit;
        rest = &tail[end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(seconds).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<ContainerConfig, ChangeError> {
        let mut config = ContainerConfig { env: vec!["BASE=/b".to_owned()], ..ContainerConfig::default() };
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        apply(&mut config, &changes).map(|()| config)
    }

    #[test]
    fn every_instruction() {
        let config = changed(&[
            "ENTRYPOINT x y",
            "cmd [\"a\",\"b\"]",
            "ENV A=1 B=\"2 3\" C=$BASE/c D='$BASE' E=${NONE:-d}",
            "ENV F g h",
            "ENV A=9",
            "LABEL x=y \\",
            "  z=\"1 2\"",
            "# a remark",
            "EXPOSE 80 90/udp 100-102",
            "VOLUME /a /b",
            "VOLUME [\"/c d\"]",
            "USER u",
            "WORKDIR /w",
            "WORKDIR x/../y",
            "STOPSIGNAL SIGUSR1",
            "HEALTHCHECK --interval=5s --retries=3 CMD curl x",
            "ONBUILD RUN x",
        ])
        .expect("changed");
        assert_eq!(config.entrypoint.expect("set"), ["/bin/sh", "-c", "x y"]);
        assert_eq!(config.cmd.expect("set"), ["a", "b"]);
        assert_eq!(config.env, ["BASE=/b", "A=9", "B=2 3", "C=/b/c", "D=$BASE", "E=d", "F=g h"]);
        assert_eq!(
            config.labels.into_iter().collect::<Vec<_>>(),
            [("x".into(), "y".into()), ("z".into(), "1 2".into())]
        );
        assert_eq!((config.exposed_ports.len(), config.volumes.len()), (5, 3));
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("u", "/w/y"));
        let check = config.healthcheck.expect("set");
        assert_eq!(
            (check.interval, check.retries, check.test.join(" ")),
            (Duration::from_secs(5), 3, "CMD-SHELL curl x".into())
        );
        assert_eq!((config.on_build, config.stop_signal), (vec!["RUN x".to_owned()], Some("SIGUSR1".to_owned())));
    }

    #[test]
    fn refusals_in_the_builders_words() {
        for (change, words) in [
            ("RUN x", "RUN is not a valid change command"),
            ("FOO x", "FOO is not a valid change command"),
            ("SHELL [\"a\"]", "SHELL is not a valid change command"),
            ("ENV", "ENV requires at least one argument"),
            ("ENV x", "ENV must have two arguments"),
            ("ENV a=b c", "Syntax error - can't find = in \"c\". Must be of the form: name=value"),
            ("LABEL", "LABEL requires at least one argument"),
            ("EXPOSE x", "Invalid containerPort: x"),
            ("EXPOSE 70000", "Invalid containerPort: 70000"),
            ("EXPOSE 80/foo", "Invalid proto: foo"),
            ("EXPOSE", "EXPOSE requires at least one argument"),
            ("STOPSIGNAL FOO", "invalid signal: FOO"),
            ("WORKDIR", "WORKDIR requires exactly one argument"),
            ("HEALTHCHECK FOO", "Unknown type \"FOO\" in HEALTHCHECK (try CMD)"),
            ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
            ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
            ("ONBUILD", "ONBUILD requires at least one argument"),
            ("VOLUME []", "VOLUME requires at least one argument"),
            ("# c", "file with no instructions"),
            ("", "file with no instructions"),
        ] {
            assert_eq!(changed(&[change]).expect_err(change).to_string(), words);
        }
    }

    #[test]
    fn an_entrypoint_takes_the_command_away() {
        let mut config = ContainerConfig { cmd: Some(vec!["old".to_owned()]), ..ContainerConfig::default() };
        apply(&mut config, &["ENTRYPOINT []".to_owned()]).expect("changed");
        assert_eq!((config.cmd, config.entrypoint), (None, None));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            for word in KNOWN {
                let _ = changed(&[&format!("{word} {text}")]);
            }
        }
    }
}
