//! Trees and tars outside of layers: `docker import`, `docker cp`, `docker export`, and the copy into an empty volume.

use std::io::Read;
use std::sync::Arc;

use dockerd_types::container::ContainerConfig;
use dockerd_types::network::Port;
use dockerd_types::{Reference, Timestamp};

use crate::config::{History, ImageConfig, RootFs};
use crate::decompress;
use crate::error::ImageError;
use crate::load::go_architecture;
use crate::store::{Image, ImageStore};

/// What an import makes of a tar.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The image's name.
    pub reference: Option<Reference>,
    /// Dockerfile instructions for its configuration.
    pub changes: Vec<String>,
    /// Comment of its history.
    pub message: String,
    /// Architecture, where it is not this machine's.
    pub architecture: Option<String>,
}

impl ImageStore {
    /// Makes an image of one layer from the tar `reader`, compressed or not.
    pub fn import(&self, reader: impl Read + Send, options: &ImportOptions) -> Result<Arc<Image>, ImageError> {
        let mut run = ContainerConfig::default();
        for change in &options.changes {
            apply_change(&mut run, change)?;
        }
        let layer = self.add_layer(None, None, decompress::plain(reader)?)?;
        let now = Timestamp::now().rfc3339_nano();
        let architecture = options.architecture.as_deref().unwrap_or_else(|| go_architecture());
        let mut config = ImageConfig {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            created: Some(now.clone()),
            comment: options.message.clone(),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![layer.diff_id.clone()] },
            history: vec![History { created: Some(now), comment: options.message.clone(), ..History::default() }],
            ..ImageConfig::default()
        };
        config.set_container_config(&run);
        let raw = serde_json::to_vec(&config).map_err(|error| ImageError::Archive(error.to_string()))?;
        let references: Vec<Reference> = options.reference.clone().into_iter().collect();
        self.add_image(&raw, &[layer], &references)
    }
}

/// One `--change`: the instructions that only touch the configuration.
fn apply_change(config: &mut ContainerConfig, change: &str) -> Result<(), ImageError> {
    let invalid = |text: String| ImageError::InvalidArgument(text);
    let (word, rest) = change.trim().split_once(char::is_whitespace).unwrap_or((change.trim(), ""));
    let rest = rest.trim();
    match word.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => config.entrypoint = Some(command(rest)),
        "ENV" => config.env.extend(pairs(rest).into_iter().map(|(key, value)| format!("{key}={value}"))),
        "LABEL" => config.labels.extend(pairs(rest)),
        "USER" => config.user = rest.to_owned(),
        "WORKDIR" => config.working_dir = rest.to_owned(),
        "STOPSIGNAL" => config.stop_signal = Some(rest.to_owned()),
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                config.exposed_ports.extend(Port::parse_range(port).map_err(|error| invalid(error.to_string()))?);
            }
        }
        "VOLUME" => match serde_json::from_str::<Vec<String>>(rest) {
            Ok(paths) => config.volumes.extend(paths),
            Err(_) => config.volumes.extend(rest.split_whitespace().map(str::to_owned)),
        },
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        _ => return Err(invalid(format!("{word} is not a valid change command"))),
    }
    Ok(())
}

/// Exec form as it is, shell form by /bin/sh.
fn command(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()])
}

/// `K=V K2="v v"`, or the old `K rest of the line`.
fn pairs(text: &str) -> Vec<(String, String)> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        return vec![(key.to_owned(), value.trim().to_owned())];
    }
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in text.chars() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (c, Some(q)) if c == q => quote = None,
            (c, None) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (c, _) => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words.iter().filter_map(|word| word.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_dockerfile_instructions() {
        let mut config = ContainerConfig::default();
        for change in ["CMD [\"a\",\"b\"]", "ENTRYPOINT x y", "ENV A=1 B=\"2 3\"", "ENV C d e", "EXPOSE 80 90/udp"] {
            apply_change(&mut config, change).expect(change);
        }
        assert_eq!(config.cmd, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(config.env, ["A=1", "B=2 3", "C=d e"]);
        assert_eq!(config.exposed_ports.len(), 2);
        assert!(apply_change(&mut config, "RUN x").is_err());
    }
}
