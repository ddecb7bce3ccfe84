#![no_main]
anomalens_fuzz::fuzz!("regad");
