//! Networks that are only settings for others (`--config-only`), and those that take theirs from one (`--config-from`).

use super::{CreateNetwork, PlanError};
use crate::network::document::UserNetwork;

/// What may not be said beside either.
pub(super) fn check(request: &CreateNetwork) -> Result<(), PlanError> {
    let has_template = !request.config_from.is_empty();
    if request.config_only {
        if request.ingress || request.internal || request.attachable || !request.scope.is_empty() {
            return Err(PlanError::TemplateFields);
        }
        return if has_template { Err(PlanError::TemplateOfTemplate) } else { Ok(()) };
    }
    if !has_template {
        return Ok(());
    }
    let default_addresses = matches!(request.ipam_driver.as_str(), "" | "default")
        && request.ipam_options.as_ref().is_none_or(|options| options.is_empty())
        && request.pools.is_empty();
    if !default_addresses || request.families() != [true, false] || !request.labels.is_empty() {
        return Err(PlanError::BesideTemplate);
    }
    if request.options.is_empty() { Ok(()) } else { Err(PlanError::OptionsBesideTemplate) }
}

/// Takes the settings over.
pub(super) fn apply(request: CreateNetwork, networks: &[UserNetwork]) -> Result<CreateNetwork, PlanError> {
    if request.config_from.is_empty() {
        return Ok(request);
    }
    let found = networks.iter().find(|network| network.config_only && network.name == request.config_from);
    let template = found.ok_or_else(|| PlanError::NoTemplate(request.config_from.clone()))?;
    Ok(CreateNetwork {
        enable_ipv4: Some(template.enable_ipv4),
        enable_ipv6: Some(template.enable_ipv6),
        ipam_driver: template.ipam_driver.clone(),
        ipam_options: template.ipam_options.clone(),
        pools: template.pools.iter().filter_map(|pool| pool.asked.clone()).collect(),
        options: template.options.clone(),
        labels: template.labels.clone(),
        ..request
    })
}
