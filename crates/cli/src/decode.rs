//! Options of how image files are decoded, and what is said about the files.

use anomalens::detectors::DetectorFile;
use anomalens::vision::{DecodeOptions, Levels, Limits, NoteLog};
use anyhow::{Result, bail};

use super::print_note;

const IMAGE_FILES: &str = "Image files";

/// How image files are decoded.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Bits in use in samples of more than 8 bits, such as 12 for many cameras [default: what the
    /// detector was made with, or the file says]
    #[arg(long, help_heading = IMAGE_FILES, value_name = "N",
          value_parser = clap::value_parser!(u8).range(8..=32))]
    bit_depth: Option<u8>,
    /// What becomes black and white in samples of more than 8 bits, in the file's own values
    #[arg(long, help_heading = IMAGE_FILES, value_name = "LOW..HIGH", conflicts_with = "bit_depth",
          allow_hyphen_values = true, value_parser = window)]
    window: Option<Levels>,
    /// Largest image that is read, in millions of pixels; the limits of files and memory rise with it
    #[arg(long, help_heading = IMAGE_FILES, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_megapixels: u32,
}

impl Args {
    /// The options for images that a detector scores: those that it was made with.
    pub(super) fn options_for(&self, detector: &DetectorFile) -> Result<DecodeOptions> {
        let (options, made_with) = (self.options(), detector.levels);
        if !options.levels.is_default() && !made_with.is_default() && options.levels != made_with {
            bail!(
                "the detector was made with {} and scores only such images: leave --bit-depth and \
                 --window out, or fit it again",
                in_words(made_with)
            );
        }
        Ok(match options.levels.is_default() {
            true => DecodeOptions {
                levels: made_with,
                ..options
            },
            false => options,
        })
    }

    pub(super) fn options(&self) -> DecodeOptions {
        let default = Limits::default();
        let max_pixels = u64::from(self.max_megapixels) * 1_000_000;
        let times = max_pixels.div_ceil(default.max_pixels);
        DecodeOptions {
            limits: Limits {
                max_pixels,
                max_bytes: default.max_bytes * times,
                max_memory: default.max_memory * times,
            },
            levels: match (self.bit_depth, self.window) {
                (Some(bits), _) => Levels::BitDepth(bits),
                (None, window) => window.unwrap_or_default(),
            },
            ..DecodeOptions::default()
        }
    }
}

fn window(text: &str) -> Result<Levels, String> {
    let bound = |text: &str| text.parse().ok().filter(|bound: &f64| bound.is_finite());
    let bounds = text.split_once("..");
    match bounds.and_then(|(low, high)| Some((bound(low)?, bound(high)?))) {
        Some((low, high)) if low < high => Ok(Levels::Window { low, high }),
        _ => Err("give two numbers, the lower first, such as 0..4095".to_owned()),
    }
}

/// The option that gives `levels`.
fn in_words(levels: Levels) -> String {
    match levels {
        Levels::FromFile => "the levels of each file".to_owned(),
        Levels::BitDepth(bits) => format!("--bit-depth {bits}"),
        Levels::Window { low, high } => format!("--window {low}..{high}"),
    }
}

/// An error of the library, with the option that raises the limits of image files.
pub(super) fn with_option(error: &str) -> String {
    error.replace("raise the limit", "raise the limit with --max-megapixels")
}

/// Prints what was noted about image files.
pub(super) fn print_notes(notes: &NoteLog) {
    for line in notes.lines() {
        print_note(line);
    }
}
