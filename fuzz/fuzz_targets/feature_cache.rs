#![no_main]
anomalens_fuzz::fuzz!("feature_cache");
