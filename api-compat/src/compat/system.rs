//! `GET /info` as older clients know it.

use serde_json::{Value, json};

use crate::version::ApiVersion;

/// Before this version security options were names only.
const KEY_VALUE: ApiVersion = ApiVersion(1, 25);
/// Before this version limits of kernel memory were told of.
const NO_KERNEL_MEMORY: ApiVersion = ApiVersion(1, 42);
/// Before this version some registries' layers were not to be pushed elsewhere.
const NO_NONDISTRIBUTABLE: ApiVersion = ApiVersion(1, 47);
/// From this version on the firewall is named; before, expected revisions were.
const FIREWALL: ApiVersion = ApiVersion(1, 49);
/// Before this version it was told whether bridges pass through the firewall.
const NO_BRIDGE_CALLS: ApiVersion = ApiVersion(1, 50);

/// What a client of `version` is shown.
pub(crate) fn downgrade_info(version: ApiVersion, mut info: Value) -> Value {
    if version < KEY_VALUE {
        let names = |option: &Value| {
            let name = option.as_str()?.split(',').find_map(|part| part.strip_prefix("name="))?;
            Some(json!(name))
        };
        info["SecurityOptions"] = info["SecurityOptions"].as_array().into_iter().flatten().filter_map(names).collect();
    }
    if version < NO_KERNEL_MEMORY {
        info["KernelMemory"] = info["MemoryLimit"].clone();
    }
    if version < NO_NONDISTRIBUTABLE {
        info["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"] = Value::Null;
        info["RegistryConfig"]["AllowNondistributableArtifactsHostnames"] = Value::Null;
    }
    if version < FIREWALL {
        for commit in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            if info[commit]["ID"] != json!("") {
                info[commit]["Expected"] = info[commit]["ID"].clone();
            }
        }
        if let Some(info) = info.as_object_mut() {
            info.remove("FirewallBackend");
        }
    }
    if version < NO_BRIDGE_CALLS {
        info["BridgeNfIptables"] = json!(false);
        info["BridgeNfIp6tables"] = json!(false);
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::NEWEST;

    #[test]
    fn version_by_version() {
        let info = || {
            json!({
                "SecurityOptions": ["name=seccomp,profile=builtin"], "MemoryLimit": true, "RegistryConfig": {},
                "RuncCommit": {"ID": "x"}, "ContainerdCommit": {"ID": ""}, "InitCommit": {"ID": ""},
                "FirewallBackend": {"Driver": "nftables"},
            })
        };
        assert_eq!(downgrade_info(NEWEST, info()), info());
        let old = downgrade_info(ApiVersion(1, 24), info());
        assert_eq!(old["SecurityOptions"], json!(["seccomp"]));
        assert_eq!((&old["KernelMemory"], &old["RuncCommit"]["Expected"]), (&json!(true), &json!("x")));
        assert!(old.get("FirewallBackend").is_none() && old["ContainerdCommit"].get("Expected").is_none());
        let middle = downgrade_info(ApiVersion(1, 49), info());
        assert!(middle.get("FirewallBackend").is_some() && middle.get("BridgeNfIptables").is_some());
    }
}
