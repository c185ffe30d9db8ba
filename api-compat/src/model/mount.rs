//! `MountPoint`: what is mounted in a container, as list and inspect show it.

use std::borrow::Cow;

use dockerd_core::container::spec::{MountPoint, MountPointKind};
use serde::Serialize;

/// One mount.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Mount<'a> {
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    source: Cow<'a, str>,
    destination: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<&'a str>,
    mode: &'a str,
    #[serde(rename = "RW")]
    rw: bool,
    propagation: &'a str,
}

impl<'a> Mount<'a> {
    /// As the API shows it.
    pub(crate) fn new(mount: &'a MountPoint) -> Self {
        let (kind, name, source, driver) = match &mount.kind {
            MountPointKind::Bind { source, .. } => ("bind", None, Cow::from(source.as_str()), None),
            MountPointKind::Volume { name, driver, source, .. } => {
                ("volume", Some(name.as_str()), source.to_string_lossy(), Some(driver.as_str()))
            }
            MountPointKind::Tmpfs { .. } => ("tmpfs", None, Cow::from(""), None),
            MountPointKind::Image { reference, .. } => ("image", None, Cow::from(reference.as_str()), None),
        };
        Self {
            kind,
            name,
            source,
            destination: &mount.destination,
            driver,
            mode: &mount.mode,
            rw: !mount.read_only,
            propagation: &mount.propagation,
        }
    }
}
