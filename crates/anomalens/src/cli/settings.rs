//! A method and its settings from the command line.

use anomalens::detectors::FitOptions;
use anyhow::{Result, bail};
use serde_json::Value;

/// Settings that replace a method's defaults.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A setting of the method, such as `blocks=[6,9]` or `image_size=448` (repeatable)
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
}

impl Args {
    /// The settings by name; values are JSON, or text where they are not.
    pub(super) fn options(&self) -> Result<FitOptions> {
        let mut options = FitOptions::new();
        for setting in &self.settings {
            let Some((name, value)) = setting.split_once('=') else {
                bail!("`--set {setting}` lacks a value: write it as NAME=VALUE");
            };
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            options.insert(name.to_owned(), value);
        }
        Ok(options)
    }
}
