//! CLIP's tensors from files of OpenAI, OpenCLIP and Hugging Face are the same under one name.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anomalens_backbones::Activation;
use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::{ActivationSource, Architecture, ClipTensors, Origin};
use candle_core::{Device, Tensor};

const BLOCK: &str = "transformer.resblocks.0";

fn openai() -> Checkpoint {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/torchscript.pt");
    Checkpoint::open(&path).unwrap()
}

fn tensor(checkpoint: &Checkpoint, name: &str) -> Tensor {
    let shape = checkpoint.shape(name).unwrap();
    checkpoint.tensor(name, shape, &Device::Cpu).unwrap()
}

/// The tensors of the OpenAI archive as another writer would store them.
fn renamed(rename: impl Fn(&str, Tensor) -> Vec<(String, Tensor)>) -> HashMap<String, Tensor> {
    let checkpoint = openai();
    checkpoint
        .names()
        .filter(|name| *name != "input_resolution")
        .flat_map(|name| rename(name, tensor(&checkpoint, name)))
        .collect()
}

fn hugging_face() -> HashMap<String, Tensor> {
    const RENAMED: [(&str, &str); 14] = [
        ("transformer.resblocks.", "encoder.layers."),
        ("ln_pre", "pre_layrnorm"),
        ("ln_post", "post_layernorm"),
        ("ln_final", "final_layer_norm"),
        ("ln_", "layer_norm"),
        ("attn.", "self_attn."),
        ("c_fc", "fc1"),
        ("c_proj", "fc2"),
        ("class_embedding", "embeddings.class_embedding"),
        ("token_embedding", "embeddings.token_embedding"),
        ("conv1", "embeddings.patch_embedding"),
        (
            "positional_embedding",
            "embeddings.position_embedding.weight",
        ),
        ("in_proj_weight", "in_proj.weight"),
        ("in_proj_bias", "in_proj.bias"),
    ];
    renamed(|name, tensor| {
        match name {
            "logit_scale" => return vec![(name.to_owned(), tensor)],
            "visual.proj" | "text_projection" => {
                let (tower, _) = name.split_once(['.', '_']).unwrap();
                let turned = tensor.t().unwrap().contiguous().unwrap();
                return vec![(format!("{tower}_projection.weight"), turned)];
            }
            _ => {}
        }
        let (model, rest) = match name.strip_prefix("visual.") {
            Some(rest) => ("vision_model", rest),
            None => ("text_model", name),
        };
        let rest = RENAMED
            .iter()
            .fold(rest.to_owned(), |name, (from, to)| name.replace(from, to));
        let name = format!("{model}.{rest}");
        if !name.contains("in_proj.") {
            return vec![(name, tensor)];
        }
        let parts = tensor.chunk(3, 0).unwrap();
        ["q_proj", "k_proj", "v_proj"]
            .iter()
            .zip(parts)
            .map(|(part, tensor)| (name.replace("in_proj", part), tensor))
            .collect()
    })
}

fn custom_text() -> HashMap<String, Tensor> {
    renamed(|name, tensor| {
        let plain = name.starts_with("visual.") || name == "logit_scale";
        let prefix = if plain { "" } else { "text." };
        vec![(format!("{prefix}{name}"), tensor)]
    })
}

#[test]
fn every_origin_gives_the_same_tensors() {
    let expected = openai();
    let made = |tensors| Checkpoint::from_tensors("made/file", tensors);
    let plain = renamed(|name, tensor| vec![(name.to_owned(), tensor)]);
    for (case, checkpoint, origin, activation) in [
        ("archive", openai(), Origin::OpenAi, Activation::QuickGelu),
        ("OpenCLIP", made(plain), Origin::OpenClip, Activation::Gelu),
        (
            "custom text",
            made(custom_text()),
            Origin::OpenClip,
            Activation::Gelu,
        ),
        (
            "Hugging Face",
            made(hugging_face()),
            Origin::HuggingFace,
            Activation::QuickGelu,
        ),
    ] {
        let tensors = ClipTensors::new(&checkpoint).expect(case);
        assert_eq!(tensors.origin(), origin, "{case}");
        assert_eq!(tensors.activation().unwrap().0, activation, "{case}");
        assert_eq!(
            tensors.count("visual.transformer.resblocks", "ln_1.bias"),
            1
        );
        for name in expected.names().filter(|name| *name != "input_resolution") {
            let shape = expected.shape(name).unwrap();
            assert_eq!(tensors.shape(name).as_deref(), Some(shape), "{case} {name}");
            let found = tensors.tensor(name, shape, &Device::Cpu).unwrap();
            let difference = (found - tensor(&expected, name)).unwrap().abs().unwrap();
            let sum: f32 = difference.sum_all().unwrap().to_scalar().unwrap();
            assert_eq!(sum, 0.0, "{case} {name}");
        }
        assert!(!tensors.contains("visual.transformer.resblocks.1.ln_1.bias"));
    }
}

#[test]
fn tensors_that_do_not_fit_are_called_as_in_the_file() {
    let checkpoint = Checkpoint::from_tensors("made", hugging_face());
    let tensors = ClipTensors::new(&checkpoint).unwrap();
    let in_proj = format!("{BLOCK}.attn.in_proj_weight");
    let cases: [(&str, &[usize], [&str; 3]); 4] = [
        (
            "visual.proj",
            &[4, 5],
            ["visual_projection.weight", "[3, 4]", "[5, 4]"],
        ),
        (
            &in_proj,
            &[12, 2],
            [
                "text_model.encoder.layers.0.self_attn.q_proj.weight",
                "[2, 2]",
                "[4, 2]",
            ],
        ),
        (
            "visual.ln_pre.weight",
            &[5],
            ["vision_model.pre_layrnorm.weight", "[4]", "[5]"],
        ),
        (
            "visual.transformer.resblocks.7.ln_1.bias",
            &[4],
            [
                "vision_model.encoder.layers.7.layer_norm1.bias",
                "lack",
                "[4]",
            ],
        ),
    ];
    for (name, expected, parts) in cases {
        let error = tensors.tensor(name, expected, &Device::Cpu).unwrap_err();
        let message = error.to_string();
        assert!(
            parts.iter().all(|part| message.contains(part)),
            "{name}: {message}"
        );
    }
}

#[test]
fn a_file_beside_the_weights_tells_the_activation() {
    let clip = |act: &str| format!(r#"{{"model_type": "clip", "vision_config": {{{act}}}}}"#);
    let quick = r#"{"model_cfg": {"quick_gelu": true}}"#.to_owned();
    let openclip = || renamed(|name, tensor| vec![(name.to_owned(), tensor)]);
    // File beside, its content, the weights, the activation or a part of the message.
    type Case = (
        &'static str,
        String,
        HashMap<String, Tensor>,
        Result<Activation, &'static str>,
    );
    let cases: [Case; 6] = [
        (
            "config.json",
            clip(r#""hidden_act": "gelu""#),
            hugging_face(),
            Ok(Activation::Gelu),
        ),
        (
            "config.json",
            clip(""),
            hugging_face(),
            Ok(Activation::QuickGelu),
        ),
        (
            "config.json",
            clip(r#""hidden_act": "relu""#),
            hugging_face(),
            Err("`relu`"),
        ),
        (
            "config.json",
            r#"{"model_type": "dinov2", "hidden_act": "gelu"}"#.to_owned(),
            hugging_face(),
            Ok(Activation::QuickGelu),
        ),
        (
            "config.json",
            "no JSON".to_owned(),
            hugging_face(),
            Ok(Activation::QuickGelu),
        ),
        (
            "open_clip_config.json",
            quick,
            openclip(),
            Ok(Activation::QuickGelu),
        ),
    ];
    for (beside, content, tensors, expected) in cases {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(beside), &content).unwrap();
        let path: PathBuf = folder.path().join("model.safetensors");
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let found = ClipTensors::new(&checkpoint).unwrap().activation();
        match (found, expected) {
            (Ok((found, _)), Ok(expected)) => assert_eq!(found, expected, "{content}"),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, _) => panic!("{content}: {found:?}"),
        }
    }
}

/// State dicts of OpenAI's models in Python carry nothing that tells them from OpenCLIP's but their
/// sizes.
#[test]
fn sizes_of_openai_mean_quick_gelu_unless_something_says_otherwise() {
    let shapes = |name: &str| Architecture::named(name).unwrap().shapes();
    let custom_text = |shapes: Vec<(String, Vec<usize>)>| -> Vec<(String, Vec<usize>)> {
        let renamed = shapes.into_iter().map(|(name, shape)| {
            let plain = name.starts_with("visual.") || name == "logit_scale";
            (format!("{}{name}", if plain { "" } else { "text." }), shape)
        });
        renamed.collect()
    };
    let quick = (Activation::QuickGelu, ActivationSource::OpenAiSizes);
    let exact = (Activation::Gelu, ActivationSource::OtherModel);
    for (name, expected) in [
        ("clip-vit-b32", quick),
        ("clip-vit-b16", quick),
        ("clip-vit-l14", quick),
        ("clip-vit-l14-336", quick),
        ("clip-vit-b16-plus-240", exact),
        ("clip-vit-h14", exact),
    ] {
        let checkpoint = Checkpoint::seeded(1, shapes(name));
        let tensors = ClipTensors::new(&checkpoint).unwrap();
        assert_eq!(tensors.activation().unwrap(), expected, "{name}");
        let checkpoint = Checkpoint::seeded(1, custom_text(shapes(name)));
        let tensors = ClipTensors::new(&checkpoint).unwrap();
        assert_eq!(tensors.activation().unwrap(), exact, "{name}, custom text");
    }
    // A small file of the sizes of B/32, with and without a configuration beside it.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let whole = Checkpoint::seeded(1, shapes("clip-vit-b32"));
    let one_block = whole.names().filter(|name| {
        let later = (1..12).any(|i| name.contains(&format!("resblocks.{i}.")));
        name.starts_with("visual.") && !later
    });
    let tensors: HashMap<String, Tensor> = one_block
        .map(|name| (name.to_owned(), tensor(&whole, name)))
        .collect();
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let activation = || {
        let checkpoint = Checkpoint::open(&path).unwrap();
        ClipTensors::new(&checkpoint).unwrap().activation().unwrap()
    };
    assert_eq!(activation(), exact, "OpenAI has none of one block");
    for (config, expected) in [
        (
            r#"{"model_cfg": {"quick_gelu": true}}"#,
            Activation::QuickGelu,
        ),
        (r#"{"model_cfg": {"quick_gelu": false}}"#, Activation::Gelu),
        (r#"{"model_cfg": {}}"#, Activation::Gelu),
    ] {
        std::fs::write(folder.path().join("open_clip_config.json"), config).unwrap();
        assert_eq!(
            activation(),
            (expected, ActivationSource::Config),
            "{config}"
        );
    }
}

#[test]
fn other_networks_are_not_recognised() {
    let zeros = |names: &[&str]| {
        let shapes = names.iter().map(|name| (name.to_string(), vec![2, 2]));
        Checkpoint::seeded(1, shapes)
    };
    for names in [
        &["embeddings.cls_token"][..],
        &["visual.class_embedding"],
        &["visual.conv1.weight", "visual.layer1.0.conv1.weight"],
        &[],
    ] {
        assert_eq!(Origin::of(&zeros(names)), None, "{names:?}");
    }
}
