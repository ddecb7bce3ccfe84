#![no_main]
anomalens_fuzz::fuzz!("april_gan");
