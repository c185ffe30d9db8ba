//! `GET /system/df`: disk usage in the API's words.

use dockerd_core::image::list::ImageSummary;
use dockerd_core::system::df::{DiskUsage, VolumeUsage};
use serde_json::{Value, json};

use crate::compat;
use crate::handlers::volumes;
use crate::model::summary::Summary;
use crate::version::ApiVersion;

/// The whole answer; kinds not asked for are `null`.
pub(crate) fn disk_usage(usage: &DiskUsage, build_cache: bool, version: ApiVersion) -> Value {
    let image = |(summary, shared): &(ImageSummary, u64)| {
        let mut out = super::image::summary(summary);
        out["SharedSize"] = json!(shared);
        out["Containers"] = json!(summary.containers);
        compat::images::downgrade_usage(version, out)
    };
    let volume = |VolumeUsage { volume, users, size }: &VolumeUsage| {
        let mut out = volumes::describe(volume);
        out["UsageData"] = json!({"RefCount": users, "Size": size});
        out
    };
    json!({
        "LayersSize": usage.layers,
        "Images": usage.images.as_ref().map(|list| list.iter().map(image).collect::<Vec<_>>()),
        "Containers": usage.containers.as_ref().map(|list| list.iter().map(Summary::new).collect::<Vec<_>>()),
        "Volumes": usage.volumes.as_ref().map(|list| list.iter().map(volume).collect::<Vec<_>>()),
        // No builder, no cache.
        "BuildCache": if build_cache { json!([]) } else { Value::Null },
    })
}
