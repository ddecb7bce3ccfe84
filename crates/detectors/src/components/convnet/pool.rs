//! The largest number of each window.

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::window::{Window, Windows};
use super::{dims4, numbers, of_numbers, to_vec};

/// The largest number of each window of `side` over `x`, `[images, channels, rows, columns]`; what lies over
/// the edge does not count.
pub(crate) fn max_pool(x: &Tensor, side: usize, stride: usize, padding: usize) -> Result<Tensor> {
    let window = Window {
        side,
        stride,
        padding,
    };
    x.contiguous()?.apply_op1(MaxPool(window))
}

struct MaxPool(Window);

impl MaxPool {
    /// Where the largest number of each window over `channel` is, the first of several; and how large it is.
    fn largest(&self, channel: &[f32], windows: &Windows) -> (Vec<usize>, Vec<f32>) {
        let Window { side, stride, .. } = self.0;
        let mut places = vec![0; windows.places()];
        let mut largest = vec![f32::NEG_INFINITY; windows.places()];
        for entry in 0..side * side {
            windows.runs(entry / side, entry % side, |run| {
                for i in 0..run.count {
                    let (window, pixel) = (run.window + i, run.pixel + i * stride);
                    let x = channel[pixel];
                    if x > largest[window] || x.is_nan() {
                        (places[window], largest[window]) = (pixel, x);
                    }
                }
            });
        }
        (places, largest)
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let [images, channels, rows, columns] = dims4(layout)?;
        let windows = self.0.over(rows, columns)?;
        let x = numbers(x, layout)?.par_chunks_exact(windows.pixels());
        let pooled = x.flat_map_iter(|channel| self.largest(channel, &windows).1);
        let shape = (images, channels, windows.down, windows.across);
        Ok(of_numbers(pooled.collect(), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, rows, columns) = x.dims4()?;
        let windows = self.0.over(rows, columns)?;
        let mut of_x = vec![0.0; x.elem_count()];
        let (values, gradient) = (to_vec(x)?, to_vec(gradient)?);
        let channels = of_x.par_chunks_exact_mut(windows.pixels());
        let channels = channels.zip(values.par_chunks_exact(windows.pixels()));
        let channels = channels.zip(gradient.par_chunks_exact(windows.places()));
        channels.for_each(|((of_x, channel), gradient)| {
            let (places, _) = self.largest(channel, &windows);
            places
                .into_iter()
                .zip(gradient)
                .for_each(|(place, gradient)| {
                    of_x[place] += gradient;
                });
        });
        Ok(Some(Tensor::from_vec(of_x, x.shape(), &Device::Cpu)?))
    }
}
