//! The file that was written against our own engine, in float32.

use std::path::Path;

use anomalens_backbones::{ImageEncoder, ImageFeatures, test_images};
use anomalens_onnx::network::Size;
use anomalens_onnx::{Bytes, OnnxError, cosine, run_file};
use anomalens_vision::{Filter, Image, Preprocess, Resize};

use super::plan::Plan;
use super::whole::output_name;
use super::{ExportError, ExportOptions, Part};
use crate::{DetectorError, DetectorFile, NormalRange};

/// How much a score may differ, as a part of it, and the least cosine of a map or token: in float32, and
/// in float16.
const EXACT: Limits = Limits {
    score: 1e-3,
    cosine: 0.999_9,
};
const HALF: Limits = Limits {
    score: 0.05,
    cosine: 0.999,
};

struct Limits {
    score: f32,
    cosine: f32,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// It was run on a drawn image.
    Ran {
        /// The version of ONNX Runtime.
        runtime: String,
        /// How much the score differs, as a part of it; none where only networks were written.
        score: Option<f32>,
        /// The smallest cosine of a map, or of the features of a place.
        cosine: f32,
    },
    /// It was read back only, since this is not here.
    Read(String),
}

/// What our own engine gives for drawn images.
pub(super) struct Reference {
    /// One for each of the graph's inputs, all images of the batch.
    pixels: Vec<Vec<u8>>,
    batch: usize,
    expected: Vec<Expected>,
    range: Option<NormalRange>,
}

/// What must come out under a name.
struct Expected {
    name: String,
    /// All images of the batch.
    numbers: Vec<f32>,
    kind: Kind,
}

enum Kind {
    Score,
    /// Rows of so many numbers have a cosine.
    Rows(usize),
    Decision,
}

impl Reference {
    pub(super) fn new(
        file: &DetectorFile,
        plan: &Plan<'_>,
        encoder: &dyn ImageEncoder,
        part: Part,
        options: &ExportOptions,
    ) -> Result<Self, ExportError> {
        let batch = if options.dynamic_batch { 2 } else { 1 };
        let Size { height, width } = plan.size();
        let drawn = test_images(batch, height, width).into_iter();
        let drawn = drawn.map(|bytes| Image::new(width as u32, height as u32, bytes));
        let drawn = drawn.collect::<Result<Vec<Image>, _>>()?;
        let (mut pixels, mut seen) = (vec![], vec![]);
        for size in plan.sizes() {
            let resized = drawn
                .iter()
                .map(|image| image.resize(size.width as u32, size.height as u32, Filter::Bicubic));
            let resized = resized.collect::<Result<Vec<Image>, _>>()?;
            pixels.push(resized.iter().flat_map(Image::as_bytes).copied().collect());
            seen.push(resized);
        }
        let mut reference = Self {
            pixels,
            batch,
            expected: vec![],
            range: None,
        };
        match part {
            Part::Encoder => reference.features(plan, encoder, &seen)?,
            Part::Detector => reference.scores(file, plan, encoder, &seen)?,
        }
        Ok(reference)
    }

    /// What normal patches score, where there are scores.
    pub(super) fn range(&self) -> Option<NormalRange> {
        self.range
    }

    fn expect(&mut self, name: String, numbers: Vec<f32>, kind: Kind) {
        self.expected.push(Expected {
            name,
            numbers,
            kind,
        });
    }

    fn features(
        &mut self,
        plan: &Plan<'_>,
        encoder: &dyn ImageEncoder,
        seen: &[Vec<Image>],
    ) -> Result<(), ExportError> {
        for (place, one) in plan.seen.iter().enumerate() {
            let inputs = preprocessed(&one.input.preprocess, one.size, &seen[one.port])?;
            let network = encoder.network(one.input.network)?;
            let features = network.encode(&inputs, &one.input.request)?;
            let Some(first) = features.first() else {
                continue;
            };
            for (at, map) in first.maps.iter().enumerate() {
                let name = output_name(place, &map.layer.to_string());
                let all = features.iter().flat_map(|one| one.maps[at].tokens.clone());
                self.expect(name.clone(), all.collect(), Kind::Rows(map.dim));
                if map.class_token.is_some() {
                    let class = features
                        .iter()
                        .flat_map(|one| one.maps[at].class_token.clone());
                    self.expect(
                        format!("{name}_class"),
                        class.flatten().collect(),
                        Kind::Rows(map.dim),
                    );
                }
            }
            if let Some(embedding) = &first.embedding {
                let dim = embedding.len();
                let all = features.iter().flat_map(|one| one.embedding.clone());
                let name = output_name(place, "embedding");
                self.expect(name, all.flatten().collect(), Kind::Rows(dim));
            }
        }
        Ok(())
    }

    fn scores(
        &mut self,
        file: &DetectorFile,
        plan: &Plan<'_>,
        encoder: &dyn ImageEncoder,
        seen: &[Vec<Image>],
    ) -> Result<(), ExportError> {
        let mut images: Vec<ImageFeatures> = vec![];
        for one in &plan.seen {
            let inputs = preprocessed(&one.input.preprocess, one.size, &seen[one.port])?;
            let features = one.input.encode(encoder, &inputs)?;
            match images.is_empty() {
                true => images = features,
                false => {
                    let both = images.iter_mut().zip(features);
                    both.for_each(|(image, further)| image.further.push(further));
                }
            }
        }
        let detector = file.detector.as_ref();
        let scored = detector.score(&images.iter().collect::<Vec<_>>())?;
        let Size { height, width } = plan.size();
        let (mut maps, mut large, mut patches) = (vec![], vec![], 0);
        for one in &scored {
            patches = one.map.values().len();
            maps.extend_from_slice(one.map.values());
            let enlargement = detector.profile().enlargement;
            large.extend(
                enlargement
                    .apply(&one.map, height, width, 1.0)?
                    .into_values(),
            );
        }
        let scores: Vec<f32> = scored.iter().map(|one| one.score).collect();
        self.range = scored.first().map(|one| one.range);
        if let Some(calibration) = &file.calibration {
            let decisions = scores.iter().map(|&score| calibration.is_anomalous(score));
            let decisions = decisions.map(|yes| f32::from(u8::from(yes))).collect();
            self.expect("decision".to_owned(), decisions, Kind::Decision);
        }
        self.expect("score".to_owned(), scores, Kind::Score);
        self.expect("map".to_owned(), maps, Kind::Rows(patches));
        self.expect("anomaly_map".to_owned(), large, Kind::Rows(height * width));
        Ok(())
    }

    /// Runs the file, where ONNX Runtime is here.
    pub(super) fn compare(
        &self,
        path: &Path,
        plan: &Plan<'_>,
        options: &ExportOptions,
    ) -> Result<Check, ExportError> {
        let inputs = plan.ports().into_iter().zip(&self.pixels);
        let inputs = inputs.map(|(port, bytes)| Bytes {
            name: port.name,
            shape: [&[self.batch], port.shape.as_slice()].concat(),
            bytes: bytes.clone(),
        });
        let (found, runtime) = match run_file(path, &inputs.collect::<Vec<_>>()) {
            Ok(ran) => ran,
            Err(error @ (OnnxError::NoLibrary { .. } | OnnxError::NoProvider { .. })) => {
                return Ok(Check::Read(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        let limits = if options.half { HALF } else { EXACT };
        let (mut score, mut smallest) = (None, 1.0_f32);
        let differs = |what: String| ExportError::Differs {
            what,
            advice: match options.half {
                true => "; try it without --half",
                false => "",
            },
        };
        for expected in &self.expected {
            let Expected {
                name,
                numbers,
                kind,
            } = expected;
            let output = found.iter().find(|output| output.name == *name);
            let output = output.map(|output| output.numbers.as_slice());
            let same = output.filter(|output| output.len() == numbers.len());
            let same = same.ok_or_else(|| differs(format!("it gives no usable {name}")))?;
            match kind {
                Kind::Score => score = Some(difference(same, numbers)),
                Kind::Rows(width) => {
                    let width = (*width).max(1);
                    let rows = same.chunks_exact(width).zip(numbers.chunks_exact(width));
                    let least = rows.map(|(a, b)| cosine(a, b)).fold(1.0, f32::min);
                    smallest = smallest.min(least);
                }
                // It follows from the score, which may differ by rounding.
                Kind::Decision => {}
            }
        }
        if score.is_some_and(|score| score.is_nan() || score > limits.score)
            || smallest < limits.cosine
        {
            let score = score.map_or(String::new(), |score| {
                format!("its score is off by {score:.1e} of it, ")
            });
            return Err(differs(format!(
                "{score}the smallest cosine is {smallest:.5}"
            )));
        }
        Ok(Check::Ran {
            runtime,
            score,
            cosine: smallest,
        })
    }
}

/// Images as a network wants them; they have its size.
fn preprocessed(
    rule: &Preprocess,
    Size { height, width }: Size,
    images: &[Image],
) -> Result<Vec<anomalens_vision::Preprocessed>, DetectorError> {
    let (height, width) = (height as u32, width as u32);
    let rule = Preprocess {
        resize: Resize::Stretch { height, width },
        ..rule.clone()
    };
    let all = images.iter().map(|image| Ok(rule.apply(image)?));
    all.collect()
}

/// The largest difference, as a part of the number.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    let parts = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs() / b.abs().max(f32::MIN_POSITIVE));
    parts.fold(0.0, |most, part| {
        if part > most || part.is_nan() {
            part
        } else {
            most
        }
    })
}
