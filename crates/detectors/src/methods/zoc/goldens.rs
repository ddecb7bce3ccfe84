//! Against the original's code on a tiny network with seeded weights: embeddings, logits and tokens of every
//! step, words, candidates, probabilities, scores; the loss of captions.

use std::sync::Arc;

use anomalens_backbones::Activation;
use anomalens_backbones::checkpoint::{Checkpoint, read_torch, seeded_tensor};
use anomalens_backbones::clip::ClipVision;
use serde_json::json;

use super::decoder::Sizes;
use super::*;
use crate::testing::{Goldens, exact, flat, inputs, near, tiny_clip};

/// The pieces of the tiny decoder.
const PIECES: &str = "<pad> <s> </s> a photo of the on in with dog cat bird car truck ship horse deer frog \
    plane boat tree grass water sky street man woman child table chair cup bottle screw nut cable wood tile \
    metal glass red blue green white black small large two three sitting standing running flying field beach \
    room building road train bus";

const SEEN_LABELS: [&str; 6] = ["airplane", "automobile", "bird", "cat", "deer", "dog"];

/// The candidates of both images.
const CANDIDATES: [&[&str]; 2] = [
    &["water", "table", "of", "with", "</s>", "beach", "tile"],
    &["of", "horse", "water", "bottle", "running", "green"],
];

fn network() -> ClipVision {
    let architecture = tiny_clip();
    let checkpoint = Checkpoint::seeded(71, architecture.shapes());
    ClipVision::new(Arc::new(checkpoint), Some(Activation::QuickGelu), &exact()).unwrap()
}

fn decoder() -> Decoder {
    let sizes = Sizes {
        layers: 2,
        width: 64,
        middle: 128,
        vocabulary: 60,
        positions: 40,
        heads: 4,
    };
    let decoder = Decoder::random(sizes, 0).unwrap();
    for (name, var) in decoder.parameters() {
        let values = seeded_tensor(97, &format!("decoder.{name}"), var.dims()).unwrap();
        // These three have a deviation of 0.5 in place of the rule's.
        let scale = match name.as_str() {
            "bert.embeddings.word_embeddings.weight"
            | "bert.embeddings.position_embeddings.weight" => 0.5 * 8.0,
            "lm_head.bias" => 5.0,
            _ => 1.0,
        };
        var.set(&values.affine(scale, 0.0).unwrap()).unwrap();
    }
    decoder
}

fn vocabulary() -> Vocabulary {
    let lines: Vec<&str> = PIECES.split_whitespace().collect();
    Vocabulary::parse(&lines.join("\n")).unwrap()
}

fn settings() -> Settings {
    let given = json!({ "classes": SEEN_LABELS, "top": 5, "image_size": 56, "heads": 4 });
    let defaults = Settings::defaults(&network());
    defaults.replaced_by(given.as_object().unwrap()).unwrap()
}

fn detector(network: &ClipVision) -> ZocDetector {
    let text = network.text(None).unwrap().unwrap();
    let checked = Checked::new(settings()).unwrap();
    let embed = |texts: &[String]| embeddings(&text, texts);
    ZocDetector::new(checked, decoder(), &vocabulary(), &embed).unwrap()
}

#[test]
fn every_step_and_score_is_the_originals() {
    let goldens = Goldens::load("zoc_tiny.safetensors");
    let network = network();
    let detector = detector(&network);
    let request = &detector.checked.profile.input.request;
    let images = network
        .encode(&inputs(goldens.get("images")), request)
        .unwrap();
    let labels = vocabulary().words(&SEEN_LABELS.map(str::to_owned)).labels;
    for (i, image) in images.iter().enumerate() {
        let expected = |part: &str| goldens.values(&format!("{i}.{part}"));
        let embedding = image.embedding.as_ref().unwrap();
        near("clip_embed", embedding, &expected("clip_embed"), 2e-5);
        let row = goldens.get(&format!("{i}.clip_embed"));
        let generated = detector.decoder.generate(row, 1, 9).unwrap();
        near(
            "step_logits",
            &generated.logits.concat(),
            &expected("step_logits"),
            5e-5,
        );
        assert_eq!(generated.tokens, goldens.indices(&format!("{i}.tokens")));
        let top = generated.logits.iter().flat_map(|logits| best(logits, 5));
        assert_eq!(
            top.collect::<Vec<_>>(),
            goldens.indices(&format!("{i}.topk"))
        );

        let candidates = detector.candidates(embedding).unwrap();
        let mut order: Vec<usize> = candidates.iter().copied().collect();
        let place = |word: &usize| {
            CANDIDATES[i]
                .iter()
                .position(|label| *label == labels[*word])
        };
        order.sort_by_key(place);
        let found: Vec<&str> = order.iter().map(|&word| labels[word].as_str()).collect();
        assert_eq!(found, CANDIDATES[i]);
        let words = order.iter().map(|&word| &detector.words[word]);
        let texts: Vec<f32> = detector
            .seen
            .iter()
            .chain(words)
            .flatten()
            .copied()
            .collect();
        near("text_features", &texts, &expected("text_features"), 2e-5);
        let found = detector.probabilities(embedding, &candidates);
        let (seen, rest) = found.split_at(6);
        // In the golden's order.
        let rest = order.iter().map(|word| {
            let at = candidates.iter().position(|candidate| candidate == word);
            rest[at.unwrap()]
        });
        let found: Vec<f32> = seen.iter().copied().chain(rest).collect();
        near("probs", &found, &expected("probs"), 2e-5);
        let scored = detector.score(&[image]).unwrap();
        near("score", &[scored[0].score], &expected("score"), 2e-5);
    }
}

#[test]
fn the_loss_of_captions_is_the_originals() {
    let goldens = Goldens::load("zoc_tiny.safetensors");
    let decoder = decoder();
    let ids = goldens.indices("train.ids");
    let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
    let ids = Tensor::from_vec(ids, (2, 7), &Device::Cpu).unwrap();
    let embeddings = ["0.clip_embed", "1.clip_embed"].map(|name| goldens.get(name));
    let embeddings = Tensor::cat(&embeddings, 0).unwrap();
    let loss = decoder.loss(&ids, &[7, 7], &embeddings).unwrap();
    near(
        "train.loss",
        &[loss.to_scalar().unwrap()],
        &goldens.values("train.loss"),
        1e-5,
    );
    // Every parameter learns but what has no part in the result.
    let gradients = loss.backward().unwrap();
    for (name, var) in decoder.parameters() {
        let gradient = gradients.get(&var).map(flat).unwrap_or_default();
        let learns = gradient.iter().any(|x| *x != 0.0);
        let idle = ["crossattention.self.query", "crossattention.self.key"];
        assert_eq!(
            learns,
            !idle.iter().any(|part| name.contains(part)),
            "{name}"
        );
    }
    // What is behind the end of a caption does not count.
    let short = decoder.loss(&ids.narrow(1, 0, 4).unwrap(), &[4, 4], &embeddings);
    let padded = decoder.loss(&ids, &[4, 4], &embeddings).unwrap();
    near("padded", &flat(&padded), &flat(&short.unwrap()), 1e-6);
}

#[test]
fn a_checkpoint_of_the_original_survives_writing_and_reading() {
    let (network, folder) = (network(), tempfile::tempdir().unwrap());
    let path = folder.path().join("model.pt");
    let pieces = folder.path().join("spiece.vocab");
    let lines: Vec<&str> = PIECES.split_whitespace().collect();
    std::fs::write(&pieces, lines.join("\n")).unwrap();
    decoder().write(&path, 3, 7.5).unwrap();
    let state = read_torch(&path).unwrap();
    // 26 tensors of each block, 5 around them, and the last layer under its second name.
    assert_eq!(state.len(), 2 * 26 + 5 + 3);
    let find = |name: &str| state.iter().find(|(n, _)| n == name).unwrap().1.clone();
    for name in [
        "bert.encoder.layer.1.crossattention.output.LayerNorm.weight",
        "lm_head.decoder.weight",
        "lm_head.decoder.bias",
    ] {
        assert!(find(name).elem_count() > 0);
    }
    assert_eq!(find("bert.embeddings.position_ids").dims(), [1, 40]);

    let mut given = settings().to_json();
    given.insert("vocabulary".to_owned(), json!(pieces));
    let fit = |given: &MethodSettings| {
        Zoc.fit(&FitContext {
            trained: Some(&path),
            ..FitContext::new(given, &network)
        })
    };
    let fitted = fit(&given).unwrap();
    assert_eq!(fitted.state().tensors, detector(&network).state().tensors);
    let again = Zoc.load(fitted.state()).unwrap();
    assert_eq!(again.state(), fitted.state());
    for (name, value, expected) in [
        ("heads", json!(7), "must divide the decoder's width, 64"),
        ("start", json!(60), "`start` is no token"),
        ("vocabulary", json!(""), "vocabulary=FILE"),
    ] {
        let mut given = given.clone();
        given.insert(name.to_owned(), value);
        let message = fit(&given).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    }
    std::fs::write(&pieces, "a\nb").unwrap();
    let message = fit(&given).err().unwrap().to_string();
    assert!(
        message.contains("60 tokens, but `vocabulary` has 2"),
        "{message}"
    );

    let mut state = fitted.state();
    state.tensors.get_mut(WORD_OF).unwrap().values[3] = 0.5;
    assert!(Zoc.load(state).is_err());
}

#[test]
fn captions_are_found_by_the_names_of_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("captions.json");
    let file = json!({
        "info": {},
        "images": [{ "id": 7, "file_name": "a.jpg" }, { "id": 8, "file_name": "b.jpg" }],
        "annotations": (0..6).map(|i| json!({ "id": i, "image_id": 7, "caption": i.to_string() }))
            .collect::<Vec<_>>(),
    });
    std::fs::write(&path, file.to_string()).unwrap();
    let found = train::captions(path.to_str().unwrap()).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found["a.jpg"], ["0", "1", "2", "3", "4"]);
    std::fs::write(&path, "[]").unwrap();
    assert!(train::captions(path.to_str().unwrap()).is_err());
}
