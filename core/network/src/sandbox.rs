//! A container's network namespace while the daemon makes and keeps it: the namespace, a netlink socket inside it and,
//! for bridges, the two ends of its link. [`Workshop`] makes them on a thread of its own, because making one means to
//! be in it for a moment.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use dockerd_sys::netlink::{Batch, Family, NetlinkError, Socket};
use dockerd_sys::{ns, process};

use crate::error::NetworkError;
use crate::link::{self, VethOrder};

/// Name of the link inside, as containers know it.
pub const INNER_NAME: &str = "eth0";

/// Noted on the host's ends of our links, so that a later daemon knows them.
pub const LINK_ALIAS: &str = "dockerd-rs";

/// Settings of every sandbox, below `/proc/sys/net`: Docker lets any user open low ports and send pings.
const SETTINGS: [(&str, &str); 2] =
    [("ipv4/ip_unprivileged_port_start", "0"), ("ipv4/ping_group_range", "0 2147483647")];

/// Settings of the link inside, below `/proc/sys/net`.
const INNER_SETTINGS: [(&str, &str); 2] = [
    // The network has no IPv6.
    ("ipv6/conf/eth0/disable_ipv6", "1"),
    // Neighbours that knew the address with another hardware address are told when ours is set.
    ("ipv4/conf/eth0/arp_notify", "1"),
];

/// The two ends of a container's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VethPort {
    /// Number of the host's end.
    pub host: u32,
    /// Number of the container's end, inside.
    pub inner: u32,
}

/// What keeps a sandbox changeable while its container runs.
#[derive(Debug)]
pub struct SandboxHandle {
    /// A netlink socket inside.
    pub socket: Socket,
    /// Its link, where it has one.
    pub port: Option<VethPort>,
}

/// A network namespace ready for use, loopback up.
#[derive(Debug)]
pub struct Sandbox {
    /// To be entered.
    pub netns: OwnedFd,
    /// To be changed.
    pub handle: SandboxHandle,
}

/// What a sandbox has besides loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blueprint {
    /// Nothing.
    Plain,
    /// A link into a bridge.
    Bridged {
        /// The bridge.
        bridge: u32,
        /// Largest packet.
        mtu: u32,
        /// Whether its port is kept from the others'.
        isolated: bool,
    },
}

/// Makes sandboxes. Lives on one dedicated thread.
#[derive(Debug)]
pub struct Workshop {
    host: OwnedFd,
    socket: Socket,
}

impl Workshop {
    /// For the calling thread, whose network namespace is the host's.
    pub fn open() -> io::Result<Self> {
        let host = ns::open(Path::new("/proc/thread-self/ns/net"))?;
        Ok(Self { host, socket: Socket::open(Family::Route)? })
    }

    /// Makes one. After an error of [`Workshop::is_home`] the thread must end.
    pub fn make(&self, blueprint: &Blueprint) -> Result<Sandbox, NetworkError> {
        ns::unshare(process::NEW_NET).map_err(NetworkError::io("make network namespace"))?;
        let made = self.furnish(blueprint);
        ns::enter(&self.host, process::NEW_NET).map_err(NetworkError::io("return to the host's network namespace"))?;
        made
    }

    /// Whether the thread is in the host's network namespace, as it should be between two sandboxes.
    pub fn is_home(&self) -> bool {
        let inode = |meta: io::Result<fs::Metadata>| meta.ok().map(|m| std::os::unix::fs::MetadataExt::ino(&m));
        let here = inode(fs::metadata("/proc/thread-self/ns/net"));
        let host = self.host.try_clone().map(fs::File::from).and_then(|file| file.metadata());
        here.is_some() && here == inode(host)
    }

    /// Inside the new namespace.
    fn furnish(&self, blueprint: &Blueprint) -> Result<Sandbox, NetworkError> {
        let netns =
            ns::open(Path::new("/proc/thread-self/ns/net")).map_err(NetworkError::io("open network namespace"))?;
        let socket = Socket::open(Family::Route).map_err(NetworkError::io("open netlink socket"))?;
        ns::loopback_up().map_err(NetworkError::io("bring up loopback"))?;
        set_all(&SETTINGS)?;
        let port = match blueprint {
            Blueprint::Plain => None,
            Blueprint::Bridged { bridge, mtu, isolated } => Some(self.plug(&netns, &socket, *bridge, *mtu, *isolated)?),
        };
        Ok(Sandbox { netns, handle: SandboxHandle { socket, port } })
    }

    fn plug(
        &self,
        netns: &OwnedFd,
        inside: &Socket,
        bridge: u32,
        mtu: u32,
        isolated: bool,
    ) -> Result<VethPort, NetworkError> {
        let failed = NetworkError::kernel("make the container's link");
        let host_name = self.add_pair(netns, bridge, mtu, isolated).map_err(failed)?;
        set_all(&INNER_SETTINGS)?;
        // Not asked by netlink: that would first settle the state of the new links, behind an RCU grace period each.
        let find = |socket: &Socket, name| {
            ns::interface_index(socket, name).map_err(NetworkError::io("find the container's link"))
        };
        let (inner, host) = (find(inside, INNER_NAME)?, find(&self.socket, &host_name)?);
        let mut batch = Batch::new();
        link::set_up(&mut batch, inner);
        inside.transact(&batch).map_err(NetworkError::kernel("bring up the container's link"))?;
        Ok(VethPort { host, inner })
    }

    /// Names are drawn; one that is taken is drawn again.
    fn add_pair(&self, netns: &OwnedFd, bridge: u32, mtu: u32, isolated: bool) -> Result<String, NetlinkError> {
        loop {
            let host_name = format!("veth{}", dockerd_types::ids::hex(&crate::random::<4>()).split_at(7).0);
            let mut batch = Batch::new();
            let order = VethOrder {
                host_name: &host_name,
                inner_name: INNER_NAME,
                bridge,
                netns: netns.as_fd(),
                mtu,
                alias: LINK_ALIAS,
                isolated,
            };
            link::add_veth(&mut batch, order);
            match self.socket.transact(&batch) {
                Err(error) if error.is(libc::EEXIST) => {}
                outcome => return outcome.map(|()| host_name),
            }
        }
    }
}

/// Writes settings of the calling thread's network namespace.
fn set_all(settings: &[(&str, &str)]) -> Result<(), NetworkError> {
    for (setting, value) in settings {
        match fs::write(Path::new("/proc/sys/net").join(setting), value) {
            // A kernel without IPv6, say, needs no switch for it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome.map_err(NetworkError::io(format!("set {setting}")))?,
        }
    }
    Ok(())
}

/// Opens handles into namespaces that are there already, of these processes. Spawns one thread for all.
pub fn reopen(pids: Vec<i32>) -> Vec<io::Result<SandboxHandle>> {
    let count = pids.len();
    let opened = std::thread::Builder::new()
        .name("netns-reopen".to_owned())
        .spawn(move || pids.into_iter().map(reopen_one).collect::<Vec<_>>());
    let opened = opened.and_then(|thread| thread.join().map_err(|_| io::Error::other("thread ended")));
    opened.unwrap_or_else(|error| (0..count).map(|_| Err(io::Error::new(error.kind(), error.to_string()))).collect())
}

fn reopen_one(pid: i32) -> io::Result<SandboxHandle> {
    let netns = ns::open(&Path::new("/proc").join(pid.to_string()).join("ns/net"))?;
    ns::enter(&netns, process::NEW_NET)?;
    let socket = Socket::open(Family::Route)?;
    let found = link::by_name(&socket, INNER_NAME).map_err(io::Error::other)?;
    let port = found.and_then(|link| Some(VethPort { host: link.peer?, inner: link.index }));
    Ok(SandboxHandle { socket, port })
}
