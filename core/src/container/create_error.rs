//! What is wrong with a description at creation. The texts are the stock daemon's; clients and scripts match on them.

use dockerd_types::network::InvalidPort;
use dockerd_types::signal::InvalidSignal;
use dockerd_types::{ContainerId, ErrorKind, Kinded};

/// A description that cannot be accepted.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The name is taken.
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken {
        /// The name wanted.
        name: String,
        /// Who has it.
        owner: ContainerId,
    },
    /// Characters a name may not have.
    #[error("Invalid container name ({0}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    InvalidName(String),
    /// Neither command nor entrypoint anywhere.
    #[error("no command specified")]
    NoCommand,
    /// The image is for another machine.
    #[error(
        "image with reference {reference} was found but its platform ({actual}) does not match the specified platform ({wanted})"
    )]
    Platform {
        /// As written.
        reference: String,
        /// The image's.
        actual: String,
        /// The client's.
        wanted: String,
    },
    /// No platform at all.
    #[error("\"{0}\": cannot parse platform specifier: invalid argument")]
    PlatformSyntax(String),
    /// Relative working directory.
    #[error("the working directory '{0}' is invalid, it needs to be an absolute path")]
    WorkingDir(String),
    /// Variable without a name.
    #[error("invalid environment variable: {0}")]
    Environment(String),
    /// Stop signal.
    #[error(transparent)]
    StopSignal(#[from] InvalidSignal),
    /// Health check times.
    #[error("{0} in Healthcheck cannot be less than 1ms")]
    HealthTime(&'static str),
    /// Health check retries.
    #[error("Retries in Healthcheck cannot be negative")]
    HealthRetries,
    /// `host:ip` without colon.
    #[error("bad format for add-host: \"{0}\"")]
    ExtraHost(String),
    /// `host:ip` without ip.
    #[error("invalid IP address in add-host: \"{0}\"")]
    ExtraHostAddress(String),
    /// A port.
    #[error(transparent)]
    Port(#[from] InvalidPort),
    /// Both things at once make no sense.
    #[error("conflicting options: {0}")]
    Conflicting(&'static str),
    /// Auto-remove and a restart policy.
    #[error("can't create 'AutoRemove' container with restart policy")]
    AutoRemoveRestart,
    /// A limit.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Unknown capability.
    #[error("invalid {list}: unknown capability: \"{name}\"")]
    Capability {
        /// CapAdd or CapDrop.
        list: &'static str,
        /// With its prefix.
        name: String,
    },
    /// A security option; `place` is the number the stock daemon prints.
    #[error("invalid --security-opt {place}: \"{option}\"")]
    SecurityOpt {
        /// Which check failed.
        place: u8,
        /// As written.
        option: String,
    },
    /// Interface sysctl.
    #[error(
        "interface specific sysctl setting \"{0}\" must be supplied using driver option 'com.docker.network.endpoint.sysctls'"
    )]
    InterfaceSysctl(String),
    /// Runtime.
    #[error("unknown or invalid runtime name: {0}")]
    Runtime(String),
    /// Log driver.
    #[error("error looking up logging plugin {0}: plugin \"{0}\" not found")]
    LogDriver(String),
    /// Log option.
    #[error("unknown log opt '{option}' for {driver} log driver")]
    LogOption {
        /// The driver.
        driver: String,
        /// The option.
        option: String,
    },
    /// A buffer where nothing is buffered.
    #[error("logger: max-buffer-size option is only supported with 'mode=non-blocking'")]
    LogBuffer,
    /// Log mode.
    #[error("logger: logging mode not supported: {0}")]
    LogMode(String),
    /// Isolation.
    #[error("invalid isolation ({0}): linux only supports 'default'")]
    Isolation(String),
    /// Storage options.
    #[error("--storage-opt is supported only for overlay over xfs with 'pquota' mount option")]
    StorageQuota,
    /// Unknown storage option.
    #[error("Unknown option {0}")]
    StorageOption(String),
    /// Empty annotation key.
    #[error("invalid Annotations: the empty string is not permitted as an annotation key")]
    Annotation,
    /// Container mode without a container.
    #[error("invalid network mode: invalid container format container:<name|id>")]
    NetworkContainer,
    /// Container PID mode without a container.
    #[error("invalid PID mode: container:")]
    PidContainer,
    /// Another container named here does not exist.
    #[error("No such container: {0}")]
    OtherContainer(String),
    /// A linked container does not exist.
    #[error("could not get container for {0}: No such container: {0}")]
    LinkTarget(String),
    /// Not `name:alias`.
    #[error("bad format for links: {0}")]
    LinkFormat(String),
    /// Endpoint settings the default bridge does not take.
    #[error("invalid config for network {network}: invalid endpoint settings:\n{problems}")]
    Endpoint {
        /// The network.
        network: String,
        /// The stock daemon's list of problems.
        problems: String,
    },
    /// MAC address.
    #[error("invalid config for network {network}: invalid MAC address {mac}")]
    Mac {
        /// The network.
        network: String,
        /// As written.
        mac: String,
    },
    /// No driver for a device request.
    #[error("could not select device driver \"{driver}\" with capabilities: {capabilities}")]
    DeviceDriver {
        /// As written.
        driver: String,
        /// As Go prints a list of lists.
        capabilities: String,
    },
}

/// A limit out of its range.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// Memory below the minimum.
    #[error("Minimum memory limit allowed is 6MB")]
    MemorySmall,
    /// Swap without memory.
    #[error("You should always set the Memory limit when using Memoryswap limit, see usage")]
    SwapWithoutMemory,
    /// Swap below memory.
    #[error("Minimum memoryswap limit should be larger than memory limit, see usage")]
    SwapBelowMemory,
    /// Reservation above the limit.
    #[error("Minimum memory limit can not be less than memory reservation limit, see usage")]
    ReservationAboveMemory,
    /// Reservation below the minimum.
    #[error("Minimum memory reservation allowed is 6MB")]
    ReservationSmall,
    /// Swappiness.
    #[error("Invalid value: {0}, valid memory swappiness range is 0-100")]
    Swappiness(i64),
    /// Shares.
    #[error("invalid CPU shares ({0}): value must be a positive integer")]
    CpuShares(i64),
    /// CPUs.
    #[error("range of CPUs is from 0.01 to {0}.00, as there are only {0} CPUs available")]
    NanoCpus(usize),
    /// CPUs and period.
    #[error("Conflicting options: Nano CPUs and CPU Period cannot both be set")]
    NanoCpusPeriod,
    /// CPUs and quota.
    #[error("Conflicting options: Nano CPUs and CPU Quota cannot both be set")]
    NanoCpusQuota,
    /// Period.
    #[error("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")]
    CpuPeriod,
    /// Quota.
    #[error("CPU cfs quota can not be less than 1ms (i.e. 1000)")]
    CpuQuota,
    /// Real-time.
    #[error("cpu real-time runtime cannot be higher than cpu real-time period")]
    Realtime,
    /// A set that is none.
    #[error("Invalid value {value} for cpuset {kind}: invalid format: {value}")]
    CpusetSyntax {
        /// cpus or mems.
        kind: &'static str,
        /// As written.
        value: String,
    },
    /// CPUs that are not there.
    #[error("Requested CPUs are not available - requested {requested}, available: {available}")]
    CpusetCpus {
        /// As written.
        requested: String,
        /// The host's.
        available: String,
    },
    /// Nodes that are not there.
    #[error("Requested memory nodes are not available - requested {requested}, available: {available}")]
    CpusetMems {
        /// As written.
        requested: String,
        /// The host's.
        available: String,
    },
    /// Block I/O weight.
    #[error("Range of blkio weight is from 10 to 1000")]
    BlkioWeight,
    /// OOM score.
    #[error("Invalid value {0}, range for oom score adj is [-1000, 1000]")]
    OomScore(i64),
}

/// A mount that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// `-v` text of the wrong shape.
    #[error("invalid volume specification: '{0}'")]
    Spec(String),
    /// `-v` text with a wrong part.
    #[error("invalid volume specification: '{spec}': {source}")]
    SpecPart {
        /// As written.
        spec: String,
        /// What is wrong.
        source: Box<MountError>,
    },
    /// Mode letters.
    #[error("invalid mode: {0}")]
    Mode(String),
    /// In a typed mount.
    #[error("invalid mount config for type \"{kind}\": {problem}")]
    Config {
        /// bind, volume, ...
        kind: &'static str,
        /// What is wrong.
        problem: MountProblem,
    },
    /// Same target twice.
    #[error("Duplicate mount point: {0}")]
    Duplicate(String),
    /// tmpfs map.
    #[error("{0}")]
    Tmpfs(MountProblem),
    /// Empty `--volumes-from`.
    #[error("volumes-from specification cannot be an empty string")]
    VolumesFromEmpty,
    /// A volume name of one letter.
    #[error("create {0}: volume name is too short, names should be at least two alphanumeric characters")]
    VolumeNameShort(String),
    /// A volume name that is no name.
    #[error(
        "create {0}: \"{0}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )]
    VolumeName(String),
    /// A host directory could not be made.
    #[error("error while creating mount source path '{path}': {source}")]
    SourcePath {
        /// The host path.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// What is wrong with a typed mount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountProblem {
    /// Relative path.
    #[error("invalid mount path: '{0}' mount path must be absolute")]
    Relative(String),
    /// The root.
    #[error("invalid specification: destination can't be '/'")]
    Root,
    /// A field that must be there.
    #[error("field {0} must not be empty")]
    Empty(&'static str),
    /// A field that must not be there.
    #[error("field {0} must not be specified")]
    Specified(&'static str),
    /// Host path.
    #[error("bind source path does not exist: {0}")]
    SourceMissing(String),
    /// Propagation.
    #[error("invalid propagation mode: {0}")]
    Propagation(String),
    /// Anonymous volume with subpath.
    #[error("must not set Subpath when using anonymous volumes")]
    AnonymousSubpath,
    /// Anonymous volume, read-only.
    #[error("must not set ReadOnly mode when using anonymous volumes")]
    AnonymousReadOnly,
    /// Subpath that leaves the volume.
    #[error("subpath must be a relative path within the volume")]
    Subpath,
    /// tmpfs option.
    #[error("invalid option: {0}")]
    Option(String),
}

impl Kinded for CreateError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NameTaken { .. } => ErrorKind::Conflict,
            Self::Platform { .. } => ErrorKind::NotFound,
            // The stock daemon answers 500 to these, although the client is to blame.
            Self::SecurityOpt { .. }
            | Self::InterfaceSysctl(_)
            | Self::StorageQuota
            | Self::StorageOption(_)
            | Self::LinkFormat(_)
            | Self::DeviceDriver { .. }
            | Self::Mount(MountError::Spec(_) | MountError::SpecPart { .. } | MountError::SourcePath { .. }) => {
                ErrorKind::System
            }
            Self::Mount(MountError::Mode(_)) => ErrorKind::System,
            _ => ErrorKind::InvalidArgument,
        }
    }
}
