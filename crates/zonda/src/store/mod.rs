//! The model store: `$ZONDA_HOME`, its contents, and how a model's name becomes a path.
//!
//! ```text
//! $ZONDA_HOME/models/NAME/        models with a name of their own, and those made on this machine
//! $ZONDA_HOME/hub/ORG/NAME/       Hub repositories
//!     manifest.json               which files the folder contains; written last
//!     *.gguf, config.json, …      the files
//! $ZONDA_HOME/agreement/          what `zonda bench` found when it compared backends with exact logits
//! ```
//!
//! Without the feature `hub`, only models on this machine are found; with it, missing ones are downloaded.

#[cfg(feature = "hub")]
mod cache;
mod checksum;
mod contents;
mod folder;
mod home;
#[cfg(feature = "hub")]
pub mod http;
#[cfg(feature = "hub")]
mod hub;
mod locate;
mod manifest;
mod name;
#[cfg(not(feature = "hub"))]
mod no_cache;
mod own_file;
mod progress;
mod pull;
mod relative;
#[cfg(feature = "hub")]
mod transfer;
#[cfg(feature = "hub")]
mod wheel;

pub use crate::located::Located;
pub use contents::Entry;
pub use home::Store;
pub use manifest::{Manifest, StoredFile};
pub use name::ModelName;
pub use progress::Progress;

#[cfg(not(feature = "hub"))]
use no_cache as cache;

#[cfg(test)]
mod tests;
