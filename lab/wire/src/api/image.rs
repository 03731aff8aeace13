//! Images.

use super::Schema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// An image that may be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// `pitstop.image/1`
    pub schema: Schema,
    /// Its name.
    pub name: String,
    /// Digest of its block map.
    pub digest: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether it has a place for the host agent's seed.
    pub seed: bool,
    /// Machines that have it as their default.
    pub default_of: usize,
    /// What is held against it, where it is not handed out any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suspected: Vec<String>,
}

/// `GET /images`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Images {
    /// `pitstop.images/1`
    pub schema: Schema,
    /// By name.
    pub images: Vec<Image>,
}
