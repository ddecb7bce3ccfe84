//! What tests of networks share.
#![allow(clippy::unwrap_used)] // test code

use anomalens_backbones::{Compute, Engine, Kernels, Precision};
use candle_core::{Device, Tensor};

/// Everything that computes in float32 here: candle, and each instruction set of this machine.
pub(crate) fn exact() -> Vec<Compute> {
    let engines = Engine::all().into_iter();
    engines
        .map(|engine| Kernels::new(engine, Precision::F32).into())
        .chain([Compute::Candle(Device::Cpu)])
        .collect()
}

/// The fastest kernels of this machine.
#[allow(dead_code)] // Not every test uses all of this.
pub(crate) fn fastest(precision: Precision) -> Compute {
    Kernels::new(Engine::detect(), precision).into()
}

/// The lowest cosine between rows of two tensors of one shape.
#[allow(dead_code)]
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
