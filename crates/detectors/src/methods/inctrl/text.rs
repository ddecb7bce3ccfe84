//! The text prior (paper, section 3.4): how much nearer an image's embedding is to prompts of
//! anomalous things than to prompts of normal ones. The prompts are WinCLIP's.

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::clip::tokenizer::{Tokenizer, TooLong};
use candle_core::{Device, Tensor};

use crate::DetectorError;
use crate::components::tokens::{dot, normalise};

const NORMAL_STATES: [&str; 7] = [
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
];

const ANOMALOUS_STATES: [&str; 4] = [
    "damaged {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
];

const TEMPLATES: [&str; 22] = [
    "a cropped photo of the {}.",
    "a cropped photo of a {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of a {}.",
    "a dark photo of the {}.",
    "a jpeg corrupted photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a blurry photo of the {}.",
    "a blurry photo of a {}.",
    "a photo of the {}.",
    "a photo of a {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    "a photo of a {} for visual inspection.",
    "a photo of the {} for visual inspection.",
    "a photo of a {} for anomaly detection.",
    "a photo of the {} for anomaly detection.",
];

/// Classes whose anomalies are other things, not damage: those of CIFAR-10, and their whole.
const SEMANTIC: [&str; 11] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
    "animal",
];

/// Prompts that go through the text encoder at once.
const BATCH: usize = 44;

/// The prompts for `class`: normal, anomalous.
pub(super) fn prompts(class: &str) -> [Vec<String>; 2] {
    let class = class.replace('_', " ");
    if SEMANTIC.contains(&class.as_str()) {
        return ["photo of", "photo without"]
            .map(|words| vec![format!("a {words} {class} for anomaly detection.")]);
    }
    let ensemble = |states: &[&str]| {
        let states = states.iter().map(|state| state.replace("{}", &class));
        states
            .flat_map(|state| TEMPLATES.map(|template| template.replace("{}", &state)))
            .collect()
    };
    [ensemble(&NORMAL_STATES), ensemble(&ANOMALOUS_STATES)]
}

/// The embeddings of normal and of anomalous prompts for `class`, each of length 1: the mean of
/// the prompts' embeddings, each of length 1.
pub(super) fn embeddings(text: &ClipText, class: &str) -> Result<[Vec<f32>; 2], DetectorError> {
    let [normal, anomalous] = prompts(class);
    Ok([mean(text, &normal)?, mean(text, &anomalous)?])
}

fn mean(text: &ClipText, prompts: &[String]) -> Result<Vec<f32>, DetectorError> {
    let tokenizer = Tokenizer::new();
    let context = text.config().context;
    let mut sum = vec![0.0; text.config().embedding];
    for prompts in prompts.chunks(BATCH) {
        let ids = prompts
            .iter()
            .map(|prompt| tokenizer.tokenize(prompt, context, TooLong::Truncate))
            .collect::<Result<Vec<_>, _>>()?;
        let ids = Tensor::from_vec(ids.concat(), (prompts.len(), context), &Device::Cpu)?;
        for mut embedding in text.encode(&ids)?.to_vec2::<f32>()? {
            normalise(&mut embedding);
            sum.iter_mut().zip(embedding).for_each(|(sum, x)| *sum += x);
        }
    }
    // Its length does not matter, so that the sum serves for the mean.
    normalise(&mut sum);
    Ok(sum)
}

/// Fixed factor of the cosines before the softmax.
const SHARPNESS: f32 = 100.0;

/// The probability that an image with `embedding` is anomalous.
pub(super) fn score(embedding: &[f32], [normal, anomalous]: &[Vec<f32>; 2]) -> f32 {
    let length = dot(embedding, embedding).sqrt();
    let margin = SHARPNESS * (dot(embedding, anomalous) - dot(embedding, normal)) / length;
    1.0 / (1.0 + (-margin).exp())
}
