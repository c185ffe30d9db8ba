//! `docker rename`.

use dockerd_store::{Durability, document};
use dockerd_types::network::EndpointState;

use super::actor::{Actor, Command};
use super::create_error::CreateError;
use super::error::ContainerError;
use super::spec::ContainerDocument;
use super::{ContainerService, validate};
use crate::error::EngineError;

impl ContainerService {
    /// Gives a container another name.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<(), EngineError> {
        if name.is_empty() || new_name.is_empty() {
            return Err(ContainerError::RenameEmpty.into());
        }
        let container = self.core.containers.find(name)?;
        let refused = |error| EngineError::from(ContainerError::NewName(Box::new(error)));
        let new_name = validate::check_name(new_name).map_err(|error| match error {
            CreateError::InvalidName(name) => {
                let bare = name.strip_prefix('/').unwrap_or(&name);
                refused(CreateError::InvalidName(format!("/{bare}")))
            }
            error => error.into(),
        })?;
        if &*container.snapshot().name == new_name {
            return Err(ContainerError::RenameSame.into());
        }
        self.core.containers.claim_name(new_name, container.id()).map_err(refused)?;
        let renamed = container.ask(|reply| Command::Rename { name: new_name.to_owned(), reply }).await;
        if renamed.is_err() {
            self.core.containers.release_name(new_name, container.id());
        }
        renamed
    }
}

impl Actor {
    /// The new name is claimed; write it down, then let the old one go.
    pub(super) async fn rename(&mut self, name: String) -> Result<(), EngineError> {
        let snapshot = self.snapshot();
        let path = self.core.layout.container_document(self.container.id());
        let stored = ContainerDocument { name: name.clone(), spec: snapshot.spec.clone() };
        let written = tokio::task::spawn_blocking(move || document::write(&path, &stored, Durability::Process));
        written.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        self.core.containers.release_name(&snapshot.name, self.container.id());
        let running = snapshot.state.is_running();
        self.update(|s| {
            if running {
                for endpoint in &mut s.state.endpoints {
                    rename_endpoint(endpoint, &snapshot.name, &name);
                }
            }
            s.name = name.into();
        });
        if running {
            self.enter_names();
            // Where it cannot be written, the next change is.
            self.persist();
        }
        self.event("rename", &[("oldName", format!("/{}", snapshot.name))]);
        Ok(())
    }
}

/// A network knows a container by its name first.
fn rename_endpoint(endpoint: &mut EndpointState, old: &str, new: &str) {
    if endpoint.dns_names.first().is_some_and(|first| first == old) {
        endpoint.dns_names.retain(|name| name != new);
        endpoint.dns_names[0] = new.to_owned();
    }
}
