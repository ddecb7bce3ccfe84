//! Where the features of a suite's images are kept.

use std::path::PathBuf;
use std::sync::Arc;

use anomalens::backbones::weights::Store;
use anomalens::backbones::{Backbone, CachedEncoder, Engine, FeatureCache, ImageEncoder, Numbers};
use anyhow::{Context, Result, bail};

use super::Args;
use crate::backbone;
use crate::print_note;

/// The folder of features, unless it is off.
pub(super) fn feature_cache(args: &Args) -> Result<Option<Arc<FeatureCache>>> {
    let folder = match args.feature_cache.as_deref() {
        Some("off") => return Ok(None),
        Some(folder) => PathBuf::from(folder),
        None => Store::from_env()?.made_path("features"),
    };
    let gigabytes = args.feature_cache_size;
    if !(gigabytes >= 0.0 && gigabytes.is_finite()) {
        bail!("--feature-cache-size must be 0 or more GB");
    }
    let cache = FeatureCache::open(&folder, (gigabytes * 1e9) as u64, Numbers::F32)
        .with_context(|| format!("cannot keep features in {}", folder.display()))?;
    Ok(Some(Arc::new(cache)))
}

/// The backbone's network, its features being kept in `cache`.
pub(super) fn encoder(
    backbone: &Backbone,
    cache: Option<&Arc<FeatureCache>>,
) -> Result<Arc<dyn ImageEncoder>> {
    let network = backbone.encoder.clone();
    let Some(cache) = cache else {
        return Ok(network);
    };
    let identity = format!(
        "{} {} {}",
        backbone::identity(backbone),
        Engine::from_env()?.kernel_name(backbone.precision),
        env!("CARGO_PKG_VERSION")
    );
    Ok(Arc::new(CachedEncoder::new(
        network,
        identity,
        cache.clone(),
    )))
}

/// Prints how much the features take, and what they saved.
pub(super) fn tell_usage(cache: &FeatureCache) {
    let usage = cache.usage();
    print_note(format!(
        "features: {:.2} GB in {}; {} images looked up, {} encoded",
        usage.bytes as f64 / 1e9,
        cache.folder().display(),
        usage.found,
        usage.encoded
    ));
    if let Some(reason) = usage.failure {
        print_note(format!("features could not be kept: {reason}"));
    }
}
