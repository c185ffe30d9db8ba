//! Networks of an old root: those that users made are told of, because this daemon has none yet.

use dockerd_image::moving::{MovingError, OldRoot};
use dockerd_store::Bolt;
use dockerd_store::bolt::Item;
use serde::Deserialize;

use super::{Outcome, Report};

const DATABASE: &str = "network/files/local-kv.db";
/// Beginning of the keys of networks.
const KEY: &[u8] = b"docker/network/v1.0/network/";
/// Networks that every daemon has.
const PREDEFINED: [&str; 3] = ["bridge", "host", "none"];

#[derive(Debug, Deserialize)]
struct StockNetwork {
    #[serde(default)]
    name: String,
    #[serde(rename = "networkType", default)]
    driver: String,
}

/// The networks' database.
#[derive(Debug)]
pub(super) struct Networks(Option<Bolt>);

impl Networks {
    pub(super) fn open(root: &OldRoot) -> Result<Self, MovingError> {
        let Ok(file) = root.file(DATABASE) else { return Ok(Self(None)) };
        Ok(Self(Some(Bolt::open(file).map_err(MovingError::bolt(DATABASE))?)))
    }

    pub(super) fn report(&self, report: &mut Report<'_>) {
        match self.list() {
            Ok(networks) => {
                for network in networks.iter().filter(|network| !PREDEFINED.contains(&&*network.name)) {
                    let why = format!("user-defined networks ({}) are not built yet", network.driver);
                    report.line("network", &network.name, Outcome::Refused(why));
                }
            }
            Err(error) => report.line("network", "list", Outcome::Refused(error.to_string())),
        }
    }

    fn list(&self) -> Result<Vec<StockNetwork>, MovingError> {
        let Some(bolt) = &self.0 else { return Ok(Vec::new()) };
        let fail = || MovingError::bolt(DATABASE);
        let mut networks = Vec::new();
        for (_, item) in bolt.items(&bolt.root()).map_err(fail())? {
            let Item::Bucket(bucket) = item else { continue };
            for (key, item) in bolt.items(&bucket).map_err(fail())? {
                let Item::Value(value) = item else { continue };
                // A counter stands before the document.
                let document = value.iter().position(|byte| *byte == b'{').map(|at| &value[at..]);
                if key.starts_with(KEY)
                    && let Some(network) = document.and_then(|text| serde_json::from_slice(text).ok())
                {
                    networks.push(network);
                }
            }
        }
        Ok(networks)
    }
}
