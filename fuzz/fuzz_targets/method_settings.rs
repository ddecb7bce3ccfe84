#![no_main]
anomalens_fuzz::fuzz!("method_settings");
