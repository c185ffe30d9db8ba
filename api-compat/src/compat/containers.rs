//! Descriptions of containers by older clients.

use dockerd_types::container::CreateContainer;
use dockerd_types::container::{CgroupnsMode, IpcMode};

use crate::version::ApiVersion;

/// Before this version the daemon did not remove containers by itself; clients did.
const AUTO_REMOVE: ApiVersion = ApiVersion(1, 25);
/// Before this version the shared memory of a container could be joined unless it was said otherwise.
const PRIVATE_IPC: ApiVersion = ApiVersion(1, 40);
/// Before this version containers were in the host's cgroup namespace, and a platform was not asked for.
const CGROUPNS: ApiVersion = ApiVersion(1, 41);

/// What a client of `version` meant.
pub(crate) fn upgrade_create(version: ApiVersion, command: &mut CreateContainer) {
    let host = &mut command.host_config;
    if version < AUTO_REMOVE {
        host.auto_remove = false;
    }
    if version < PRIVATE_IPC && host.ipc_mode == IpcMode::Default {
        host.ipc_mode = IpcMode::Shareable;
    }
    if version < CGROUPNS {
        if host.cgroupns_mode == CgroupnsMode::Default {
            host.cgroupns_mode = CgroupnsMode::Host;
        }
        command.platform = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::create::create;
    use crate::extract::Object;
    use crate::version::NEWEST;

    fn created(version: ApiVersion) -> CreateContainer {
        let body = Object::parse(br#"{"Image":"x","HostConfig":{"AutoRemove":true}}"#).expect("parsed");
        let mut command = create(&body, "", "linux/amd64").map_err(|error| error.message).expect("converted");
        upgrade_create(version, &mut command);
        command
    }

    #[test]
    fn old_defaults_are_said_aloud() {
        let oldest = created(ApiVersion(1, 24));
        assert!(!oldest.host_config.auto_remove && oldest.platform.is_none());
        assert_eq!(oldest.host_config.ipc_mode, IpcMode::Shareable);
        assert_eq!(oldest.host_config.cgroupns_mode, CgroupnsMode::Host);
        let middle = created(ApiVersion(1, 40));
        assert!(middle.host_config.auto_remove && middle.host_config.ipc_mode == IpcMode::Default);
        assert_eq!(middle.host_config.cgroupns_mode, CgroupnsMode::Host);
        let newest = created(NEWEST);
        assert_eq!(newest.host_config.cgroupns_mode, CgroupnsMode::Default);
        assert!(newest.platform.is_some());
    }
}
