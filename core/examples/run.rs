//! Runs `true` from busybox through the engine many times and prints where the time goes: create, start, wait, remove.
//! Images are one directory under an overlay, networks are fresh empty namespaces, output goes to a buffer: the engine,
//! the supervisor and the runtime are the real ones. Needs root; touches only the private directory it makes.
//!
//! Usage: run [ROUNDS] [-- PROGRAM ARG...]

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dockerd_core::boot::Parts;
use dockerd_core::container::health::ProbeResult;
use dockerd_core::container::spec::ContainerSpec;
use dockerd_core::container::{RemoveOptions, WaitCondition};
use dockerd_core::engine::{Engine, Reports};
use dockerd_core::ports::{
    ContainerImage, EventNote, Events, Execs, Images, KeptSandbox, Networks, PathChange, ReadySandbox, SandboxOrder,
    Streams, StreamsMaker, VolumeOrder, VolumeUse, Volumes,
};
use dockerd_core::{EngineConfig, EngineError};
use dockerd_runtime::{BoxFuture, ProcessExit, ProcessIo, Runtimes, RuntimesConfig};
use dockerd_store::Layout;
use dockerd_types::container::{ContainerConfig, CreateContainer, HostConfig};
use dockerd_types::{ContainerId, Digest, ExecId};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os();
    let _program = arguments.next();
    match arguments.next() {
        Some(mode) if mode == "supervisor" => dockerd_runtime::modes::supervisor_main(arguments),
        rounds => {
            let rounds = rounds.and_then(|r| r.to_str()?.parse().ok()).unwrap_or(50);
            let mut command: Vec<String> = arguments.skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
            if command.is_empty() {
                command = vec!["/bin/true".to_owned()];
            }
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build()?;
            runtime.block_on(measure(rounds, command))
        }
    }
}

async fn measure(rounds: usize, command: Vec<String>) -> Result<(), Box<dyn Error>> {
    let private = tempfile::tempdir()?;
    let root = private.path();
    let layout = Layout::new(root.join("data"), root.join("exec"));
    let lock = Engine::claim(&layout)?;
    let images = Arc::new(OneImage::new(&root.join("data"))?);
    let (runtimes, exits, adopted) = Runtimes::open(RuntimesConfig {
        exec_root: root.join("exec"),
        program: std::env::current_exe()?,
        external: BTreeMap::new(),
    })
    .await?;
    let parts = Parts {
        images,
        runtimes: Arc::new(runtimes.clone()),
        network: Arc::new(EmptyNetworks),
        volumes: Arc::new(NoVolumes),
        events: Arc::new(NoEvents),
        streams: Arc::new(BufferMaker),
        execs: Arc::new(NoExecs),
    };
    let config = EngineConfig::new(root.join("data"), root.join("exec"));
    let engine = Engine::assemble(config, layout, lock, parts, Reports { exits, adopted }).await?;
    let mut samples: Vec<[Duration; 5]> = Vec::new();
    for _ in 0..rounds {
        samples.push(one(&engine, &command).await?);
    }
    print(&mut samples)?;
    engine.shutdown().await;
    runtimes.shutdown_supervisor().await?;
    Ok(())
}

/// One whole life; the times of create, start, wait, remove and all.
async fn one(engine: &Engine, command: &[String]) -> Result<[Duration; 5], Box<dyn Error>> {
    let began = Instant::now();
    let request = CreateContainer {
        name: None,
        platform: None,
        config: ContainerConfig {
            image: "busybox".to_owned(),
            cmd: Some(command.to_vec()),
            ..ContainerConfig::default()
        },
        host_config: HostConfig::default(),
        endpoints: BTreeMap::new(),
    };
    let created = engine.containers.create(request).await?;
    let t_create = began.elapsed();
    let id = created.id.as_str();
    let waiting = engine.containers.wait(id, WaitCondition::NextExit)?;
    let now = Instant::now();
    engine.containers.start(id).await?;
    let t_start = now.elapsed();
    let now = Instant::now();
    let result = waiting.result().await;
    let t_wait = now.elapsed();
    if result.status_code != 0 {
        writeln!(std::io::stderr(), "exit code {}", result.status_code)?;
    }
    let now = Instant::now();
    engine.containers.remove(id, RemoveOptions { force: false, volumes: true, link: false }).await?;
    Ok([t_create, t_start, t_wait, now.elapsed(), began.elapsed()])
}

fn print(samples: &mut [[Duration; 5]]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for (at, name) in ["create", "start", "wait", "remove", "all"].iter().enumerate() {
        samples.sort_by_key(|s| s[at]);
        let at_part = |part: usize| samples[(samples.len() - 1) * part / 100][at];
        writeln!(out, "{name:8} p10 {:?}  median {:?}  p95 {:?}", at_part(10), at_part(50), at_part(95))?;
    }
    Ok(())
}

/// One image, a directory with a static busybox.
#[derive(Debug)]
struct OneImage {
    lower: PathBuf,
    layers: PathBuf,
    image: Arc<ContainerImage>,
}

impl OneImage {
    fn new(root: &Path) -> std::io::Result<Self> {
        let (lower, layers) = (root.join("lower"), root.join("layers"));
        for dir in ["bin", "etc", "proc", "sys", "dev/pts", "dev/shm", "tmp"] {
            fs::create_dir_all(lower.join(dir))?;
        }
        for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
            File::create(lower.join(file))?;
        }
        fs::copy("/usr/bin/busybox", lower.join("bin/busybox"))?;
        for name in ["true", "sh", "sleep", "cat", "id", "ls", "mount", "ps"] {
            std::os::unix::fs::symlink("busybox", lower.join("bin").join(name))?;
        }
        fs::create_dir_all(&layers)?;
        let image = ContainerImage {
            id: Digest::sha256(&[7; 32]),
            platform: "linux/amd64".to_owned(),
            config: ContainerConfig::default(),
            chain: None,
        };
        Ok(Self { lower, layers, image: Arc::new(image) })
    }

    fn dir(&self, owner: &ContainerId) -> PathBuf {
        self.layers.join(owner.as_str())
    }
}

fn io(source: std::io::Error) -> EngineError {
    EngineError::io("layer", source)
}

impl Images for OneImage {
    fn resolve(&self, _: &str) -> Result<Arc<ContainerImage>, EngineError> {
        Ok(self.image.clone())
    }
    fn driver_name(&self) -> &str {
        "overlay2"
    }
    fn hold(&self, _: &Digest, _: &ContainerId) {}
    fn release(&self, _: &Digest, _: &ContainerId) {}
    fn prepare(&self, owner: &ContainerId, _: &ContainerImage) -> Result<Option<OwnedFd>, EngineError> {
        fs::create_dir(self.dir(owner)).map_err(io)?;
        fs::create_dir(self.dir(owner).join("upper")).map_err(io)?;
        fs::create_dir(self.dir(owner).join("work")).map_err(io)?;
        Ok(None)
    }
    fn stock(&self, _: &Digest) -> Result<(), EngineError> {
        Ok(())
    }
    fn mount(&self, owner: &ContainerId) -> Result<OwnedFd, EngineError> {
        let dir = self.dir(owner);
        let options = [
            format!("lowerdir={}", self.lower.display()),
            format!("upperdir={}", dir.join("upper").display()),
            format!("workdir={}", dir.join("work").display()),
        ];
        dockerd_sys::mount::file_system("overlay", &options, 0).map_err(io)
    }
    fn remove(&self, owner: &ContainerId) -> Result<(), EngineError> {
        fs::remove_dir_all(self.dir(owner)).map_err(io)
    }
    fn layer_owners(&self) -> Vec<ContainerId> {
        Vec::new()
    }
    fn usage(&self, _: &ContainerId) -> Result<u64, EngineError> {
        Ok(0)
    }
    fn image_size(&self, _: &Digest) -> u64 {
        0
    }
    fn changes(&self, _: &ContainerId) -> Result<Vec<PathChange>, EngineError> {
        Ok(Vec::new())
    }
}

#[derive(Debug)]
struct EmptyNetworks;

impl Networks for EmptyNetworks {
    fn create_sandbox(&self, _: SandboxOrder) -> Result<ReadySandbox, EngineError> {
        Ok(ReadySandbox { id: String::new(), netns: None, endpoints: Vec::new(), way_out: None, ports: Vec::new() })
    }
    fn remove_sandbox(&self, _: &ContainerId) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
    fn restore(&self, _: Vec<KeptSandbox>) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async { Ok(()) })
    }
    fn started(&self, _id: &ContainerId, _pid: i32) {}

    fn network_id(&self, _name: &str) -> Option<dockerd_types::NetworkId> {
        None
    }

    fn default_gateway(&self) -> Option<Ipv4Addr> {
        None
    }
}

#[derive(Debug)]
struct NoVolumes;

impl Volumes for NoVolumes {
    fn ensure(&self, _: VolumeOrder) -> BoxFuture<'_, Result<VolumeUse, EngineError>> {
        Box::pin(async { Err(EngineError::NotBuilt("volumes")) })
    }
    fn note_use(&self, _: &str, _: &ContainerId) {}
    fn mount(&self, _: &str, _: &ContainerId) -> Result<(), EngineError> {
        Ok(())
    }
    fn note_mounted(&self, _: &str, _: &ContainerId) {}
    fn unmount(&self, _: &ContainerId) {}
    fn copy_up(&self, _: &str, _: &ContainerId, _: BorrowedFd<'_>, _: &str) -> Result<(), EngineError> {
        Ok(())
    }
    fn release(&self, _: &ContainerId, _: bool) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

#[derive(Debug)]
struct NoEvents;

impl Events for NoEvents {
    fn publish(&self, _: EventNote) {}
}

#[derive(Debug)]
struct NoExecs;

impl Execs for NoExecs {
    fn probe(&self, _: &ContainerId, _: Vec<String>, _: Duration) -> BoxFuture<'_, ProbeResult> {
        Box::pin(std::future::pending())
    }
    fn exited(&self, _: ProcessExit) {}
    fn container_ended(&self, _: &ContainerId) {}
    fn container_removed(&self, _: &ContainerId) {}
    fn of_container(&self, _: &ContainerId) -> Vec<ExecId> {
        Vec::new()
    }
}

#[derive(Debug)]
struct BufferMaker;

impl StreamsMaker for BufferMaker {
    fn make(&self, _: &ContainerSpec, _: &str) -> Arc<dyn Streams> {
        Arc::new(Buffer::default())
    }
}

/// Copies output to our own, once the process has ended.
#[derive(Debug, Default)]
struct Buffer {
    io: Mutex<ProcessIo>,
}

impl Streams for Buffer {
    fn prepare(&self) -> Result<(), EngineError> {
        Ok(())
    }
    fn begin(&self, io: ProcessIo) -> Result<(), EngineError> {
        *self.io.lock().expect("lock") = io;
        Ok(())
    }
    fn drained(&self, _: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let io = std::mem::take(&mut *self.io.lock().expect("lock"));
            for fd in [io.stdout, io.stderr].into_iter().flatten() {
                let _ = std::io::copy(&mut File::from(fd), &mut std::io::stdout());
            }
        })
    }
    fn end(&self) {}
    fn discard(&self) {}
    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}
