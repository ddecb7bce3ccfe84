//! Packed weights: the same features as from the original, and nothing is trusted that is not whole.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anomalens_backbones::checkpoint::seeded_tensor;
use anomalens_backbones::clip::{Architecture, TextConfig, VisionConfig};
use anomalens_backbones::weights::Store;
use anomalens_backbones::{
    Activation, Backbone, BackboneError, Embedding, FeatureRequest, ImageEncoder, ImageFeatures,
    LayerId, LayerInfo, Precision, SharedBytes, TokenStage, load_encoder, open_packed,
    write_packed,
};
use anomalens_vision::Preprocessed;
use candle_core::Tensor;

/// Writes a small CLIP image encoder of three blocks.
fn write_network(path: &Path) {
    let architecture = Architecture {
        vision: VisionConfig {
            width: 64,
            blocks: 3,
            heads: 1,
            patch: 7,
            position_side: 3,
            embedding: 24,
        },
        text: TextConfig {
            width: 64,
            blocks: 0,
            heads: 1,
            context: 2,
            vocabulary: 2,
            embedding: 24,
        },
        activation: Activation::Gelu,
    };
    let shapes = architecture.shapes().into_iter();
    let tensors: HashMap<String, Tensor> = shapes
        .filter(|(name, _)| name.starts_with("visual."))
        .map(|(name, shape)| {
            let tensor = seeded_tensor(3, &name, &shape).unwrap();
            (name, tensor)
        })
        .collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn request(blocks: &[usize], embedding: Option<Embedding>) -> FeatureRequest {
    FeatureRequest {
        embedding,
        ..FeatureRequest::blocks(blocks.iter().copied()).at(TokenStage::Projected)
    }
}

fn encode(
    encoder: &dyn ImageEncoder,
    request: &FeatureRequest,
) -> Result<Vec<ImageFeatures>, BackboneError> {
    let values: Vec<f32> = (0..2 * 3 * 14 * 28)
        .map(|i| (i as f32 * 0.37).cos())
        .collect();
    let image = |values: &[f32]| Preprocessed {
        height: 14,
        width: 28,
        values: values.to_vec(),
    };
    let images: Vec<_> = values.chunks(3 * 14 * 28).map(image).collect();
    encoder.encode(&images, request)
}

fn shared(bytes: &[u8]) -> SharedBytes {
    SharedBytes::read(bytes, bytes.len()).unwrap()
}

fn open(path: &Path) -> Result<Arc<dyn ImageEncoder>, String> {
    let network = open_packed(shared(&std::fs::read(path).unwrap()));
    network
        .map(|n| n.encoder)
        .map_err(|error| error.to_string())
}

#[test]
fn packed_weights_give_the_features_of_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let (original, packed) = (folder.path().join("original"), folder.path().join("packed"));
    write_network(&original);
    let everything = request(&[1, 2, 3], Some(Embedding::Normed));
    for precision in Precision::ALL {
        let expected = load_encoder(&original, precision).unwrap();
        let features = encode(expected.as_ref(), &everything).unwrap();

        write_packed(&original, precision, None, &packed).unwrap();
        let whole = open(&packed).unwrap();
        assert_eq!(whole.spec(), expected.spec());
        let spec = whole.spec();
        assert_eq!((spec.embedding, spec.multiple), (24, 7));
        let layer = |number| LayerInfo {
            id: LayerId::Block(number),
            dim: 64,
            stride: 7,
        };
        assert_eq!(spec.layers, [1, 2, 3].map(layer));
        assert!(whole.text(None).unwrap().is_none());
        assert_eq!(encode(whole.as_ref(), &everything).unwrap(), features);

        write_packed(&original, precision, Some(2), &packed).unwrap();
        let bytes = std::fs::read(&packed).unwrap();
        let part = open_packed(shared(&bytes)).unwrap();
        assert_eq!(part.precision, precision);
        let part = part.encoder;
        assert_eq!(
            part.spec().blocks(),
            3,
            "what the network has, not what is held"
        );
        let found = encode(part.as_ref(), &request(&[1, 2], None)).unwrap();
        for (found, expected) in found.iter().zip(&features) {
            assert_eq!(found.maps, expected.maps[..2]);
        }
        for (blocks, embedding) in [(&[3][..], None), (&[1], Some(Embedding::Direct))] {
            let error = encode(part.as_ref(), &request(blocks, embedding)).unwrap_err();
            assert!(matches!(
                error,
                BackboneError::BlockNotHeld {
                    block: 3,
                    held: 2,
                    ..
                }
            ));
        }
    }
}

#[test]
fn what_is_not_whole_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (original, path) = (folder.path().join("original"), folder.path().join("packed"));
    write_network(&original);
    write_packed(&original, Precision::Int8, None, &path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] ^= byte;
        bytes
    };
    let cases = [
        ("empty", vec![], "start like"),
        (
            "other file",
            std::fs::read(&original).unwrap(),
            "start like",
        ),
        ("another version", with(8, 7), "version"),
        ("a bit in the header", with(60, 1), "SHA-256"),
        ("a bit at the end", with(bytes.len() - 70, 1), "SHA-256"),
        ("length of the header", with(15, 0x7f), "cut off"),
        ("cut off", bytes[..bytes.len() - 64].to_vec(), "SHA-256"),
    ];
    for (case, bytes, expected) in cases {
        let error = open_packed(shared(&bytes)).err().expect(case);
        let message = error.to_string();
        assert!(message.contains(expected), "{case}: {message}");
    }
    let nowhere = folder.path().join("none/packed");
    let error = write_packed(&original, Precision::Half, None, &nowhere).unwrap_err();
    assert!(matches!(error, BackboneError::Write { .. }));
}

#[test]
fn a_copy_is_kept_and_made_anew_when_it_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("original");
    let cache = folder.path().join("cache");
    write_network(&original);
    let wanted = request(&[3], Some(Embedding::Direct));
    let features = || {
        let store = Store::new(&cache);
        let weights = original.to_string_lossy();
        let backbone = Backbone::open(&weights, Precision::Half, &store, &|_| {}).unwrap();
        encode(backbone.encoder.as_ref(), &wanted).unwrap()
    };
    let copies = || -> Vec<_> {
        let entries = std::fs::read_dir(cache.join("packed")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let expected = features();
    let [copy] = &copies()[..] else {
        panic!("one copy")
    };
    let whole = std::fs::read(copy).unwrap();
    let mut broken = whole.clone();
    broken[200] ^= 1;
    for found_there in [&whole[..], &broken, &whole[..100], b""] {
        std::fs::remove_file(copy).unwrap();
        std::fs::write(copy, found_there).unwrap();
        assert_eq!(features(), expected);
        assert_eq!(&copies(), std::slice::from_ref(copy));
        assert_eq!(std::fs::read(copy).unwrap(), whole);
    }
    // Other weights under the same name have a copy of their own.
    let mut other = std::fs::read(&original).unwrap();
    *other.last_mut().unwrap() ^= 1;
    std::fs::remove_file(&original).unwrap();
    std::fs::write(&original, &other).unwrap();
    features();
    assert_eq!(copies().len(), 2);
}
