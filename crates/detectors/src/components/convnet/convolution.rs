//! Convolutions as products of matrices: the windows of an image are its columns.

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::window::{Window, Windows};
use super::{dims4, numbers, of_numbers, to_vec};

/// `x`, `[images, inputs, rows, columns]`, convolved with `weight`, `[outputs, inputs, side, side]`.
pub(crate) fn convolution(
    x: &Tensor,
    weight: &Tensor,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let window = Window {
        side: weight.dim(3)?,
        stride,
        padding,
    };
    x.contiguous()?
        .apply_op2(&weight.contiguous()?, Convolution(window))
}

struct Convolution(Window);

impl Convolution {
    /// The windows over one channel after the other, `[channels * side * side, places]`.
    fn unfold(&self, image: &[f32], windows: &Windows) -> Vec<f32> {
        let Window { side, stride, .. } = self.0;
        let (pixels, places) = (windows.pixels(), windows.places());
        let mut columns = vec![0.0; image.len() / pixels * side * side * places];
        let channels = columns.par_chunks_exact_mut(side * side * places);
        let channels = channels.zip(image.par_chunks_exact(pixels));
        channels.for_each(|(columns, channel)| {
            for (entry, column) in columns.chunks_exact_mut(places).enumerate() {
                windows.runs(entry / side, entry % side, |run| {
                    let to = &mut column[run.window..][..run.count];
                    match stride {
                        1 => to.copy_from_slice(&channel[run.pixel..][..run.count]),
                        _ => {
                            let from = channel[run.pixel..].iter().step_by(stride);
                            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                        }
                    }
                });
            }
        });
        columns
    }

    /// Adds what the windows hold to the pixels that they lie on.
    fn fold(&self, columns: &[f32], image: &mut [f32], windows: &Windows) {
        let Window { side, stride, .. } = self.0;
        let places = windows.places();
        let channels = columns.par_chunks_exact(side * side * places);
        let channels = channels.zip(image.par_chunks_exact_mut(windows.pixels()));
        channels.for_each(|(columns, channel)| {
            for (entry, column) in columns.chunks_exact(places).enumerate() {
                windows.runs(entry / side, entry % side, |run| {
                    let from = &column[run.window..][..run.count];
                    let to = channel[run.pixel..].iter_mut().step_by(stride);
                    to.zip(from).for_each(|(to, from)| *to += *from);
                });
            }
        });
    }

    /// The windows of `image` as a matrix.
    fn columns(&self, image: &[f32], windows: &Windows) -> Result<Tensor> {
        let columns = self.unfold(image, windows);
        let shape = (columns.len() / windows.places(), windows.places());
        Tensor::from_vec(columns, shape, &Device::Cpu)
    }
}

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [images, inputs, rows, columns] = dims4(x_layout)?;
        let [outputs, of_inputs, side, other] = dims4(weight_layout)?;
        if (of_inputs, other) != (inputs, side) {
            let reason = format!("{inputs} channels, and weights for {of_inputs}");
            return Err(candle_core::Error::msg(reason));
        }
        let windows = self.0.over(rows, columns)?;
        let weight = numbers(weight, weight_layout)?;
        let weight = Tensor::from_slice(weight, (outputs, inputs * side * side), &Device::Cpu)?;
        let mut result = Vec::with_capacity(images * outputs * windows.places());
        for image in numbers(x, x_layout)?.chunks_exact(inputs * windows.pixels()) {
            let product = weight.matmul(&self.columns(image, &windows)?)?;
            result.extend(to_vec(&product)?);
        }
        Ok(of_numbers(
            result,
            (images, outputs, windows.down, windows.across),
        ))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (images, inputs, rows, columns) = x.dims4()?;
        let outputs = weight.dim(0)?;
        let windows = self.0.over(rows, columns)?;
        let flat = weight.reshape((outputs, weight.elem_count() / outputs.max(1)))?;
        let turned = flat.t()?;
        let mut of_weight = flat.zeros_like()?;
        // The first convolution sees pixels, which do not learn.
        let mut of_x = x.track_op().then(|| vec![0.0; x.elem_count()]);
        for image in 0..images {
            let gradient = gradient.get(image)?;
            let gradient = gradient.reshape((outputs, windows.places()))?;
            let seen = self.columns(&to_vec(&x.get(image)?)?, &windows)?;
            of_weight = (of_weight + gradient.matmul(&seen.t()?)?)?;
            if let Some(of_x) = &mut of_x {
                let of_columns = to_vec(&turned.matmul(&gradient)?)?;
                let length = inputs * windows.pixels();
                let of_image = &mut of_x[image * length..][..length];
                self.fold(&of_columns, of_image, &windows);
            }
        }
        let of_x = of_x.map(|of_x| Tensor::from_vec(of_x, x.shape(), &Device::Cpu));
        Ok((of_x.transpose()?, Some(of_weight.reshape(weight.shape())?)))
    }
}
