//! Weight files of all formats, packed networks, and features kept on disk.

use std::fs;
use std::io::{Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anomalens_backbones::checkpoint::{Checkpoint, write_torch};
use anomalens_backbones::clip::{Architecture, TextConfig, VisionConfig};
use anomalens_backbones::{
    Activation, CachedEncoder, Embedding, FeatureCache, FeatureRequest, ImageEncoder, Numbers,
    Precision, SharedBytes, open_packed, write_packed,
};
use anomalens_vision::Preprocessed;
use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, tensor::TensorView};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::encoder::MeanColour;
use crate::in_file;

/// A weight file of any format and all of its tensors.
pub(crate) fn checkpoint(bytes: &[u8]) -> bool {
    in_file("weights", bytes, |path| match Checkpoint::open(path) {
        Ok(checkpoint) => read_all(&checkpoint),
        Err(error) => {
            let _ = error.to_string();
            false
        }
    })
}

fn read_all(checkpoint: &Checkpoint) -> bool {
    checkpoint.names().all(|name| {
        let shape = checkpoint.shape(name).unwrap();
        checkpoint.tensor(name, shape, &Device::Cpu).is_ok()
    })
}

pub(crate) fn safetensors() -> Vec<Vec<u8>> {
    let numbers: Vec<u8> = (0..48).collect();
    let view = |kind, shape: &[usize], bytes: usize| {
        TensorView::new(kind, shape.to_vec(), &numbers[..bytes]).unwrap()
    };
    let tensors = [
        ("single", view(Dtype::F32, &[2, 3], 24)),
        ("half", view(Dtype::F16, &[2, 2, 3], 24)),
        ("bfloat", view(Dtype::BF16, &[3], 6)),
        ("double", view(Dtype::F64, &[1, 2], 16)),
        ("long", view(Dtype::I64, &[], 8)),
        ("bytes", view(Dtype::U8, &[5], 5)),
    ];
    vec![safetensors::serialize(tensors, None).unwrap()]
}

/// Files that PyTorch wrote: a module of TorchScript, a state dict with views, learned prompts.
pub(crate) fn archives() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens");
    ["torchscript.pt", "openclip.pt", "prompt_learner.pth"]
        .map(|name| fs::read(folder.join(name)).unwrap())
        .to_vec()
}

/// A pickle in an archive with a few storages.
pub(crate) fn pickle(bytes: &[u8]) -> bool {
    let mut members = vec![("data.pkl".to_owned(), bytes.to_vec())];
    members.push(("byteorder".to_owned(), b"little".to_vec()));
    members.extend((0..40).map(|key| (format!("data/{key}"), vec![key; 1024])));
    checkpoint(&archive(&members))
}

pub(crate) fn pickles() -> Vec<Vec<u8>> {
    let pickle = |bytes: Vec<u8>| {
        let mut zip = ZipArchive::new(Cursor::new(bytes)).unwrap();
        let names = zip.file_names().map(|name| name.unwrap().into_owned());
        let name = names.into_iter().find(|name| name.ends_with("/data.pkl"));
        let mut pickle = Vec::new();
        zip.by_name(&name.unwrap())
            .unwrap()
            .read_to_end(&mut pickle)
            .unwrap();
        pickle
    };
    // The third has storages that are larger than those which `pickle` gives.
    archives().into_iter().take(2).map(pickle).collect()
}

fn archive(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        zip.start_file(format!("archive/{name}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// An archive of these tensors, as PyTorch writes it.
pub(crate) fn torch(outer_key: Option<&str>, tensors: &[(String, Tensor)]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.pth");
    write_torch(&path, outer_key, tensors).unwrap();
    fs::read(path).unwrap()
}

/// Models with the initialisers that the reader looks for.
pub(crate) fn onnx() -> Vec<Vec<u8>> {
    let tensor = |name: &str, dims: &[u8], values: usize| {
        let raw: Vec<u8> = vec![0x3f; 4 * values];
        [
            field(1, dims),
            vec![2 << 3, 1],
            field(8, name.as_bytes()),
            field(9, &raw),
        ]
        .concat()
    };
    let node = |input: &str, name: &str, kind: &str| {
        let [input, name, kind] =
            [(1, input), (3, name), (4, kind)].map(|(number, text)| field(number, text.as_bytes()));
        field(1, &[input, name, kind].concat())
    };
    let graph = [
        node(
            "onnx::MatMul_1",
            "/backbone/encoder/layer.0/mlp/fc1/MatMul",
            "MatMul",
        ),
        node("onnx::Concat_2", "/backbone/embeddings/Concat", "Concat"),
        node("onnx::Reshape_3", "/backbone/embeddings/Reshape", "Reshape"),
        field(5, &tensor("backbone.layernorm.weight", &[6], 6)),
        field(5, &tensor("onnx::MatMul_1", &[2, 3], 6)),
        field(5, &tensor("onnx::Concat_2", &[1, 1, 2], 2)),
        field(5, &tensor("onnx::Reshape_3", &[1, 4, 2], 8)),
    ];
    vec![
        field(7, &graph.concat()),
        field(7, &field(5, &tensor("backbone.x", &[2, 2], 4))),
    ]
}

/// A field of bytes in a protobuf message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut length = content.len();
    let mut bytes = vec![number << 3 | 2];
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    [&bytes, content].concat()
}

/// A packed network, and what it makes of an image.
pub(crate) fn packed(bytes: &[u8]) -> bool {
    let network = match open_packed(SharedBytes::read(bytes, bytes.len()).unwrap()) {
        Ok(network) => network,
        Err(error) => {
            let _ = error.to_string();
            return false;
        }
    };
    let spec = network.encoder.spec();
    // What it claims about itself must not be followed into a large image.
    let side = 2 * spec.multiple.min(28);
    let request = FeatureRequest {
        embedding: Some(Embedding::Normed),
        ..FeatureRequest::blocks([1])
    };
    network.encoder.encode(&[grey(side)], &request).is_ok()
}

fn grey(side: usize) -> Preprocessed {
    Preprocessed {
        height: side,
        width: side,
        values: vec![0.5; 3 * side * side],
    }
}

/// A CLIP of one block, with tokens of length 64 and a short text encoder.
pub(crate) fn tiny_clip() -> Checkpoint {
    let architecture = Architecture {
        vision: VisionConfig {
            width: 64,
            blocks: 1,
            heads: 1,
            patch: 2,
            position_side: 3,
            embedding: 16,
        },
        text: TextConfig {
            width: 64,
            blocks: 2,
            heads: 1,
            context: 77,
            vocabulary: 49_408,
            embedding: 16,
        },
        activation: Activation::QuickGelu,
    };
    Checkpoint::seeded(7, architecture.shapes())
}

pub(crate) fn packed_files() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let [weights, packed] = ["weights", "packed"].map(|name| folder.path().join(name));
    let checkpoint = tiny_clip();
    let values: Vec<(String, Vec<usize>, Vec<u8>)> = checkpoint
        .names()
        // The text encoder is not packed.
        .filter(|name| name.starts_with("visual.") || *name == "logit_scale")
        .map(|name| {
            let shape = checkpoint.shape(name).unwrap().to_vec();
            let tensor = checkpoint.tensor(name, &shape, &Device::Cpu).unwrap();
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            (name.to_owned(), shape, bytes)
        })
        .collect();
    let views = values.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name, view)
    });
    fs::write(&weights, safetensors::serialize(views, None).unwrap()).unwrap();
    [Precision::Int8, Precision::Half, Precision::F32]
        .map(|precision| {
            write_packed(&weights, precision, None, &packed).unwrap();
            fs::read(&packed).unwrap()
        })
        .to_vec()
}

/// Features of one image in a cache; whether they are used.
pub(crate) fn cached_features(bytes: &[u8]) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let (name, _) = cache_file();
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, bytes).unwrap();
    encode_cached(folder.path()) == 1
}

pub(crate) fn cache_files() -> Vec<Vec<u8>> {
    vec![cache_file().1.clone()]
}

/// How many images' features came out of the cache in `folder`.
fn encode_cached(folder: &Path) -> usize {
    let cache = Arc::new(FeatureCache::open(folder, u64::MAX, Numbers::F32).unwrap());
    let encoder = CachedEncoder::new(Arc::new(MeanColour), "mean colour", cache.clone());
    let request = FeatureRequest {
        embedding: Some(Embedding::Normed),
        ..FeatureRequest::blocks([1, 2])
    };
    let features = encoder.encode(&[grey(28)], &request).unwrap();
    assert_eq!(features.len(), 1);
    cache.usage().found
}

/// The name of the file below the folder, and what is in it.
fn cache_file() -> &'static (PathBuf, Vec<u8>) {
    static FILE: OnceLock<(PathBuf, Vec<u8>)> = OnceLock::new();
    FILE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        encode_cached(folder.path());
        let only = |folder: &Path| {
            fs::read_dir(folder)
                .unwrap()
                .next()
                .unwrap()
                .unwrap()
                .path()
        };
        let file = only(&only(folder.path()));
        let name = file.strip_prefix(folder.path()).unwrap().to_owned();
        (name, fs::read(file).unwrap())
    })
}

/// Numbers of the shape `shape`.
pub(crate) fn numbers(shape: &[usize]) -> Tensor {
    Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap()
}
