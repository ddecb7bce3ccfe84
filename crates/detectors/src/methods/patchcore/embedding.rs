//! PatchCore, section 3.1: a patch is described by the cells around it in two layers of the network.

use std::borrow::Cow;
use std::ops::Range;

use anomalens_backbones::Grid;
use rayon::prelude::*;

use super::settings::{Settings, Variant};
use crate::components::joined::{Cells, Sampling, finest, join};
use crate::components::neighbourhood;

/// Side of the square of cells around a patch.
pub(super) const SIDE: usize = 3;

/// Cells in that square.
pub(super) const CELLS: usize = SIDE * SIDE;

/// The patches of an image, `[places, width]`, on the finest grid of `layers`.
pub(super) fn embedding(layers: &[Cells<'_>], settings: &Settings) -> (Vec<f32>, Grid) {
    let grid = finest(layers);
    let shortened = layers.iter().map(|layer| {
        let (tokens, width) = match settings.variant {
            Variant::Original => (pooled_cells(layer, settings.dimension), settings.dimension),
            Variant::Anomalib => (averages(layer), layer.width),
        };
        Cells {
            tokens: Cow::Owned(tokens),
            width,
            grid: layer.grid,
        }
    });
    let shortened: Vec<Cells> = shortened.collect();
    let joined = join(&shortened, grid, Sampling::Bilinear);
    let patches = match settings.variant {
        Variant::Anomalib => joined,
        Variant::Original => {
            let (from, to) = (settings.dimension * layers.len(), settings.dimension);
            let mut patches = vec![0.0; grid.len() * to];
            let pairs = patches.chunks_exact_mut(to).zip(joined.chunks_exact(from));
            pairs.for_each(|(patch, layers)| pool(layers, patch));
            patches
        }
    };
    (patches, grid)
}

/// Length of what [`embedding`] makes of layers of these widths.
pub(super) fn width(layers: &[usize], settings: &Settings) -> usize {
    match settings.variant {
        Variant::Original => settings.dimension,
        Variant::Anomalib => layers.iter().sum(),
    }
}

/// The mean of the cells around each one; those outside count as zero.
fn averages(layer: &Cells<'_>) -> Vec<f32> {
    let mut sums = neighbourhood::sums(&layer.tokens, layer.grid, layer.width, SIDE);
    sums.iter_mut().for_each(|sum| *sum /= CELLS as f32);
    sums
}

/// The cells around each one, channel by channel, shortened to `length` numbers.
fn pooled_cells(layer: &Cells<'_>, length: usize) -> Vec<f32> {
    let Grid { rows, columns } = layer.grid;
    let mut pooled = vec![0.0; layer.grid.len() * length];
    pooled
        .par_chunks_exact_mut(length)
        .enumerate()
        .for_each_init(
            || vec![0.0; layer.width * CELLS],
            |around, (at, pooled)| {
                around.fill(0.0);
                for cell in 0..CELLS {
                    // Wraps around where it is outside.
                    let row = (at / columns + cell / SIDE).wrapping_sub(1);
                    let column = (at % columns + cell % SIDE).wrapping_sub(1);
                    if row < rows && column < columns {
                        let token = &layer.tokens[(row * columns + column) * layer.width..];
                        let channels = around.iter_mut().skip(cell).step_by(CELLS);
                        channels.zip(token).for_each(|(to, x)| *to = *x);
                    }
                }
                pool(around, pooled);
            },
        );
    pooled
}

/// What number `i` of `count` is the mean of, in PyTorch's adaptive average pooling: from
/// `i * length / count`, rounded down, to `(i + 1) * length / count`, rounded up.
pub(super) fn part(i: usize, length: usize, count: usize) -> Range<usize> {
    i * length / count..((i + 1) * length).div_ceil(count)
}

/// PyTorch's adaptive average pooling.
fn pool(from: &[f32], to: &mut [f32]) {
    let (length, count) = (from.len(), to.len());
    for (i, mean) in to.iter_mut().enumerate() {
        let part = &from[part(i, length, count)];
        *mean = part.iter().sum::<f32>() / part.len() as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::random::{generator, normal};

    #[test]
    fn pooling_is_adaptive() {
        let from: Vec<f32> = (0..9).map(|x| x as f32).collect();
        let mut two = [0.0; 2];
        pool(&from, &mut two); // 0 to 4 and 4 to 8
        assert_eq!(two, [2.0, 6.0]);
        let mut more = [0.0; 18];
        pool(&from, &mut more);
        assert_eq!(more[..4], [0.0, 0.0, 1.0, 1.0]);
    }

    /// The steps of the published code, one after the other: cells unfolded, resized, pooled, stacked, pooled.
    #[test]
    fn the_original_embedding_is_its_definition() {
        let mut random = generator(9, 0);
        let sizes = [(6, 4, 5), (3, 2, 7)]; // rows, columns, channels
        let maps = sizes.map(|(rows, columns, width)| Cells {
            tokens: Cow::Owned(normal(rows * columns * width, 1.0, &mut random)),
            grid: Grid { rows, columns },
            width,
        });
        let mut settings = Settings::defaults(&crate::testing::NoNetwork, Variant::Original);
        settings.dimension = 10;
        let (found, grid) = embedding(&maps, &settings);
        assert_eq!((grid.rows, grid.columns, found.len()), (6, 4, 6 * 4 * 10));
        let unfolded = |map: &Cells, row: f32, column: f32, channel: usize, cell: usize| -> f32 {
            let corner = |row: usize, column: usize| {
                let (y, x) = (
                    (row + cell / 3).wrapping_sub(1),
                    (column + cell % 3).wrapping_sub(1),
                );
                match y < map.grid.rows && x < map.grid.columns {
                    true => map.tokens[(y * map.grid.columns + x) * map.width + channel],
                    false => 0.0,
                }
            };
            let (low, left) = (row as usize, column as usize);
            let (high, right) = (
                (low + 1).min(map.grid.rows - 1),
                (left + 1).min(map.grid.columns - 1),
            );
            let (down, across) = (row.fract(), column.fract());
            corner(low, left) * (1.0 - down) * (1.0 - across)
                + corner(low, right) * (1.0 - down) * across
                + corner(high, left) * down * (1.0 - across)
                + corner(high, right) * down * across
        };
        for (at, found) in found.chunks(10).enumerate() {
            let stacked: Vec<f32> = maps
                .iter()
                .flat_map(|map| {
                    let source = |at: usize, coarse: usize, fine: usize| {
                        let source = (at as f32 + 0.5) * coarse as f32 / fine as f32 - 0.5;
                        source.clamp(0.0, (coarse - 1) as f32)
                    };
                    let (row, column) = (
                        source(at / 4, map.grid.rows, 6),
                        source(at % 4, map.grid.columns, 4),
                    );
                    let all = (0..map.width * 9).map(|i| unfolded(map, row, column, i / 9, i % 9));
                    let mut pooled = vec![0.0; 10];
                    pool(&all.collect::<Vec<_>>(), &mut pooled);
                    pooled
                })
                .collect();
            let mut expected = [0.0; 10];
            pool(&stacked, &mut expected);
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-5, "{at}: {found} {expected}");
            }
        }
    }
}
