//! Detector files, what was trained and published, and settings.

use std::collections::HashSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anomalens_backbones::checkpoint::write_torch_dicts;
use anomalens_backbones::clip::ClipVision;
use anomalens_backbones::{ImageEncoder, Kernels, Precision};
use anomalens_detectors::{
    BackboneRef, DEFAULT_METHOD, DefaultWeights, Detector, DetectorFile, FitContext, ImageSource,
    InputSpec, MethodSettings, Need, Provenance, ReferenceImage, StreamOptions, find, methods,
    predict,
};
use anomalens_vision::Image;
use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use crate::encoder::MeanColour;
use crate::in_file;
use crate::weights::{numbers, tiny_clip, torch};

/// A picture with a spot.
fn picture(shade: u8) -> Image {
    const SIDE: usize = 56;
    let pixels = (0..SIDE * SIDE)
        .flat_map(|i| match (i / SIDE < 20, i % SIDE > 30) {
            (true, true) => [250, 240, shade],
            _ => [shade, (i % SIDE) as u8, 120],
        })
        .collect();
    Image::new(SIDE as u32, SIDE as u32, pixels).unwrap()
}

fn references() -> &'static [ReferenceImage] {
    static REFERENCES: OnceLock<Vec<ReferenceImage>> = OnceLock::new();
    REFERENCES.get_or_init(|| {
        let reference = |shade| ReferenceImage::new(format!("{shade}.png"), picture(shade));
        [80, 90].map(reference).to_vec()
    })
}

/// A small CLIP with a text encoder.
fn clip() -> &'static ClipVision {
    static CLIP: OnceLock<ClipVision> = OnceLock::new();
    CLIP.get_or_init(|| {
        let kernels = Kernels::from_env(Precision::F32).unwrap();
        ClipVision::new(Arc::new(tiny_clip()), None, &kernels).unwrap()
    })
}

/// The pieces of a small vocabulary.
const PIECES: &str = "<s>\t0\n</s>\t0\n\u{2581}a\t-1\n\u{2581}spot\t-2.5";

/// A file of them.
fn vocabulary_file() -> &'static Path {
    static FILE: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    let file = FILE.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, PIECES).unwrap();
        file
    });
    file.path()
}

/// Settings under which every method looks at blocks that are there, and at small images.
fn settings_of(method: &str, block: usize) -> MethodSettings {
    let mut settings = MethodSettings::new();
    settings.insert("image_size".to_owned(), json!(56));
    match method {
        "anomaly-dino" | "clip" | "clip-ac" | "winclip" | "coop" | "maskclip" => {
            settings.insert("block".to_owned(), json!(block))
        }
        "denseclip" => {
            settings.insert("block".to_owned(), json!(block));
            settings.insert("decoder_width".to_owned(), json!(8));
            settings.insert("decoder_layers".to_owned(), json!(1))
        }
        "clip-ad" => None,
        "zoc" => {
            settings.insert("vocabulary".to_owned(), json!(vocabulary_file()));
            settings.insert("layers".to_owned(), json!(1))
        }
        // Its network has no blocks to choose from.
        "regad" => settings.insert("image_size".to_owned(), json!(32)),
        _ => settings.insert("blocks".to_owned(), json!([block])),
    };
    settings
}

/// A detector file, and its scores of two images.
pub(crate) fn detector(bytes: &[u8]) -> bool {
    in_file("nut.detector", bytes, |path| {
        match DetectorFile::load(path) {
            Ok(file) => {
                let _ = file.identity();
                score(file.detector.as_ref());
                true
            }
            Err(error) => {
                let _ = error.to_string();
                false
            }
        }
    })
}

fn score(detector: &dyn Detector) {
    // What it claims to need must not be followed into a large image.
    let profile = detector.profile();
    let is_small = |input: &InputSpec| {
        let size = input.preprocess.output_size(56, 56);
        size.is_ok_and(|(height, width)| height.saturating_mul(width) <= 512 * 512)
    };
    if !is_small(&profile.input) || !profile.further.iter().all(is_small) {
        return;
    }
    let sources = [80, 200].map(|shade| ImageSource::Memory {
        name: shade.to_string(),
        image: Arc::new(picture(shade)),
    });
    let _ = predict(
        &MeanColour,
        &[detector],
        &sources,
        &HashSet::new(),
        &StreamOptions::default(),
        &mut |outcome| {
            let _ = outcome
                .result
                .map(|prediction| prediction.smooth_map(56, 56));
            ControlFlow::Continue(())
        },
    );
}

/// A file of each method, and one of a detector that sees images in two ways.
pub(crate) fn files() -> Vec<Vec<u8>> {
    let file = |detector: Box<dyn Detector>| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nut.detector");
        let file = DetectorFile {
            detector,
            levels: anomalens_vision::Levels::default(),
            backbone: BackboneRef {
                name: "mean colour".to_owned(),
                sha256: "0".repeat(64),
                precision: Precision::F32,
                activation: None,
                companions: vec![],
            },
            provenance: Provenance {
                command: "anomalens fit".to_owned(),
                data: "2 normal images".to_owned(),
                date: "2026-01-01T00:00:00Z".to_owned(),
                version: "0.1.0".to_owned(),
                losses: vec![],
            },
            calibration: None,
        };
        file.save(&path).unwrap();
        fs::read(path).unwrap()
    };
    let two_looks = json!({ "tiles": 28, "overview": true });
    let lens = find(DEFAULT_METHOD).unwrap();
    let plain = methods().iter().map(|method| (*method, json!({})));
    plain
        .chain([(lens, two_looks)])
        .map(|(method, more)| {
            let name = method.info().name;
            let mut settings = settings_of(name, 6);
            settings.extend(more.as_object().unwrap().clone());
            let encoder: &dyn ImageEncoder = match method.info().weights {
                DefaultWeights::Clip(_) => {
                    for (name, block) in [("block", json!(1)), ("blocks", json!([1]))] {
                        if let Some(setting) = settings.get_mut(name) {
                            *setting = block;
                        }
                    }
                    clip()
                }
                _ => &MeanColour,
            };
            if name == "anomalyclip" {
                settings.insert("prompt".to_owned(), json!("embedding"));
            }
            let context = FitContext::new(&settings, encoder).with_references(references());
            let requirements = method.info().requirements;
            match method.trainer() {
                Some(trainer) if requirements.training == Need::Required => {
                    let untrained = trainer.untrained(&context, 1).unwrap();
                    match requirements.references {
                        Need::Required => {
                            let state = untrained.state();
                            method.update_references(state, &context, &[]).unwrap()
                        }
                        _ => untrained,
                    }
                }
                _ => method.fit(&context).unwrap(),
            }
        })
        .map(file)
        .collect()
}

/// What was trained with method `name`, from a file.
fn fit(name: &str, trained: &[u8]) -> bool {
    let settings = settings_of(name, 1);
    in_file("epoch_15.pth", trained, |path| {
        fitted(name, &settings, path)
    })
}

fn fitted(name: &str, settings: &MethodSettings, trained: &Path) -> bool {
    let context = FitContext {
        trained: Some(trained),
        ..FitContext::new(settings, clip()).with_references(references())
    };
    match find(name).unwrap().fit(&context) {
        Ok(_) => true,
        Err(error) => {
            let _ = error.to_string();
            false
        }
    }
}

/// Learned prompts as the authors of AnomalyCLIP publish them.
pub(crate) fn anomalyclip(bytes: &[u8]) -> bool {
    fit("anomalyclip", bytes)
}

pub(crate) fn prompts() -> Vec<Vec<u8>> {
    let named = |tensors: &[(&str, &[usize])]| -> Vec<(String, Tensor)> {
        let tensor = |&(name, shape): &(&str, &[usize])| (name.to_owned(), numbers(shape));
        tensors.iter().map(tensor).collect()
    };
    let contexts: [(&str, &[usize]); 2] =
        [("ctx_pos", &[1, 1, 12, 64]), ("ctx_neg", &[1, 1, 12, 64])];
    let deep: [(&str, &[usize]); 1] = [("compound_prompts_text.0", &[4, 64])];
    vec![
        torch(Some("prompt_learner"), &named(&contexts)),
        torch(
            Some("prompt_learner"),
            &named(&[&contexts[..], &deep].concat()),
        ),
    ]
}

/// Learned heads as the authors of InCTRL publish them.
pub(crate) fn inctrl(bytes: &[u8]) -> bool {
    fit("inctrl", bytes)
}

pub(crate) fn heads() -> Vec<Vec<u8>> {
    vec![untrained("inctrl", None)]
}

/// Learned tokens as the original of CoOp saves them.
pub(crate) fn coop(bytes: &[u8]) -> bool {
    fit("coop", bytes)
}

pub(crate) fn contexts() -> Vec<Vec<u8>> {
    let one = |shape: &[usize]| {
        let context = ("ctx".to_owned(), numbers(shape));
        let prefix = ("token_prefix".to_owned(), numbers(&[2, 1, 64]));
        torch(Some("state_dict"), &[context, prefix])
    };
    vec![one(&[16, 64]), one(&[2, 4, 64])]
}

/// A decoder and contexts as the authors of DenseCLIP publish them.
pub(crate) fn denseclip(bytes: &[u8]) -> bool {
    fit("denseclip", bytes)
}

pub(crate) fn context_decoders() -> Vec<Vec<u8>> {
    vec![untrained("denseclip", Some("state_dict"))]
}

/// A learned network as the original of ACR saves it.
pub(crate) fn acr(bytes: &[u8]) -> bool {
    fit("acr", bytes)
}

pub(crate) fn networks() -> Vec<Vec<u8>> {
    vec![untrained("acr", None)]
}

/// Linear layers as the authors of APRIL-GAN publish them.
pub(crate) fn april_gan(bytes: &[u8]) -> bool {
    fit("april-gan", bytes)
}

pub(crate) fn linear_layers() -> Vec<Vec<u8>> {
    vec![untrained("april-gan", Some("trainable_linearlayer"))]
}

/// A decoder as the authors of ZOC keep it.
pub(crate) fn zoc(bytes: &[u8]) -> bool {
    fit("zoc", bytes)
}

pub(crate) fn decoders() -> Vec<Vec<u8>> {
    vec![untrained("zoc", Some("net"))]
}

/// The pieces of words that a decoder of four tokens writes.
pub(crate) fn vocabulary(bytes: &[u8]) -> bool {
    static DECODER: OnceLock<tempfile::NamedTempFile> = OnceLock::new();
    let decoder = DECODER.get_or_init(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, &decoders()[0]).unwrap();
        file
    });
    in_file("spiece.vocab", bytes, |path| {
        let mut settings = settings_of("zoc", 1);
        settings.insert("vocabulary".to_owned(), json!(path));
        fitted("zoc", &settings, decoder.path())
    })
}

pub(crate) fn vocabularies() -> Vec<Vec<u8>> {
    vec![
        PIECES.as_bytes().to_vec(),
        "\u{2581}a\n<s>\n\u{2581}\nspot".as_bytes().to_vec(),
    ]
}

/// What training of method `name` starts from, as a state dict.
fn untrained(name: &str, outer_key: Option<&str>) -> Vec<u8> {
    let settings = settings_of(name, 1);
    let context = FitContext::new(&settings, clip());
    let method = find(name).unwrap();
    let untrained = method.trainer().unwrap().untrained(&context, 1).unwrap();
    let tensors: Vec<(String, Tensor)> = untrained
        .state()
        .tensors
        .into_iter()
        .map(|(name, array)| {
            let tensor = Tensor::from_vec(array.values, array.shape, &Device::Cpu).unwrap();
            (name, tensor)
        })
        .collect();
    torch(outer_key, &tensors)
}

/// Learned networks as the authors of RegAD publish them.
pub(crate) fn regad(bytes: &[u8]) -> bool {
    fit("regad", bytes)
}

pub(crate) fn registrations() -> Vec<Vec<u8>> {
    let settings = settings_of("regad", 1);
    let context = FitContext::new(&settings, &MeanColour);
    let method = find("regad").unwrap();
    let untrained = method.trainer().unwrap().untrained(&context, 1).unwrap();
    // The parts follow each other.
    let tensors: Vec<(String, Tensor)> = untrained
        .state()
        .tensors
        .into_iter()
        .map(|(name, array)| {
            let tensor = Tensor::from_vec(array.values, array.shape, &Device::Cpu).unwrap();
            (name, tensor)
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    write_torch_dicts(&path, &tensors).unwrap();
    vec![fs::read(path).unwrap()]
}

/// Settings as `--set NAME=VALUE` gives them, a line each, for every method.
pub(crate) fn settings(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    let given: MethodSettings = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            (name.to_owned(), value)
        })
        .collect();
    // Large images are allowed, and slow.
    let large = |name: &str| given.get(name).and_then(Value::as_u64).unwrap_or(0) > 512;
    if large("image_size") {
        return false;
    }
    let accepted = methods().iter().filter(|method| {
        let context = FitContext::new(&given, &MeanColour).with_references(references());
        match method.fit(&context) {
            Ok(detector) => {
                score(detector.as_ref());
                true
            }
            Err(error) => {
                let _ = error.to_string();
                false
            }
        }
    });
    accepted.count() > 0
}

pub(crate) fn some_settings() -> Vec<Vec<u8>> {
    [
        "image_size=56\nblock=6\nrotation=false\nmasking=\"on\"\ntop_fraction=0.01",
        "image_size=56\nblocks=[3, 6, 9]\ndegrees=[1, 3]",
        "image_size=56\nblocks=[6, 9]\nevidence=\"own-image\"\ntta=2",
        "image_size=56",
        "image_size=56\nvariant=\"anomalib\"\ncoreset=0.5\nneighbours=9",
        "image_size=56\ncrop=42\nblocks=[3, 6]\npooled=9\nliteral_chunks=true",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
