//! What the services share: settings, drivers, the register of containers. Knows how to find things, not what to do.

use std::sync::Arc;

use dockerd_store::Layout;

use crate::config::EngineConfig;

/// Shared by all services.
#[derive(Debug)]
pub struct Core {
    /// Settings.
    pub(crate) config: Arc<EngineConfig>,
    /// Paths.
    pub(crate) layout: Layout,
}
