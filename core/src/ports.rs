//! What the container verbs need of everything around them, as small traits: images, networks, volumes, streams, events,
//! runtimes. The real ones are adapted at boot; tests of the verbs run on fakes, without root.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dockerd_network::dns::resolv_conf::Generated;
use dockerd_network::ipam::Subnet;
use dockerd_runtime::{Adopted, BoxFuture, ProcessExit, ProcessIo, ProcessKey, RuntimeDriver, Stored};
use dockerd_types::container::{ContainerConfig, Labels};
use dockerd_types::network::{EndpointConfig, EndpointState, Port, PortBindings, PublishedPort};
use dockerd_types::{ContainerId, Digest, ExecId, NetworkId, Timestamp};

use crate::config::FirewallBackend;
use crate::container::health::ProbeResult;
use crate::container::spec::ContainerSpec;
use crate::error::EngineError;

/// An image as far as containers need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerImage {
    /// Config digest.
    pub id: Digest,
    /// `os/arch[/variant]`.
    pub platform: String,
    /// Defaults for containers.
    pub config: ContainerConfig,
    /// Its topmost layer; `None` for an image without layers.
    pub chain: Option<Digest>,
}

/// One path a container changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathChange {
    /// Absolute path in the container.
    pub path: String,
    /// What happened to it.
    pub kind: PathChangeKind,
}

/// Kinds of [`PathChange`]; the numbers are the API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathChangeKind {
    /// Changed.
    Modified = 0,
    /// New.
    Added = 1,
    /// Gone.
    Deleted = 2,
}

/// Images and writable layers. Methods that touch the disk are blocking.
pub trait Images: Send + Sync + Debug {
    /// The image a client means; never touches the disk.
    fn resolve(&self, text: &str) -> Result<Arc<ContainerImage>, EngineError>;
    /// Name of the storage driver.
    fn driver_name(&self) -> &str;
    /// Keeps an image from removal on behalf of a container.
    fn hold(&self, image: &Digest, owner: &ContainerId);
    /// Ends a hold.
    fn release(&self, image: &Digest, owner: &ContainerId);
    /// Makes a writable layer over the image; mounted already where one was made ahead. Blocking.
    fn prepare(&self, owner: &ContainerId, image: &ContainerImage) -> Result<Option<OwnedFd>, EngineError>;
    /// Makes a writable layer over layer `chain` ahead of the next container. Blocking.
    fn stock(&self, chain: &Digest) -> Result<(), EngineError>;
    /// Mounts a container's layer, detached. Blocking.
    fn mount(&self, owner: &ContainerId) -> Result<OwnedFd, EngineError>;
    /// Takes a writable layer away; idempotent. Blocking.
    fn remove(&self, owner: &ContainerId) -> Result<(), EngineError>;
    /// Whose writable layers there are. Blocking.
    fn layer_owners(&self) -> Vec<ContainerId>;
    /// Bytes in the writable layer. Blocking.
    fn usage(&self, owner: &ContainerId) -> Result<u64, EngineError>;
    /// Bytes of the image's layers.
    fn image_size(&self, image: &Digest) -> u64;
    /// What the container changed. Blocking.
    fn changes(&self, owner: &ContainerId) -> Result<Vec<PathChange>, EngineError>;
}

/// A network namespace asked for.
#[derive(Debug, Clone)]
pub struct SandboxOrder {
    /// For whom.
    pub container: ContainerId,
    /// The container's name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// Networks to join, in the order of interfaces, with what the client asked of each.
    pub endpoints: Vec<(String, EndpointConfig)>,
    /// Ports to publish.
    pub ports: PortBindings,
    /// Ports its programs may listen on.
    pub exposed: Vec<Port>,
    /// The file that leads its programs to a resolver of ours, if it is to have one.
    pub resolver: Option<Generated>,
}

/// A network namespace, ready.
#[derive(Debug)]
pub struct ReadySandbox {
    /// Its id, 64 hex digits, drawn anew at every start.
    pub id: String,
    /// To enter; `None` is the host's.
    pub netns: Option<OwnedFd>,
    /// What was joined.
    pub endpoints: Vec<EndpointState>,
    /// What else it stands on, to get out.
    pub way_out: Option<EndpointState>,
    /// What was published.
    pub ports: Vec<PublishedPort>,
}

/// A sandbox that outlived a daemon.
#[derive(Debug, Clone)]
pub struct KeptSandbox {
    /// Whose.
    pub container: ContainerId,
    /// A process in it.
    pub pid: i32,
    /// The container's name.
    pub name: String,
    /// The sandbox's id.
    pub id: String,
    /// What it joined, each with the priority of its gateway.
    pub endpoints: Vec<(EndpointState, i64)>,
    /// What else it stood on, to get out.
    pub way_out: Option<EndpointState>,
    /// What it published.
    pub ports: Vec<PublishedPort>,
    /// What the client asked to publish.
    pub wanted: PortBindings,
    /// Ports its programs may listen on.
    pub exposed: Vec<Port>,
    /// What its resolver file would be now, if it has a resolver.
    pub resolver: Option<Generated>,
}

/// A network a running container is to join.
#[derive(Debug, Clone)]
pub struct ConnectOrder {
    /// Which container.
    pub container: ContainerId,
    /// The container's name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// A process in it.
    pub pid: i32,
    /// The network's name.
    pub network: String,
    /// What the client asked of it.
    pub endpoint: EndpointConfig,
    /// The file that leads its programs to a resolver of ours, if it is to have one from now on.
    pub resolver: Option<Generated>,
}

/// What a running container is on after a change.
#[derive(Debug, Clone)]
pub struct Attachments {
    /// Its networks.
    pub endpoints: Vec<EndpointState>,
    /// What else it stands on, to get out.
    pub way_out: Option<EndpointState>,
    /// What it publishes.
    pub ports: Vec<PublishedPort>,
}

/// What container verbs ask of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFacts {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// Whether every daemon has it.
    pub predefined: bool,
    /// The subnets a user named.
    pub configured: Vec<Subnet>,
}

/// Networks.
pub trait Networks: Send + Sync + Debug {
    /// Makes a network namespace with all its endpoints. Blocking.
    fn create_sandbox(&self, order: SandboxOrder) -> Result<ReadySandbox, EngineError>;
    /// Enters the names of a running container's endpoints, which changed, instead of those it had. With each endpoint comes
    /// what the client asked of its network. Never blocks.
    fn enter_names(&self, _id: &ContainerId, _endpoints: &[(EndpointState, EndpointConfig)]) {}
    /// A container's end: nobody is to find it by name any more. Never blocks; idempotent.
    fn strike_names(&self, _id: &ContainerId) {}
    /// A process is in the sandbox now. Never blocks.
    fn started(&self, id: &ContainerId, pid: i32);
    /// Gives back everything of a container's; idempotent.
    fn remove_sandbox(&self, id: &ContainerId) -> BoxFuture<'_, Result<(), EngineError>>;
    /// Keeps these over a daemon's restart and removes all others.
    fn restore(&self, kept: Vec<KeptSandbox>) -> BoxFuture<'_, Result<(), EngineError>>;
    /// Kinds of networks there are, sorted.
    fn drivers(&self) -> Vec<String> {
        vec!["host".to_owned(), "null".to_owned()]
    }
    /// Who sets the packet filter's rules at the moment.
    fn firewall_backend(&self) -> FirewallBackend {
        FirewallBackend::default()
    }
    /// The id of the network a client means.
    fn network_id(&self, name: &str) -> Option<NetworkId>;
    /// The network a client means.
    fn facts(&self, _name: &str) -> Option<NetworkFacts> {
        None
    }
    /// Joins one more network. Blocking.
    fn connect(&self, _order: ConnectOrder) -> Result<Attachments, EngineError> {
        Err(EngineError::NotBuilt("network connect"))
    }
    /// Leaves a network; the number is that of a process in the container. Blocking.
    fn disconnect(
        &self,
        _container: &ContainerId,
        _pid: i32,
        _network: &NetworkId,
    ) -> Result<Attachments, EngineError> {
        Err(EngineError::NotBuilt("network disconnect"))
    }
    /// Waits until what was given back is gone. Blocking.
    fn drain(&self) {}
    /// The default bridge's address.
    fn default_gateway(&self) -> Option<Ipv4Addr>;
}

/// A volume a container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUse {
    /// Its name.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Its directory.
    pub mountpoint: PathBuf,
}

/// A volume asked for.
#[derive(Debug, Clone)]
pub struct VolumeOrder {
    /// Its name; `None`: a new anonymous one.
    pub name: Option<String>,
    /// Its driver.
    pub driver: String,
    /// Driver options, for a new one.
    pub options: BTreeMap<String, String>,
    /// Labels, for a new one.
    pub labels: Labels,
    /// Who will use it.
    pub container: ContainerId,
}

/// Volumes.
pub trait Volumes: Send + Sync + Debug {
    /// Finds or makes a volume and notes who uses it.
    fn ensure(&self, order: VolumeOrder) -> BoxFuture<'_, Result<VolumeUse, EngineError>>;
    /// Notes that a stored container uses a volume (at boot).
    fn note_use(&self, name: &str, container: &ContainerId);
    /// Makes ready what a volume needs before its directory is bound (mounts of the local driver). Blocking.
    fn mount(&self, name: &str, container: &ContainerId) -> Result<(), EngineError>;
    /// Notes that a container that lived on while the daemon was away has the volume mounted.
    fn note_mounted(&self, name: &str, container: &ContainerId);
    /// The container runs no more; what was mounted for it alone is unmounted. Blocking.
    fn unmount(&self, container: &ContainerId);
    /// Fills an empty volume with a directory of the root file system. Blocking.
    fn copy_up(
        &self,
        name: &str,
        container: &ContainerId,
        rootfs: BorrowedFd<'_>,
        path: &str,
    ) -> Result<(), EngineError>;
    /// A container uses nothing any more; with `remove_anonymous` its anonymous volumes go.
    fn release(&self, container: &ContainerId, remove_anonymous: bool) -> BoxFuture<'_, ()>;
}

/// One container's streams, for its whole life.
pub trait Streams: Send + Sync + Debug {
    /// Opens log and spool before the process is started, to save time later. Blocking.
    fn prepare(&self) -> Result<(), EngineError>;
    /// Connects a process.
    fn begin(&self, io: ProcessIo) -> Result<(), EngineError>;
    /// Waits until the ended process's output was let through, at most so long.
    fn drained(&self, limit: Duration) -> BoxFuture<'_, ()>;
    /// What they are doing, for people.
    fn describe(&self) -> String {
        String::new()
    }
    /// Gives the process that outlives the daemon again what it is to keep: it is a new one.
    fn keep_again(&self) -> Result<(), EngineError> {
        Ok(())
    }
    /// The run is over: sessions end, the log is closed.
    fn end(&self);
    /// The container is gone.
    fn discard(&self);
    /// For those who know the real type.
    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync);
}

/// Makes [`Streams`].
pub trait StreamsMaker: Send + Sync + Debug {
    /// For this container. Cheap: no file is touched.
    fn make(&self, spec: &ContainerSpec, name: &str) -> Arc<dyn Streams>;
}

/// An event before the bus has seen it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventNote {
    /// `container`, `network`, ...
    pub kind: &'static str,
    /// What happened.
    pub action: String,
    /// Whose id.
    pub actor: String,
    /// Attributes.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: Timestamp,
}

/// Where events go.
pub trait Events: Send + Sync + Debug {
    /// Publishes; never waits.
    fn publish(&self, note: EventNote);
}

/// OCI runtimes by name.
pub trait RuntimeSet: Send + Sync + Debug {
    /// The runtime of that name.
    fn driver(&self, name: &str) -> Option<Arc<dyn RuntimeDriver>>;
    /// Tells which cgroup a container that lived on is in.
    fn restore(&self, id: &ContainerId, cgroup: &str);
    /// Takes a cgroup away in the background, with all that is in it, if it is there.
    fn discard(&self, cgroup: &str);
    /// Takes away cgroups below `parent` that a daemon which is gone had made ahead. Blocking.
    fn sweep(&self, parent: &str);
    /// The end: waits until every cgroup is gone that was to go. Blocking.
    fn drain(&self);
    /// As [`RuntimeSet::drain`], but leaves alone what did not go at the first try. Blocking.
    fn settle(&self);
    /// The exit is on disk; the supervisor may forget it.
    fn acknowledge(&self, key: &ProcessKey);
    /// Has a process that outlives the daemon keep these, for the daemon that comes next. Never waits.
    fn keep(&self, _key: &ProcessKey, _descriptors: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    /// As [`RuntimeSet::keep`], a process's standard streams.
    fn keep_streams(&self, _key: &ProcessKey, _streams: [Option<BorrowedFd<'_>>; 3]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
    /// A process in that cgroup which nobody watches, taken over. Blocking.
    fn find_lost(&self, _id: &ContainerId, _cgroup: &str) -> Option<Adopted> {
        None
    }
}

/// Descriptors that belong to no process, over the daemon's death: kept by name by the process that outlives it. When
/// that one is lost ([`KeptDescriptors::replacements`]), they are, and are to be stored again.
pub trait KeptDescriptors: Send + Sync + Debug {
    /// Keeps duplicates of `descriptors` (1 to 16) and a `note` of 4096 bytes at most under `name`, in the place of
    /// what was there. They are safe once this has ended.
    fn store<'a>(
        &'a self,
        name: &'a str,
        note: &'a [u8],
        descriptors: &'a [BorrowedFd<'a>],
    ) -> BoxFuture<'a, std::io::Result<()>>;
    /// Everything that is kept, in the order of names.
    fn stored(&self) -> BoxFuture<'_, std::io::Result<Vec<Stored>>>;
    /// Gives up what is kept under `name`, if anything is.
    fn release<'a>(&'a self, name: &'a str) -> BoxFuture<'a, std::io::Result<()>>;
    /// Counts the processes that have come in the place of one that was lost, with nothing kept.
    fn replacements(&self) -> tokio::sync::watch::Receiver<u64>;
}

/// Execs, as far as the containers' fate touches them.
pub trait Execs: Send + Sync + Debug {
    /// An exec's process ended.
    fn exited(&self, exit: ProcessExit);
    /// A container's process ended, and its execs with it.
    fn container_ended(&self, id: &ContainerId);
    /// A container is gone, and so is what is known of its execs.
    fn container_removed(&self, id: &ContainerId);
    /// Runs a health check in a container; the result says so if it cannot be run or takes longer than `limit`.
    fn probe(&self, id: &ContainerId, command: Vec<String>, limit: Duration) -> BoxFuture<'_, ProbeResult>;
    /// Execs of a container that inspect still shows.
    fn of_container(&self, id: &ContainerId) -> Vec<ExecId>;
}
