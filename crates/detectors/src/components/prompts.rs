//! Prompts of normal and of anomalous things, and how near an image is to either.
//!
//! An ensemble is a data file: words for both states, each put into every template, with `{}` for the
//! class. Those of the papers are in `prompts/`; users name their own with `--prompts FILE`.

use std::path::Path;

use anomalens_backbones::clip::ClipText;
use anomalens_backbones::clip::tokenizer::{Tokenizer, TooLong};
use anomalens_backbones::{Activation, ImageEncoder};
use anomalens_base::nearest;
use candle_core::{Device, Tensor};
use serde::Deserialize;

use crate::components::tokens::{dot, normalise};
use crate::detector::Array;
use crate::{DefaultWeights, DetectorError, find};

/// Prompts that go through the text encoder at once.
const BATCH: usize = 44;

/// What stands for the class in a state, and for the state in a template.
const PLACE: &str = "{}";

/// More than any file of prompts has.
const MOST_BYTES: u64 = 1 << 20;

/// The ensembles in the program.
const BUILT_IN: [(&str, &str); 10] = [
    ("clip", include_str!("prompts/clip.json")),
    ("clip-ac", include_str!("prompts/clip-ac.json")),
    ("clip-ac-7", include_str!("prompts/clip-ac-7.json")),
    ("clip-ac-35", include_str!("prompts/clip-ac-35.json")),
    (
        "clip-ac-winclip",
        include_str!("prompts/clip-ac-winclip.json"),
    ),
    ("winclip", include_str!("prompts/winclip.json")),
    ("inctrl", include_str!("prompts/inctrl.json")),
    ("april-gan", include_str!("prompts/april-gan.json")),
    ("maskclip", include_str!("prompts/maskclip.json")),
    ("denseclip", include_str!("prompts/denseclip.json")),
];

/// Words that describe normal and anomalous things.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ensemble {
    /// Where they come from.
    #[serde(default)]
    #[allow(dead_code, reason = "for people who read the file")]
    source: String,
    normal: Vec<String>,
    anomalous: Vec<String>,
    templates: Vec<String>,
    /// What becomes of underscores in the name of a class.
    #[serde(default)]
    underscores: Underscores,
    /// How the embeddings of prompts are averaged.
    #[serde(default)]
    mean: Mean,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Underscores {
    #[default]
    Spaces,
    Kept,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mean {
    /// Each is brought to length 1 before.
    #[default]
    Unit,
    /// As the network gives them.
    Raw,
}

impl Ensemble {
    /// The ensemble called `name`, or that of the file `name`; or why there is none.
    pub(crate) fn open(name: &str) -> Result<Self, String> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(text).map_err(|reason| format!("`{name}`: {reason}"));
        }
        let path = Path::new(name);
        if !path.is_file() {
            let known = BUILT_IN.map(|(known, _)| known);
            let hint = nearest(name, known).map_or(String::new(), |hint| format!(" (`{hint}`?)"));
            return Err(format!(
                "`{name}` is neither a file nor one of {}{hint}",
                known.join(", ")
            ));
        }
        let read = || {
            if std::fs::metadata(path)?.len() > MOST_BYTES {
                return Err(std::io::Error::other("it is larger than 1 MB"));
            }
            std::fs::read_to_string(path)
        };
        let text = read().map_err(|error| format!("{name} cannot be read: {error}"))?;
        Self::parse(&text).map_err(|reason| format!("{name}: {reason}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let found: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for (name, words) in [
            ("normal", &found.normal),
            ("anomalous", &found.anomalous),
            ("templates", &found.templates),
        ] {
            if words.is_empty() || !words.iter().all(|words| words.contains(PLACE)) {
                return Err(format!(
                    "`{name}` needs one entry at least, each with `{PLACE}` in it"
                ));
            }
        }
        Ok(found)
    }

    /// The prompts for `class`: normal, anomalous.
    pub(crate) fn prompts(&self, class: &str) -> [Vec<String>; 2] {
        let class = match self.underscores {
            Underscores::Spaces => class.replace('_', " "),
            Underscores::Kept => class.to_owned(),
        };
        [&self.normal, &self.anomalous].map(|states| {
            let states = states.iter().map(|state| state.replace(PLACE, &class));
            let each = states.flat_map(|state| {
                let templates = self.templates.iter();
                templates.map(move |template| template.replace(PLACE, &state))
            });
            each.collect()
        })
    }

    /// The embeddings of the prompts that the setting `prompts` of `method` names, for `class`, with the
    /// text encoder of `encoder`.
    pub(crate) fn texts_of(
        method: &'static str,
        encoder: &dyn ImageEncoder,
        prompts: &str,
        class: &str,
    ) -> Result<Texts, DetectorError> {
        let ensemble = Self::open(prompts)
            .map_err(|reason| DetectorError::settings(method, format!("`prompts`: {reason}")))?;
        ensemble.texts(&text_encoder(method, encoder, None)?, class)
    }

    /// The embeddings of both sides for `class`.
    pub(crate) fn texts(&self, text: &ClipText, class: &str) -> Result<Texts, DetectorError> {
        let [normal, anomalous] = self.prompts(class);
        Texts::of(text, [&normal, &anomalous], self.mean == Mean::Unit)
    }
}

/// The text encoder of `encoder`, which `method` cannot do without.
///
/// # Errors
/// That of the weights, or [`DetectorError::Settings`] if there is none.
pub(crate) fn text_encoder(
    method: &'static str,
    encoder: &dyn ImageEncoder,
    activation: Option<Activation>,
) -> Result<ClipText, DetectorError> {
    encoder.text(activation)?.ok_or_else(|| {
        let own = find(method).map(|method| method.info().weights);
        let example = match own {
            Ok(DefaultWeights::Clip(name)) => name,
            _ => "clip-vit-l14-336",
        };
        DetectorError::settings(
            method,
            format_args!("it needs a backbone with a text encoder, such as {example}"),
        )
    })
}

/// The embeddings of normal and of anomalous prompts, each of length 1.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Texts(pub(crate) [Vec<f32>; 2]);

impl Texts {
    /// The means of the embeddings of `prompts`, each of length 1 before if `unit`.
    pub(crate) fn of(
        text: &ClipText,
        prompts: [&[String]; 2],
        unit: bool,
    ) -> Result<Self, DetectorError> {
        let [normal, anomalous] = prompts;
        Ok(Self([
            mean(text, normal, unit)?,
            mean(text, anomalous, unit)?,
        ]))
    }

    /// The [`probability`] that something with this embedding is anomalous.
    pub(crate) fn probability(&self, embedding: &[f32], temperature: f32) -> f32 {
        probability(&self.0, embedding, temperature)
    }

    /// As a tensor of a detector file, `[2, width]`.
    pub(crate) fn array(&self) -> Array {
        let [normal, anomalous] = &self.0;
        Array {
            shape: vec![2, normal.len()],
            values: [normal.as_slice(), anomalous].concat(),
        }
    }

    /// From such a tensor.
    pub(crate) fn from_array(array: &Array) -> Option<Self> {
        match array.shape.as_slice() {
            &[2, width] if width > 0 && array.values.len() == 2 * width => {
                let (normal, anomalous) = array.values.split_at(width);
                Some(Self([normal.to_vec(), anomalous.to_vec()]))
            }
            _ => None,
        }
    }
}

/// The probability that something with this embedding is anomalous: the softmax of the cosines with the
/// normal and the anomalous of `texts`, divided by `temperature`.
pub(crate) fn probability(texts: &[Vec<f32>; 2], embedding: &[f32], temperature: f32) -> f32 {
    let length = dot(embedding, embedding).sqrt().max(f32::MIN_POSITIVE);
    let [normal, anomalous] = texts.each_ref().map(|text| dot(embedding, text) / length);
    let margin = (anomalous - normal) / temperature;
    1.0 / (1.0 + (-margin).exp())
}

fn mean(text: &ClipText, prompts: &[String], unit: bool) -> Result<Vec<f32>, DetectorError> {
    let mut sum = vec![0.0; text.config().embedding];
    for mut embedding in embeddings(text, prompts)? {
        if unit {
            normalise(&mut embedding);
        }
        sum.iter_mut().zip(embedding).for_each(|(sum, x)| *sum += x);
    }
    // Its length does not matter, so that the sum serves for the mean.
    normalise(&mut sum);
    Ok(sum)
}

/// The embedding of each of `prompts`, as the network gives it.
pub(crate) fn embeddings(
    text: &ClipText,
    prompts: &[String],
) -> Result<Vec<Vec<f32>>, DetectorError> {
    let tokenizer = Tokenizer::new();
    let context = text.config().context;
    let mut all = Vec::with_capacity(prompts.len());
    for prompts in prompts.chunks(BATCH) {
        let ids = prompts
            .iter()
            .map(|prompt| tokenizer.tokenize(prompt, context, TooLong::Truncate))
            .collect::<Result<Vec<_>, _>>()?;
        let ids = Tensor::from_vec(ids.concat(), (prompts.len(), context), &Device::Cpu)?;
        all.extend(text.encode(&ids)?.to_vec2::<f32>()?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ensemble_in_the_program_makes_its_prompts() {
        // (name, class, prompts of each side, the first normal and the last anomalous one)
        for (name, counts, first, last) in [
            (
                "clip",
                [1, 1],
                "a photo of a normal metal nut.",
                "a photo of an anomalous metal nut.",
            ),
            (
                "clip-ac",
                [80, 80],
                "a bad photo of a normal metal nut.",
                "a tattoo of the anomalous metal nut.",
            ),
            (
                "clip-ac-7",
                [7, 7],
                "itap of a normal metal nut.",
                "a photo of the small anomalous metal nut.",
            ),
            (
                "clip-ac-35",
                [35, 35],
                "a bad photo of a normal metal nut.",
                "this is one anomalous metal nut in the scene.",
            ),
            (
                "clip-ac-winclip",
                [1, 1],
                "normal metal nut",
                "anomalous metal nut",
            ),
            (
                "winclip",
                [147, 84],
                "a cropped photo of the metal nut.",
                "a photo of the metal nut with damage for anomaly detection.",
            ),
            (
                "inctrl",
                [154, 88],
                "a cropped photo of the metal nut.",
                "a photo of the metal nut with damage for anomaly detection.",
            ),
            (
                "april-gan",
                [245, 175],
                "a bad photo of a metal_nut.",
                "this is one metal_nut with damage in the scene.",
            ),
            (
                "maskclip",
                [85, 85],
                "a bad photo of a normal metal nut.",
                "this is one damaged metal nut in the scene.",
            ),
            ("denseclip", [1, 1], "normal metal nut", "damaged metal nut"),
        ] {
            let prompts = Ensemble::open(name).unwrap().prompts("metal_nut");
            assert_eq!(prompts.each_ref().map(Vec::len), counts, "{name}");
            assert_eq!(prompts[0][0], first, "{name}");
            assert_eq!(prompts[1].last().unwrap(), last, "{name}");
        }
    }

    #[test]
    fn prompts_that_cannot_be_used_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("p.json");
        let good = r#"{"normal": ["a good {}"], "anomalous": ["a bad {}"], "templates": ["{}!"]}"#;
        std::fs::write(&file, good).unwrap();
        let found = Ensemble::open(file.to_str().unwrap()).unwrap();
        assert_eq!(found.prompts("nut"), [["a good nut!"], ["a bad nut!"]]);
        for (name, text, expected) in [
            ("no JSON", "normal: {}", "expected"),
            (
                "nothing anomalous",
                r#"{"normal": ["{}"], "anomalous": [], "templates": ["{}"]}"#,
                "`anomalous` needs",
            ),
            (
                "no place for the class",
                r#"{"normal": ["good"], "anomalous": ["{}"], "templates": ["{}"]}"#,
                "`normal` needs",
            ),
            ("an unknown word", r#"{"normals": ["{}"]}"#, "unknown field"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = Ensemble::open(file.to_str().unwrap()).unwrap_err();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let error = Ensemble::open("clip-ca").unwrap_err();
        assert!(
            error.contains("neither a file nor one of clip, clip-ac"),
            "{error}"
        );
    }
}
