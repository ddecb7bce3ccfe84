//! The text prior (paper, section 3.4): how much nearer an image's embedding is to prompts of
//! anomalous things than to prompts of normal ones. The prompts are WinCLIP's.

use anomalens_backbones::clip::ClipText;

use crate::DetectorError;
use crate::components::prompts::{Ensemble, Texts};

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

/// What cosines are divided by before the softmax.
pub(super) const TEMPERATURE: f32 = 0.01;

/// The prompts for `class`: normal, anomalous.
pub(super) fn prompts(class: &str) -> Result<[Vec<String>; 2], DetectorError> {
    let class = class.replace('_', " ");
    if SEMANTIC.contains(&class.as_str()) {
        return Ok(["photo of", "photo without"]
            .map(|words| vec![format!("a {words} {class} for anomaly detection.")]));
    }
    let ensemble = Ensemble::open(super::NAME).map_err(super::refuse)?;
    Ok(ensemble.prompts(&class))
}

/// The embeddings of normal and of anomalous prompts for `class`: the mean of the prompts'
/// embeddings, each of length 1.
pub(super) fn embeddings(text: &ClipText, class: &str) -> Result<Texts, DetectorError> {
    let [normal, anomalous] = prompts(class)?;
    Texts::of(text, [&normal, &anomalous], true)
}
