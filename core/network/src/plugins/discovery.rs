//! Where plugins are: `NAME.sock` below one directory, else `NAME.spec` (an address) or `NAME.json` (an address and
//! certificates) below others, each also in a directory of that name.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::attempts::Patience;
use super::client::PluginAddress;
use super::{Answer, PluginError, tls};

/// Largest file that says where a plugin is, in bytes.
const LARGEST_SPEC: u64 = 64 << 10;

/// Directories that are looked into.
#[derive(Debug, Clone)]
pub struct PluginPaths {
    /// Of sockets.
    pub sockets: PathBuf,
    /// Of files with addresses.
    pub specs: Vec<PathBuf>,
}

impl Default for PluginPaths {
    fn default() -> Self {
        let specs = ["/etc/docker/plugins", "/usr/lib/docker/plugins"];
        Self { sockets: "/run/docker/plugins".into(), specs: specs.map(PathBuf::from).to_vec() }
    }
}

impl PluginPaths {
    /// Where that plugin is. One that is not there is waited for, as the stock daemon does: it may be about to start. Not so
    /// on hosts that have no such directories: there a wrong name is told at once.
    pub(super) fn wait_for(&self, name: &str, patience: Patience) -> Result<PluginAddress, PluginError> {
        let mut attempts = patience.attempts();
        loop {
            let error = match self.find(name) {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => PluginError::NotFound(name.to_owned()),
                Err(error) => PluginError::Legacy(Box::new(error)),
            };
            let pause = attempts.pause().filter(|_| is_name(name) && self.are_used());
            std::thread::sleep(pause.ok_or(error)?);
        }
    }

    fn are_used(&self) -> bool {
        self.sockets.is_dir() || self.specs.iter().any(|dir| dir.is_dir())
    }

    fn find(&self, name: &str) -> Result<Option<PluginAddress>, PluginError> {
        if !is_name(name) {
            return Ok(None);
        }
        let is_socket = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
        if let Some(path) = places(&self.sockets, name, "sock").into_iter().find(is_socket) {
            return Ok(Some(PluginAddress::Unix(path)));
        }
        let specs = self.specs.iter().flat_map(|dir| [places(dir, name, "spec"), places(dir, name, "json")]);
        let Some(path) = specs.flatten().find(|path| path.exists()) else { return Ok(None) };
        let content = read(&path).map_err(|error| PluginError::Spec(format!("open {}: {error}", path.display())))?;
        if path.extension().is_some_and(|end| end == "json") { from_json(&content) } else { from_text(&content) }
            .map(Some)
    }
}

/// Whether it is one component of a path, so that no file elsewhere is taken for a plugin.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

fn places(dir: &Path, name: &str, end: &str) -> [PathBuf; 2] {
    let file = format!("{name}.{end}");
    [dir.join(&file), dir.join(name).join(&file)]
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(LARGEST_SPEC).read_to_end(&mut content)?;
    Ok(content)
}

fn from_text(content: &[u8]) -> Result<PluginAddress, PluginError> {
    parse(String::from_utf8_lossy(content).trim(), None)
}

fn from_json(content: &[u8]) -> Result<PluginAddress, PluginError> {
    let spec = Answer::parse(content, "plugins.Plugin")?.named("Plugin");
    let options = spec.object("TLSConfig", "tlsconfig.Options")?.unwrap_or_default();
    let files = tls::Files {
        authority: options.text("CAFile")?,
        certificate: options.text("CertFile")?,
        key: options.text("KeyFile")?,
        unchecked: options.flag("InsecureSkipVerify")?,
    };
    parse(&spec.text("Addr")?, Some(files))
}

/// `unix:///path`, `tcp://host:port`, `http://host:port` or `https://host:port`; only the last one is by TLS.
fn parse(text: &str, files: Option<tls::Files>) -> Result<PluginAddress, PluginError> {
    let unknown = || PluginError::Spec("Unknown protocol".to_owned());
    let (scheme, rest) = text.split_once("://").ok_or_else(unknown)?;
    match scheme {
        "unix" if rest.starts_with('/') => Ok(PluginAddress::Unix(rest.into())),
        "tcp" | "http" | "https" if !rest.is_empty() => {
            let authority = rest.split('/').next().unwrap_or_default().to_owned();
            let tls = match scheme {
                "https" => Some(Arc::new(tls::config(files.unwrap_or_default())?)),
                _ => None,
            };
            Ok(PluginAddress::Tcp { authority, tls })
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn found(paths: &PluginPaths, name: &str) -> String {
        match paths.find(name) {
            Ok(Some(PluginAddress::Unix(path))) => format!("unix {}", path.display()),
            Ok(Some(PluginAddress::Tcp { authority, tls })) => format!("tcp {authority} {}", tls.is_some()),
            Ok(None) => "none".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn where_plugins_are() {
        let dir = tempfile::tempdir().expect("directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["sock/own", "etc", "lib/own"] {
            fs::create_dir_all(at(name)).expect("directory");
        }
        let paths = PluginPaths { sockets: at("sock"), specs: vec![at("etc"), at("lib")] };
        let _listeners =
            [at("sock/a.sock"), at("sock/own/own.sock")].map(|path| UnixListener::bind(path).expect("socket"));
        fs::write(at("sock/file.sock"), "").expect("file");
        fs::write(at("etc/a.spec"), "tcp://never:1").expect("file");
        fs::write(at("etc/b.spec"), " unix:///x/y.sock\n").expect("file");
        fs::write(at("etc/c.spec"), "nonsense").expect("file");
        fs::write(at("lib/own/own.spec"), "tcp://never:1").expect("file");
        fs::write(at("lib/d.json"), r#"{"Name":"d","Addr":"https://host:9","TLSConfig":{"InsecureSkipVerify":true}}"#)
            .expect("file");
        fs::write(at("lib/e.json"), r#"{"Addr":5}"#).expect("file");
        for (name, wanted) in [
            ("a", format!("unix {}", at("sock/a.sock").display())),
            ("own", format!("unix {}", at("sock/own/own.sock").display())),
            ("file", "none".to_owned()),
            ("b", "unix /x/y.sock".to_owned()),
            ("c", "Unknown protocol".to_owned()),
            ("d", "tcp host:9 true".to_owned()),
            ("e", "json: cannot unmarshal number into Go struct field Plugin.Addr of type string".to_owned()),
            ("../etc/b", "none".to_owned()),
            ("", "none".to_owned()),
            ("nosuch", "none".to_owned()),
        ] {
            assert_eq!(found(&paths, name), wanted, "{name}");
        }
    }
}
