//! A method and its settings from the command line.

use std::path::{Path, PathBuf};

use anomalens::backbones::Backbone;
use anomalens::detectors::{DetectorFile, Method, MethodSettings};
use anyhow::{Result, bail};
use serde_json::Value;

use super::backbone;

/// Settings that replace a method's defaults.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A setting of the method, such as `blocks=[6,9]` or `image_size=448` (repeatable)
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<String>,
    /// Pixels of the shorter side of what the network sees: the setting `image_size`
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<u32>,
    /// Side of the overlapping tiles in which large images go through the network, 0 for none: the
    /// setting `tiles` of lens
    #[arg(long, value_name = "PIXELS")]
    tiles: Option<u32>,
    /// Megabytes that the normal images may take in memory: the setting `max_memory` of lens
    #[arg(long, value_name = "MB")]
    max_memory: Option<u32>,
    /// The prompts of methods that compare images with text: a name, or a JSON file: the setting
    /// `prompts`
    #[arg(long, value_name = "NAME|FILE")]
    prompts: Option<String>,
    /// Trained parameters, for methods that need or accept them: a file from `anomalens train`, or a
    /// published checkpoint
    #[arg(long, value_name = "FILE")]
    trained: Vec<PathBuf>,
}

impl Args {
    /// The settings by name; values are JSON, or text where they are not.
    pub(super) fn options(&self) -> Result<MethodSettings> {
        let mut options = MethodSettings::new();
        for (name, number) in [
            ("image_size", self.image_size),
            ("tiles", self.tiles),
            ("max_memory", self.max_memory),
        ] {
            if let Some(number) = number {
                options.insert(name.to_owned(), number.into());
            }
        }
        if let Some(prompts) = &self.prompts {
            options.insert("prompts".to_owned(), prompts.as_str().into());
        }
        for setting in &self.settings {
            let Some((name, value)) = setting.split_once('=') else {
                bail!("`--set {setting}` lacks a value: write it as NAME=VALUE");
            };
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            options.insert(name.to_owned(), value);
        }
        Ok(options)
    }

    /// What was trained before, of which there is one file at most.
    pub(super) fn trained(&self) -> Result<Option<&Path>> {
        match self.trained.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(one)),
            several => bail!(
                "one file of trained parameters is used here, and --trained names {}",
                several.len()
            ),
        }
    }

    /// Every file that was trained before.
    pub(super) fn all_trained(&self) -> &[PathBuf] {
        &self.trained
    }

    /// Opens the backbone: that of what was trained before, where it is known.
    /// Else, where none is named, it is one that has the blocks which `methods` need.
    pub(super) fn open<'m>(
        &self,
        backbone: &backbone::Args,
        methods: impl IntoIterator<Item = &'m dyn Method>,
    ) -> Result<Backbone> {
        // What is wrong with the file is reported where it is used.
        let trained = self.trained()?.map(DetectorFile::load);
        match trained.and_then(Result::ok) {
            Some(file) => backbone.open_for(&file),
            None => backbone.open_for_methods(methods),
        }
    }
}
