//! `spec.workload`: what runs, beside the image.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::attach::AttachTo;

/// What runs, beside the image.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// An existing Deployment to scale, of any image that exposes a histogram of its request durations. It stays its
    /// owner's: nothing but its replicas is written, and deleting this resource leaves it as it is. Cannot be added, changed
    /// or removed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_to: Option<AttachTo>,
}
