//! A container's life in the engine, without HTTP: create and remove, and the whole of it. Needs root; everything is below
//! a temporary directory, containers have no network.

use std::error::Error;
use std::sync::Arc;

use criterion::Criterion;
use dockerd_bench::image;
use dockerd_core::container::{RemoveOptions, WaitCondition};
use dockerd_core::{EngineConfig, Services};
use dockerd_image::{ImageStore, ImportOptions};
use dockerd_store::Layout;
use dockerd_types::Reference;
use dockerd_types::container::{ContainerConfig, CreateContainer, HostConfig, NetworkMode};
use tokio::runtime::Runtime;

const IMAGE: &str = "bench/busybox:latest";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os();
    // The engine starts its supervisor from this program, as the daemon does.
    if arguments.nth(1).is_some_and(|mode| mode == "supervisor") {
        dockerd_runtime::modes::supervisor_main(arguments);
    }
    // Before there is another thread: the engine's bridge and rules are gone with this program.
    dockerd_sys::ns::unshare(dockerd_sys::process::NEW_NET)?;
    let base = tempfile::tempdir()?;
    let (data, exec) = (base.path().join("data"), base.path().join("exec"));
    make_image(&Layout::new(&data, &exec))?;
    let runtime = Runtime::new()?;
    let services = runtime.block_on(Services::open(EngineConfig::new(data, exec)))?;
    let mut criterion = Criterion::default().configure_from_args();
    container_start(&mut criterion, &runtime, &services);
    criterion.final_summary();
    runtime.block_on(services.shutdown());
    Ok(())
}

fn make_image(layout: &Layout) -> Result<(), Box<dyn Error>> {
    layout.create()?;
    let options = ImportOptions { reference: Some(Reference::parse(IMAGE)?), ..ImportOptions::default() };
    let root = image::busybox_root().map_err(Box::<dyn Error>::from)?;
    ImageStore::open(layout, None)?.import(root.as_slice(), &options)?;
    Ok(())
}

fn container_start(criterion: &mut Criterion, runtime: &Runtime, services: &Arc<Services>) {
    let mut group = criterion.benchmark_group("container");
    group.bench_function("create_and_remove", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let id = create(services).await;
                remove(services, &id).await;
            });
        });
    });
    group.bench_function("whole_life_of_true", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let id = create(services).await;
                let ending = services.containers.wait(&id, WaitCondition::NextExit).expect("it is there");
                services.containers.start(&id).await.expect("started");
                assert_eq!(ending.result().await.status_code, 0);
                remove(services, &id).await;
            });
        });
    });
    group.finish();
}

async fn create(services: &Services) -> String {
    let request = CreateContainer {
        name: None,
        platform: None,
        config: ContainerConfig {
            image: IMAGE.to_owned(),
            cmd: Some(vec!["true".to_owned()]),
            ..ContainerConfig::default()
        },
        host_config: HostConfig { network_mode: NetworkMode::None, ..HostConfig::default() },
        endpoints: Default::default(),
    };
    services.containers.create(request).await.expect("created").id.to_string()
}

async fn remove(services: &Services, id: &str) {
    let options = RemoveOptions { force: false, volumes: true, link: false };
    services.containers.remove(id, options).await.expect("removed");
}
