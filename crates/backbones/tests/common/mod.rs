//! What tests of networks share.
#![allow(clippy::unwrap_used, dead_code)] // test code; not every test uses all of this

use anomalens_backbones::{Engine, FeatureMap, Kernels, Precision};
use anomalens_vision::Preprocessed;
use candle_core::{Device, Tensor};

/// Everything that computes in float32 here: each instruction set of this machine.
pub(crate) fn exact() -> Vec<Kernels> {
    let engines = Engine::all().into_iter();
    engines
        .map(|engine| Kernels::new(engine, Precision::F32))
        .collect()
}

/// The fastest kernels of this machine.
pub(crate) fn fastest(precision: Precision) -> Kernels {
    Kernels::new(Engine::detect(), precision)
}

/// The inputs in a batch `[batch, 3, height, width]`.
pub(crate) fn inputs(images: &Tensor) -> Vec<Preprocessed> {
    let (batch, _, height, width) = images.dims4().unwrap();
    let input = |i| Preprocessed {
        height,
        width,
        values: images
            .get(i)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap(),
    };
    (0..batch).map(input).collect()
}

/// Class and patch tokens, `[1 + patches, width]`.
pub(crate) fn tokens(map: &FeatureMap) -> Tensor {
    let class = map.class_token.as_deref().unwrap();
    let rows = [class, &map.tokens].concat();
    Tensor::from_vec(rows, (1 + map.grid.len(), map.dim), &Device::Cpu).unwrap()
}

/// The lowest cosine between rows of two tensors of one shape.
pub(crate) fn lowest_cosine(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let rows = |x: &Tensor| -> Vec<Vec<f32>> {
        let width = x.dims()[x.rank() - 1];
        x.reshape(((), width)).unwrap().to_vec2().unwrap()
    };
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum()
    };
    let cosines = rows(a)
        .into_iter()
        .zip(rows(b))
        .map(|(a, b)| dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt());
    cosines.fold(1.0, f64::min)
}
