//! What a device computes, compared with float32 on the processor: once for each network, request,
//! size and device, and remembered.

use std::path::PathBuf;

use anomalens_backbones::{FeatureRequest, ImageEncoder, ImageFeatures, test_inputs};
use anomalens_base::{ContentHash, write_atomic};
use serde_json::{Value, json};

use super::Device;
use super::library::Library;
use super::program::Program;
use crate::OnnxError;
use crate::network::Size;

/// The cosine that every token must have with the processor's.
pub(super) const LEAST_COSINE: f32 = 0.999;

/// Images that are compared.
const IMAGES: usize = 3;

/// Where outcomes are remembered, and of which weights.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    pub(crate) folder: Option<PathBuf>,
    pub(crate) weights: ContentHash,
}

impl Gate {
    /// Lets a program through that computes what the processor does.
    pub(crate) fn check(
        &self,
        library: &Library,
        device: &Device,
        program: &Program,
        encoder: &dyn ImageEncoder,
        request: &FeatureRequest,
        size: Size,
    ) -> Result<(), OnnxError> {
        let identity = json!({
            "weights": self.weights.to_string(),
            "request": request,
            "size": [size.height, size.width],
            "device": device.to_string(),
            "runtime": [library.path.to_string_lossy(), library.version.to_string()],
            "program": env!("CARGO_PKG_VERSION"),
        });
        let name = ContentHash::of_bytes(identity.to_string().as_bytes()).to_string();
        let file = self
            .folder
            .as_ref()
            .map(|folder| folder.join(&name[..32]).with_extension("json"));
        let known = file.as_ref().and_then(|file| {
            let text = std::fs::read(file).ok()?;
            let known: Value = serde_json::from_slice(&text).ok()?;
            (known["of"] == identity)
                .then(|| known["cosine"].as_f64())
                .flatten()
        });
        let cosine = match known {
            Some(cosine) => cosine as f32,
            None => {
                let cosine = compare(program, encoder, request, size)?;
                if let Some(file) = file {
                    let text = json!({ "of": identity, "cosine": cosine }).to_string();
                    // What cannot be remembered is compared again.
                    let _ = file.parent().map(std::fs::create_dir_all);
                    let _ = write_atomic(&file, text.as_bytes());
                }
                cosine
            }
        };
        match cosine >= LEAST_COSINE {
            true => Ok(()),
            false => Err(OnnxError::Differs {
                device: device.to_string(),
                network: encoder.spec().name.clone(),
                cosine,
                least: LEAST_COSINE,
            }),
        }
    }
}

/// The smallest cosine of a token with the processor's.
fn compare(
    program: &Program,
    encoder: &dyn ImageEncoder,
    request: &FeatureRequest,
    size: Size,
) -> Result<f32, OnnxError> {
    let Size { height, width } = size;
    let images = test_inputs(IMAGES, height, width);
    let expected = encoder.encode(&images, request)?;
    let pixels: Vec<&[f32]> = images.iter().map(|image| image.values.as_slice()).collect();
    let found = program.run(0, &pixels)?;
    let pairs = found.iter().zip(&expected);
    Ok(pairs
        .map(|(a, b)| smallest_cosine(a, b))
        .fold(1.0, f32::min))
}

/// The smallest cosine between tokens at the same place.
pub fn smallest_cosine(a: &ImageFeatures, b: &ImageFeatures) -> f32 {
    let maps = a.maps.iter().zip(&b.maps);
    let tokens = maps.flat_map(|(a, b)| {
        let places = a
            .tokens
            .chunks_exact(a.dim)
            .zip(b.tokens.chunks_exact(b.dim));
        let class = a.class_token.iter().zip(&b.class_token);
        places.chain(class.map(|(a, b)| (a.as_slice(), b.as_slice())))
    });
    let embedding = a.embedding.iter().zip(&b.embedding);
    let all = tokens.chain(embedding.map(|(a, b)| (a.as_slice(), b.as_slice())));
    all.map(|(a, b)| cosine(a, b)).fold(1.0, f32::min)
}

/// The cosine of two vectors; -1 where one has something that is no number.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum()
    };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    match lengths {
        // Nothing has a direction here; two of them are equal.
        0.0 => f32::from(u8::from(a == b)),
        _ if lengths.is_nan() => -1.0,
        _ => (dot(a, b) / lengths) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_of_odd_tokens() {
        for (case, a, b, expected) in [
            ("equal", [1.0, 2.0], [2.0, 4.0], 1.0),
            ("across", [1.0, 0.0], [0.0, 1.0], 0.0),
            ("nothing in both", [0.0, 0.0], [0.0, 0.0], 1.0),
            ("nothing in one", [0.0, 0.0], [1.0, 0.0], 0.0),
            ("no number", [f32::NAN, 0.0], [1.0, 0.0], -1.0),
            ("no number in the other", [1.0, 0.0], [f32::NAN, 0.0], -1.0),
        ] {
            let features = |embedding: [f32; 2]| ImageFeatures {
                embedding: Some(embedding.to_vec()),
                ..ImageFeatures::default()
            };
            let found = smallest_cosine(&features(a), &features(b));
            assert!((found - expected).abs() < 1e-6, "{case}: {found}");
        }
    }
}
