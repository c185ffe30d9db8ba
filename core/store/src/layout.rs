//! The one place that knows file names. `docs/on-disk-format.md` draws the same tree; change both together.
//!
//! ```text
//! <data-root>/                     0710, survives reboots
//!   engine-id                      UUID of this engine
//!   lock                           flock held by the daemon
//!   containers/<id>/               container.json, hostname, hosts, resolv.conf, <id>-json.log
//!   volumes/<name>/                volume.json, _data/
//!   network/                       networks.json, <network id>.json, <network id>/<endpoint id>.json
//!   image/                         owned by dockerd-image: content/, distribution/, ingest/, images/, references.json
//!   <driver>/                      layers and writable snapshots of one snapshot driver: erofs/, overlay2/, vfs/
//!   tmp/                           uploads under way; emptied at boot
//!   trash/                         renamed here, deleted in the background; emptied at boot
//! <exec-root>/                     0700, on tmpfs, gone after a reboot
//!   engine-id, lock                whose containers these are; flock held by the daemon
//!   supervisor.sock, supervisor/   the supervisor's socket and its journal of exits
//!   containers/<id>/               spool of output, bundle of external runtimes, shared shm
//!   netns/                         links to containers' network namespaces
//!   ip-forward                     the daemon made the host pass packets on
//! ```

use std::path::{Path, PathBuf};

use dockerd_types::{ContainerId, NetworkId};

/// File name of a container's document in its directory.
pub const CONTAINER_DOCUMENT: &str = "container.json";

/// Paths below the two roots. Makes no directories by itself except through [`Layout::create`] and [`Layout::create_data`].
#[derive(Debug, Clone)]
pub struct Layout {
    data_root: PathBuf,
    exec_root: PathBuf,
}

impl Layout {
    /// Absolute roots: `--data-root` and `--exec-root`.
    pub fn new(data_root: impl Into<PathBuf>, exec_root: impl Into<PathBuf>) -> Self {
        Self { data_root: data_root.into(), exec_root: exec_root.into() }
    }

    /// Makes the directories every run needs. Existing ones are left as they are.
    pub fn create(&self) -> std::io::Result<()> {
        self.create_data()?;
        make(&self.exec_root, 0o700)?;
        make(&self.exec_root.join("containers"), 0o711)?;
        make(&self.netns_dir(), 0o755)
    }

    /// Makes the directories of the data root, for work on it while no daemon runs.
    pub fn create_data(&self) -> std::io::Result<()> {
        make(&self.data_root, 0o710)?;
        for dir in [self.containers_dir(), self.tmp_dir(), self.trash_dir(), self.network_dir(), self.image_dir()] {
            make(&dir, 0o710)?;
        }
        // Containers may run as anybody and see their volumes below this directory.
        make(&self.volumes_dir(), 0o711)
    }

    /// `--data-root`.
    pub fn data_root(&self) -> &Path {
        &self.data_root
    }

    /// `--exec-root`.
    pub fn exec_root(&self) -> &Path {
        &self.exec_root
    }

    /// File with the engine's UUID.
    pub fn engine_id(&self) -> PathBuf {
        self.data_root.join("engine-id")
    }

    /// The file whose flock says that a daemon owns this data root.
    pub fn lock_file(&self) -> PathBuf {
        self.data_root.join("lock")
    }

    /// Whose containers the exec root's are: the engine id of the daemon that used it last.
    pub fn exec_owner(&self) -> PathBuf {
        self.exec_root.join("engine-id")
    }

    /// The file whose flock says that a daemon uses this exec root.
    pub fn exec_lock_file(&self) -> PathBuf {
        self.exec_root.join("lock")
    }

    /// All containers' directories.
    pub fn containers_dir(&self) -> PathBuf {
        self.data_root.join("containers")
    }

    /// One container's directory.
    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.containers_dir().join(id.as_str())
    }

    /// One container's document.
    pub fn container_document(&self, id: &ContainerId) -> PathBuf {
        self.container_dir(id).join(CONTAINER_DOCUMENT)
    }

    /// One container's json-file log.
    pub fn container_json_log(&self, id: &ContainerId) -> PathBuf {
        self.container_dir(id).join(format!("{id}-json.log"))
    }

    /// One container's run time directory on tmpfs.
    pub fn container_exec_dir(&self, id: &ContainerId) -> PathBuf {
        self.exec_root.join("containers").join(id.as_str())
    }

    /// Local volumes.
    pub fn volumes_dir(&self) -> PathBuf {
        self.data_root.join("volumes")
    }

    /// Networks' documents.
    pub fn network_dir(&self) -> PathBuf {
        self.data_root.join("network")
    }

    /// Ids of networks.
    pub fn networks_document(&self) -> PathBuf {
        self.network_dir().join("networks.json")
    }

    /// One user-defined network's document.
    pub fn network_document(&self, id: &NetworkId) -> PathBuf {
        self.network_dir().join(format!("{id}.json"))
    }

    /// Everything of `dockerd-image` that does not depend on the snapshot driver.
    pub fn image_dir(&self) -> PathBuf {
        self.data_root.join("image")
    }

    /// One snapshot driver's directory.
    pub fn driver_dir(&self, driver: &str) -> PathBuf {
        self.data_root.join(driver)
    }

    /// Uploads and other half-done work; emptied at boot.
    pub fn tmp_dir(&self) -> PathBuf {
        self.data_root.join("tmp")
    }

    /// What waits for its deletion; emptied at boot.
    pub fn trash_dir(&self) -> PathBuf {
        self.data_root.join("trash")
    }

    /// Links to containers' network namespaces.
    pub fn netns_dir(&self) -> PathBuf {
        self.exec_root.join("netns")
    }

    /// Says that this daemon made the host pass packets on; gone after a reboot, as that is.
    pub fn forwarding_marker(&self) -> PathBuf {
        self.exec_root.join("ip-forward")
    }

    /// The supervisor's socket.
    pub fn supervisor_socket(&self) -> PathBuf {
        self.exec_root.join("supervisor.sock")
    }
}

fn make(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}
