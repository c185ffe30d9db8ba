//! Merges an image's defaults into what the client wrote, by Docker's rules. Pure.

use dockerd_types::container::{ContainerConfig, Healthcheck};

use super::create_error::CreateError;

/// Fills `config` from `image`.
pub fn merge(config: &mut ContainerConfig, image: &ContainerConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    config.exposed_ports.extend(image.exposed_ports.iter().copied());
    merge_env(&mut config.env, &image.env);
    for (key, value) in &image.labels {
        config.labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    merge_command(config, image);
    merge_health(&mut config.healthcheck, image.healthcheck.as_ref());
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    config.volumes.extend(image.volumes.iter().cloned());
    if config.stop_signal.as_deref().unwrap_or_default().is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.shell.as_ref().is_none_or(Vec::is_empty) {
        config.shell.clone_from(&image.shell);
    }
}

/// The image's variables go behind the client's, unless the client set the same name.
fn merge_env(env: &mut Vec<String>, image: &[String]) {
    let name = |entry: &str| entry.split_once('=').map_or(entry, |(name, _)| name).to_owned();
    let taken: std::collections::HashSet<String> = env.iter().map(|e| name(e)).collect();
    env.extend(image.iter().filter(|e| !taken.contains(&name(e))).cloned());
}

/// A client's entrypoint takes the image's command away; an entrypoint of one empty text takes the image's entrypoint
/// away and leaves the command.
fn merge_command(config: &mut ContainerConfig, image: &ContainerConfig) {
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if config.entrypoint.as_deref().is_some_and(|list| list.len() == 1 && list[0].is_empty()) {
        config.entrypoint = None;
    }
}

fn merge_health(own: &mut Option<Healthcheck>, image: Option<&Healthcheck>) {
    let Some(image) = image else { return };
    let Some(own) = own else {
        *own = Some(image.clone());
        return;
    };
    if own.test.is_empty() {
        own.test.clone_from(&image.test);
    }
    for (mine, theirs) in [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
    ] {
        if mine.is_zero() {
            *mine = theirs;
        }
    }
    if own.retries == 0 {
        own.retries = image.retries;
    }
}

/// Program and arguments of a merged description.
pub fn command(config: &ContainerConfig) -> Result<(String, Vec<String>), CreateError> {
    let mut all = config.entrypoint.iter().chain(config.cmd.iter()).flatten().cloned();
    let path = all.next().ok_or(CreateError::NoCommand)?;
    Ok((path, all.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|w| (*w).to_owned()).collect())
    }

    #[test]
    fn entrypoint_and_command() {
        let image = ContainerConfig { entrypoint: list(&["e"]), cmd: list(&["c"]), ..ContainerConfig::default() };
        let run = |entrypoint, cmd| {
            let mut config = ContainerConfig { entrypoint, cmd, ..ContainerConfig::default() };
            merge(&mut config, &image);
            command(&config).map(|(path, args)| format!("{path} {}", args.join(" "))).unwrap_or_default()
        };
        assert_eq!(run(None, None), "e c");
        assert_eq!(run(None, list(&["x"])), "e x");
        assert_eq!(run(list(&["y"]), None), "y ");
        assert_eq!(run(list(&["y"]), list(&["x"])), "y x");
        assert_eq!(run(list(&[""]), list(&["x"])), "x ");
        assert_eq!(run(list(&[""]), None), "");
        assert_eq!(run(list(&[]), None), "c ");
    }

    #[test]
    fn env_keeps_the_clients_value() {
        let mut config = ContainerConfig { env: vec!["A=1".to_owned()], ..ContainerConfig::default() };
        let image = ContainerConfig { env: vec!["A=2".to_owned(), "B=3".to_owned()], ..ContainerConfig::default() };
        merge(&mut config, &image);
        assert_eq!(config.env, ["A=1", "B=3"]);
    }
}
