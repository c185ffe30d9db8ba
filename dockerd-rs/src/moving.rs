//! `dockerd-rs import-docker-root`: takes over what a stock daemon left in its data root, before a daemon of ours runs on
//! its own. The work is `dockerd_core::moving`'s; here are the sub-command's arguments and its report.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use dockerd_core::EngineConfig;
use dockerd_core::moving::{self, Line, MoveOptions, Outcome, Summary};

use crate::cli::Cli;
use crate::config::Config;

/// The sub-command's name.
pub(crate) const COMMAND: &str = "import-docker-root";

const USAGE: &str = "\
Usage:  dockerd-rs import-docker-root [OPTIONS] PATH

Take over images, volumes and stopped containers of a Docker daemon's data root
PATH, which is only read. Neither daemon may run. What is there already stays;
run it again after an interruption. Ends with 1 if something was not taken over.

Options:
      --containerd-root PATH  Root of a containerd that dockerd did not start
                              itself (for the containerd image store; usually
                              /var/lib/containerd)
      --dry-run               Tell what would be taken over, change nothing

All options of the daemon are taken too and mean the same; those that matter
here are --data-root and --config-file.
";

/// What the arguments after the sub-command's name say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arguments {
    from: Option<PathBuf>,
    containerd: Option<PathBuf>,
    dry_run: bool,
    help: bool,
    /// Flags of the daemon.
    rest: Vec<String>,
}

impl Arguments {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let (name, value) =
                argument.split_once('=').map_or((&**argument, None), |(name, value)| (name, Some(value)));
            match name {
                "--dry-run" if value.is_none() => parsed.dry_run = true,
                "--help" | "-h" => parsed.help = true,
                "--containerd-root" => {
                    let value = value.map(str::to_owned).or_else(|| arguments.next().cloned());
                    parsed.containerd = Some(value.context("flag needs an argument: --containerd-root")?.into());
                }
                name if name.starts_with('-') => {
                    parsed.rest.push(argument.clone());
                    // The daemon's flags that matter here have values.
                    if value.is_none() && takes_value(name) {
                        parsed.rest.extend(arguments.next().cloned());
                    }
                }
                _ if parsed.from.is_some() => anyhow::bail!("more than one PATH"),
                _ => parsed.from = Some(argument.into()),
            }
        }
        Ok(parsed)
    }
}

/// Whether the daemon's flag `name` has a value that may follow as an argument of its own.
fn takes_value(name: &str) -> bool {
    let bare = name.trim_start_matches('-');
    let flag = crate::flags::FLAGS.iter().find(|flag| {
        let is_short = !name.starts_with("--") && flag.short.is_some_and(|short| bare == short.to_string());
        is_short || (name.starts_with("--") && flag.name == bare)
    });
    flag.is_some_and(|flag| flag.kind != crate::flags::Kind::Bool)
}

/// Runs the sub-command.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let Arguments { from, containerd, dry_run, help, rest } = Arguments::parse(arguments)?;
    if help {
        write!(out, "{USAGE}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let from = from.with_context(|| format!("PATH is missing\n\n{USAGE}"))?;
    let config = Config::resolve(&Cli::parse(&rest)?)?;
    let options = MoveOptions { from, containerd, dry_run };
    let mut told = Ok(());
    let summary = import(&config.engine, &options, &mut |line| {
        if told.is_ok() {
            told = writeln!(out, "{line}");
        }
    })?;
    told?;
    let Summary { taken, present, refused } = summary;
    let taken_over = if dry_run { "would be taken over" } else { "taken over" };
    writeln!(out, "{taken} {taken_over}, {present} already there, {refused} not taken over")?;
    Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn import(config: &EngineConfig, options: &MoveOptions, report: &mut dyn FnMut(Line)) -> Result<Summary> {
    let moved = moving::import(config, options, &|body| api_compat::description(body), report);
    moved.with_context(|| format!("cannot take over {}", options.from.display()))
}

/// Takes over `from` before the first start on this data root; later starts leave it alone. Blocking.
pub(crate) fn at_first_start(config: &EngineConfig, from: PathBuf) -> Result<()> {
    if config.data_root.join("engine-id").exists() {
        return Ok(());
    }
    let options = MoveOptions { from, containerd: None, dry_run: false };
    let summary = import(config, &options, &mut |line| match &line.outcome {
        Outcome::Refused(_) => tracing::warn!("{line}"),
        _ => tracing::info!("{line}"),
    })?;
    let Summary { taken, present, refused } = summary;
    tracing::info!(taken, present, refused, "{} was taken over", options.from.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Arguments> {
        Arguments::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn own_arguments_and_the_daemons() {
        let arguments =
            parsed(&["--data-root", "/new", "--dry-run", "/old", "--debug", "--containerd-root=/c"]).expect("valid");
        let expected = Arguments {
            from: Some("/old".into()),
            containerd: Some("/c".into()),
            dry_run: true,
            help: false,
            rest: ["--data-root", "/new", "--debug"].map(str::to_owned).to_vec(),
        };
        assert_eq!(arguments, expected);
        assert_eq!(parsed(&["-l", "debug", "/old"]).expect("valid").from, Some("/old".into()));
        assert!(parsed(&["/a", "/b"]).is_err());
        assert!(parsed(&["/a", "--containerd-root"]).is_err());
        assert!(parsed(&["--help"]).expect("valid").help);
    }
}
