#![no_main]
anomalens_fuzz::fuzz!("data_ref");
