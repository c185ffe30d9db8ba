//! Description + what the start found out -> OCI runtime specification. Pure: the caller (`start.rs`) has looked at the
//! host, resolved names to paths and descriptors; the same input always gives the same specification.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use dockerd_runtime::capabilities::{self, CapabilityList};
use dockerd_types::container::{CgroupnsMode, HostConfig, IpcMode, NetworkMode, PidMode, Ulimit};
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    BoxBuilder, Linux, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxNamespace,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxSeccomp, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, User, UserBuilder,
};

pub mod devices;
pub mod mounts;
pub mod resources;

use super::spec::ContainerSpec;
use super::user::Identity;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that are read-only unless the client says otherwise.
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A specification that cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The OCI types refused.
    #[error(transparent)]
    Oci(#[from] OciSpecError),
    /// Capability names.
    #[error(transparent)]
    Capability(#[from] capabilities::CapabilityError),
    /// A ulimit no kernel has.
    #[error("invalid ulimit type: {0}")]
    Ulimit(String),
    /// Devices.
    #[error(transparent)]
    Device(#[from] devices::DeviceError),
}

/// What this host is like; read once at boot.
#[derive(Debug, Clone, Default)]
pub struct HostFacts {
    /// cgroup v2 only.
    pub cgroup_v2: bool,
    /// Mounts can be made read-only with everything below them (mount_setattr).
    pub recursive_read_only: bool,
    /// `/sys/devices/system/cpu/cpu*/thermal_throttle` directories that exist.
    pub thermal_throttle: Vec<String>,
    /// Capabilities of the daemon's bounding set.
    pub available_caps: u64,
    /// Host name.
    pub hostname: String,
}

/// What the daemon's settings add.
#[derive(Debug, Clone, Copy)]
pub struct Defaults<'a> {
    /// Limits by name for containers that do not set them.
    pub ulimits: &'a [Ulimit],
    /// Parent cgroup.
    pub cgroup_parent: Option<&'a str>,
    /// Whether processes may never gain privileges.
    pub no_new_privileges: bool,
}

/// Namespaces of other containers to join, as paths below `/proc`.
#[derive(Debug, Clone, Default)]
pub struct Joins {
    /// Network.
    pub network: Option<PathBuf>,
    /// IPC.
    pub ipc: Option<PathBuf>,
    /// PID.
    pub pid: Option<PathBuf>,
}

/// Everything a specification is made of.
#[derive(Debug)]
pub struct OciInput<'a> {
    /// The description.
    pub spec: &'a ContainerSpec,
    /// Variables of its links.
    pub link_variables: Vec<String>,
    /// The host.
    pub host: &'a HostFacts,
    /// The daemon's settings.
    pub defaults: Defaults<'a>,
    /// User mounts, resolved to host paths.
    pub mounts: Vec<mounts::ResolvedMount>,
    /// `/dev/shm`.
    pub shm: mounts::Shm,
    /// The files bound over `/etc/...`.
    pub files: Option<mounts::NetworkFiles>,
    /// Namespaces to join.
    pub joins: Joins,
    /// Device nodes and rules of `--device`.
    pub devices: devices::DeviceSet,
    /// Who the process is.
    pub identity: Identity,
    /// Seccomp profile.
    pub seccomp: Option<LinuxSeccomp>,
    /// Security options.
    pub security: &'a super::security::SecurityOptions,
}

/// Builds the specification.
pub fn build(input: OciInput<'_>) -> Result<Spec, SpecError> {
    let container = input.spec;
    let host = &container.host;
    let mut spec = SpecBuilder::default()
        // The oldest the runtimes of distributions in use know; nothing newer is asked for.
        .version("1.0.2".to_owned())
        .root(RootBuilder::default().path("rootfs").readonly(host.readonly_rootfs).build()?)
        .process(process(&input)?)
        .mounts(mounts::build(&input)?)
        .build()?;
    // The builder has defaults of its own; what is not wanted must be taken out again.
    let own_uts = !host.uts_host;
    spec.set_hostname(own_uts.then(|| container.config.hostname.clone()));
    let domain = &container.config.domainname;
    spec.set_domainname((own_uts && !domain.is_empty()).then(|| domain.clone()));
    let annotations: HashMap<_, _> = host.annotations.clone().into_iter().collect();
    spec.set_annotations((!annotations.is_empty()).then_some(annotations));
    spec.set_linux(Some(linux(input)?));
    Ok(spec)
}

fn process(input: &OciInput<'_>) -> Result<Process, SpecError> {
    let container = input.spec;
    let config = &container.config;
    let mut args = Vec::with_capacity(container.args.len() + 1);
    args.push(container.path.clone());
    args.extend(container.args.iter().cloned());
    let mut process = ProcessBuilder::default()
        .terminal(config.tty)
        .user(user(&input.identity)?)
        .args(args)
        .env(environment(container, &input.link_variables))
        .cwd(if config.working_dir.is_empty() { "/" } else { &config.working_dir })
        .capabilities(capability_sets(input)?)
        .no_new_privileges(input.security.no_new_privileges.unwrap_or(input.defaults.no_new_privileges))
        .oom_score_adj(i32::try_from(container.host.oom_score_adj).unwrap_or(0))
        .build()?;
    process.set_rlimits(rlimits(&container.host.resources.ulimits, input.defaults.ulimits)?);
    let (height, width) = container.host.console_size;
    if config.tty && height > 0 && width > 0 {
        let size = BoxBuilder::default().height(u64::from(height)).width(u64::from(width)).build()?;
        process.set_console_size(Some(size));
    }
    if let Some(profile) = &input.security.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    Ok(process)
}

/// The numbers of a process.
pub fn user(identity: &Identity) -> Result<User, SpecError> {
    let user = UserBuilder::default().uid(identity.uid).gid(identity.gid);
    Ok(user.additional_gids(identity.groups.clone()).build()?)
}

/// PATH, HOSTNAME and TERM, its links, then what the image and the client set; later entries replace earlier ones of the same name
/// in place, and a name without `=` takes the variable away.
pub fn environment(container: &ContainerSpec, links: &[String]) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={}", container.config.hostname)];
    if container.config.tty {
        env.push("TERM=xterm".to_owned());
    }
    env.extend_from_slice(links);
    replace_env(&mut env, &container.config.env);
    env
}

/// Merges `overrides` into `env` as Docker does.
pub fn replace_env(env: &mut Vec<String>, overrides: &[String]) {
    let mut index: HashMap<String, usize> =
        env.iter().enumerate().map(|(i, entry)| (key_of(entry).to_owned(), i)).collect();
    let mut removed = Vec::new();
    for entry in overrides {
        let key = key_of(entry);
        match (index.get(key), entry.contains('=')) {
            (Some(&at), true) => env[at].clone_from(entry),
            (Some(&at), false) => removed.push(at),
            (None, true) => {
                index.insert(key.to_owned(), env.len());
                env.push(entry.clone());
            }
            (None, false) => {}
        }
    }
    removed.sort_unstable();
    removed.dedup();
    for at in removed.into_iter().rev() {
        env.remove(at);
    }
}

fn key_of(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

/// The capabilities of a container, as a bit mask.
pub fn capability_mask(host: &HostConfig, available: u64) -> Result<u64, SpecError> {
    let add = CapabilityList::parse(&host.cap_add)?;
    let drop = CapabilityList::parse(&host.cap_drop)?;
    Ok(capabilities::effective(add, drop, host.privileged, available))
}

fn capability_sets(input: &OciInput<'_>) -> Result<LinuxCapabilities, SpecError> {
    let set = capabilities::to_oci(capability_mask(&input.spec.host, input.host.available_caps)?);
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(capabilities::to_oci(0))
        .ambient(capabilities::to_oci(0))
        .build()?)
}

fn rlimits(own: &[Ulimit], defaults: &[Ulimit]) -> Result<Option<Vec<PosixRlimit>>, SpecError> {
    let mut merged: BTreeMap<&str, &Ulimit> = BTreeMap::new();
    for limit in defaults.iter().chain(own) {
        merged.insert(&limit.name, limit);
    }
    let all: Vec<_> = merged.into_values().map(rlimit).collect::<Result<_, _>>()?;
    Ok((!all.is_empty()).then_some(all))
}

fn rlimit(limit: &Ulimit) -> Result<PosixRlimit, SpecError> {
    let typ: PosixRlimitType =
        serde_json::from_value(serde_json::Value::String(format!("RLIMIT_{}", limit.name.to_ascii_uppercase())))
            .map_err(|_| SpecError::Ulimit(limit.name.clone()))?;
    // -1 is "unlimited", which is all ones for the kernel too.
    let value = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
    Ok(PosixRlimitBuilder::default().typ(typ).soft(value(limit.soft)).hard(value(limit.hard)).build()?)
}

fn linux(input: OciInput<'_>) -> Result<Linux, SpecError> {
    let container = input.spec;
    let host = &container.host;
    let mut linux = LinuxBuilder::default()
        .cgroups_path(cgroups_path(container, input.defaults.cgroup_parent))
        .namespaces(namespaces(&input)?)
        .resources(resources::build(host, &input.devices)?)
        .devices(input.devices.nodes.clone())
        .build()?;
    let privileged = host.privileged;
    let masked = host.masked_paths.clone().unwrap_or_else(|| default_masked(input.host));
    let readonly = host.readonly_paths.clone().unwrap_or_else(|| READONLY_PATHS.map(str::to_owned).to_vec());
    linux.set_masked_paths((!privileged).then_some(masked));
    linux.set_readonly_paths((!privileged).then_some(readonly));
    // Docker's own are settings of the network namespace and made with it.
    let sysctls: HashMap<_, _> = container.host.sysctls.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    linux.set_sysctl((!sysctls.is_empty()).then_some(sysctls));
    linux.set_rootfs_propagation(mounts::rootfs_propagation(&input.mounts).map(str::to_owned));
    linux.set_seccomp(input.seccomp);
    Ok(linux)
}

/// Paths that are hidden unless the client says otherwise.
pub fn default_masked(host: &HostFacts) -> Vec<String> {
    MASKED_PATHS.iter().map(|p| (*p).to_owned()).chain(host.thermal_throttle.iter().cloned()).collect()
}

/// Where containers are unless another parent is asked for.
pub const CGROUP_PARENT: &str = "/docker";

/// `/docker/<id>`, or below the parent asked for.
pub fn cgroups_path(container: &ContainerSpec, default_parent: Option<&str>) -> PathBuf {
    let own = &container.host.resources.cgroup_parent;
    let parent = if own.is_empty() { default_parent.unwrap_or(CGROUP_PARENT) } else { own };
    PathBuf::from(format!("/{}", parent.trim_matches('/'))).join(container.id.as_str())
}

/// Whether the container has a network namespace of its own.
pub fn own_network(container: &ContainerSpec) -> bool {
    !matches!(container.host.network_mode, NetworkMode::Host | NetworkMode::Container(_))
}

fn namespaces(input: &OciInput<'_>) -> Result<Vec<LinuxNamespace>, SpecError> {
    let host = &input.spec.host;
    let mut out = vec![namespace(LinuxNamespaceType::Mount, None)?];
    match &host.network_mode {
        NetworkMode::Host => {}
        _ => out.push(namespace(LinuxNamespaceType::Network, input.joins.network.clone())?),
    }
    if !host.uts_host {
        out.push(namespace(LinuxNamespaceType::Uts, None)?);
    }
    match &host.pid_mode {
        PidMode::Host => {}
        PidMode::Private | PidMode::Container(_) => {
            out.push(namespace(LinuxNamespaceType::Pid, input.joins.pid.clone())?);
        }
    }
    match &host.ipc_mode {
        IpcMode::Host => {}
        _ => out.push(namespace(LinuxNamespaceType::Ipc, input.joins.ipc.clone())?),
    }
    if host.cgroupns_mode == CgroupnsMode::Private {
        out.push(namespace(LinuxNamespaceType::Cgroup, None)?);
    }
    Ok(out)
}

fn namespace(typ: LinuxNamespaceType, path: Option<PathBuf>) -> Result<LinuxNamespace, SpecError> {
    let builder = LinuxNamespaceBuilder::default().typ(typ);
    Ok(match path {
        Some(path) => builder.path(path).build()?,
        None => builder.build()?,
    })
}

/// Used by the submodules.
fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> Result<Mount, SpecError> {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    Ok(mount)
}

#[cfg(test)]
mod tests;
