//! Pictures, maps and records as images are scored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anomalens::base::write_atomic;
use anomalens::detectors::{ImageSource, Outcome, Prediction};
use anomalens::evaluation::picture::{Style, boxes, draw, full_map};
use anomalens::evaluation::{ResultFolder, ResultRecord};
use anomalens::vision::{ColourMap, DecodeNote, DecodeOptions, Image};
use anyhow::{Context, Result};
use rayon::prelude::*;

use super::plan::{Plan, Planned};
use super::{Args, Colours, MapFormat};
use crate::decode;

/// Outcomes that are drawn and written together, on all cores.
const WRITTEN_AT_ONCE: usize = 16;

/// Writes pictures and records as outcomes come in.
pub(super) struct Writer<'a> {
    args: &'a Args,
    decode: DecodeOptions,
    plan: &'a Plan,
    folder: &'a mut ResultFolder,
    waiting: Vec<Outcome>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        args: &'a Args,
        decode: DecodeOptions,
        plan: &'a Plan,
        folder: &'a mut ResultFolder,
    ) -> Self {
        Self {
            args,
            decode,
            plan,
            folder,
            waiting: Vec::new(),
        }
    }

    pub(super) fn take(&mut self, outcome: Outcome) -> Result<()> {
        self.waiting.push(outcome);
        match self.waiting.len() >= WRITTEN_AT_ONCE {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Writes what waits.
    pub(super) fn flush(&mut self) -> Result<()> {
        let root = self.folder.root();
        let records: Vec<ResultRecord> = std::mem::take(&mut self.waiting)
            .into_par_iter()
            .map(|outcome| {
                let image = &self.plan.images[outcome.image];
                match outcome.result {
                    Ok(prediction) => {
                        let (notes, pixels) = (&outcome.decode_notes, outcome.pixels);
                        self.scored(root, image, &prediction, notes, pixels)
                    }
                    Err(error) => Ok(failed(&image.path, error.to_string())),
                }
            })
            .collect::<Result<_>>()?;
        for record in records {
            self.folder.add(record)?;
        }
        Ok(())
    }

    /// The record of a scored image; its pictures are written first.
    fn scored(
        &self,
        root: &Path,
        image: &Planned,
        prediction: &Prediction,
        notes: &[DecodeNote],
        pixels: Option<Arc<Image>>,
    ) -> Result<ResultRecord> {
        let warnings = notes.iter().map(ToString::to_string);
        let warnings = warnings.chain(prediction.notes.iter().map(ToString::to_string));
        let mut record = ResultRecord {
            score: Some(prediction.score),
            group: self.plan.group.clone(),
            regions: boxes(prediction)?,
            seen: seen(prediction),
            warnings: warnings.collect(),
            ..ResultRecord::of(&image.path)
        };
        if !self.args.no_pictures {
            // Images that are scored jointly are too many to be kept, and are read again.
            let again = || ImageSource::from(image.path.clone()).open(&self.decode);
            let pixels = match pixels.map_or_else(again, Ok) {
                Ok(pixels) => pixels,
                Err(error) => return Ok(failed(&image.path, error.to_string())), // It changed meanwhile.
            };
            let colours = match self.args.colours {
                Colours::Inferno => ColourMap::Inferno,
                Colours::Jet => ColourMap::Jet,
            };
            let style = Style {
                colours,
                longer_side: self.args.max_side,
                ..Style::default()
            };
            let drawn = draw(&pixels, prediction, style)?;
            let save = |kind: &str, picture: &Image| {
                let file = file(root, kind, &image.name, "png")?;
                picture.save_png(root.join(&file))?;
                Ok::<_, anyhow::Error>(file)
            };
            record.heat_map = Some(save("heat-maps", &drawn.heat_map)?);
            record.overlay = Some(save("overlays", &drawn.overlay)?);
            record.colours = Some(self.args.colours.name().to_owned());
            record.max_side = Some(self.args.max_side);
        }
        if let Some(format) = self.args.maps {
            let file = file(root, "maps", &image.name, format.ending())?;
            let map = full_map(prediction)?;
            let bytes = match format {
                MapFormat::Npy => map.to_npy(),
                MapFormat::Tiff => map.to_tiff()?,
            };
            let path = root.join(&file);
            write_atomic(&path, &bytes)
                .with_context(|| format!("cannot write {}", path.display()))?;
            record.map = Some(file);
        }
        // Last: what is read above is the file that this describes.
        match image
            .stamp
            .clone()
            .map(|stamp| stamp.with_content(&image.path))
        {
            Some(Ok(stamp)) => record.file = Some(stamp),
            Some(Err(error)) => return Ok(failed(&image.path, error.to_string())),
            None => {}
        }
        Ok(record)
    }
}

/// The part of the image that the network saw, if not all of it: x, y, width, height.
fn seen(prediction: &Prediction) -> Option<[u32; 4]> {
    let size = prediction.size;
    let part = size.footprint;
    let part = [part.x, part.y, part.width, part.height].map(|side| side.round() as u32);
    (part != [0, 0, size.width, size.height]).then_some(part)
}

/// The path below `root` of a file of `kind`, with its folder made.
fn file(root: &Path, kind: &str, name: &Path, ending: &str) -> Result<String> {
    let mut file = PathBuf::from(kind).join(name).into_os_string();
    file.push(format!(".{ending}"));
    let path = root.join(&file);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    Ok(file.to_string_lossy().replace('\\', "/"))
}

/// The record of an image that cannot be used.
pub(super) fn failed(path: &Path, error: String) -> ResultRecord {
    ResultRecord {
        error: Some(decode::with_option(&error)),
        ..ResultRecord::of(path)
    }
}
