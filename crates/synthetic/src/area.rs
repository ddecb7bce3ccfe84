//! The part of an image that a defect takes up, with soft edges.

use crate::noise::{Noise, step};
use crate::random::Random;

/// How much of the pixels of a rectangle is covered; everything outside is not.
#[derive(Debug, Clone)]
pub(super) struct Area {
    pub(super) x: u32,
    pub(super) y: u32,
    pub(super) width: u32,
    pub(super) height: u32,
    /// In [0, 1], row by row.
    pub(super) cover: Vec<f32>,
}

/// A position or size in pixels.
pub(super) type Vector = (f32, f32);

/// What is covered less than this is not covered at all: a mask has to end where it can be seen.
const LEAST_COVER: f32 = 0.15;

/// The form of an [`Area`].
pub(super) struct Oval {
    pub(super) centre: Vector,
    /// Half its length and half its breadth.
    pub(super) radii: Vector,
    /// Where its length points.
    pub(super) direction: Vector,
    /// How ragged its edge is, from 0 to 1.
    pub(super) ragged: f32,
    /// Over which part of its smaller radius its edge fades.
    pub(super) soft: f32,
    /// Whether it is a rectangle.
    pub(super) angular: bool,
}

impl Area {
    /// An area of the image of `size` in which `cover` tells how much is covered at a pixel's
    /// centre, and which reaches from `low` to `high`.
    fn of(size: (u32, u32), low: Vector, high: Vector, cover: impl Fn(f32, f32) -> f32) -> Self {
        // Conversions to integers saturate, so that nothing is left of what is outside.
        let (x, y) = ((low.0 as u32).min(size.0), (low.1 as u32).min(size.1));
        let (right, bottom) = (
            (high.0.ceil() as u32).clamp(x, size.0),
            (high.1.ceil() as u32).clamp(y, size.1),
        );
        let covers = (y..bottom)
            .flat_map(|row| (x..right).map(move |column| (column, row)))
            .map(|(column, row)| {
                let cover = cover(column as f32 + 0.5, row as f32 + 0.5);
                if cover < LEAST_COVER {
                    0.0
                } else {
                    cover.min(1.0)
                }
            })
            .collect();
        Self {
            x,
            y,
            width: right - x,
            height: bottom - y,
            cover: covers,
        }
    }

    /// An ellipse or rectangle with a ragged edge.
    pub(super) fn oval(size: (u32, u32), oval: &Oval, random: &mut Random) -> Self {
        let Oval {
            centre,
            radii,
            direction,
            ragged,
            soft,
            angular,
        } = *oval;
        let noise = Noise::new(random.bits());
        let longest = radii.0.max(radii.1);
        let reach = longest * (1.5 + ragged) + 1.0;
        // Over one pixel at least, as if photographed.
        let soft = soft.max(0.5 / radii.0.min(radii.1).max(0.5));
        let low = (centre.0 - reach, centre.1 - reach);
        let high = (centre.0 + reach, centre.1 + reach);
        Self::of(size, low, high, |x, y| {
            let (x, y) = (x - centre.0, y - centre.1);
            let a = (x * direction.0 + y * direction.1) / radii.0;
            let b = (y * direction.0 - x * direction.1) / radii.1;
            let distance = if angular {
                a.abs().max(b.abs())
            } else {
                (a * a + b * b).sqrt()
            };
            let scale = 2.0 / longest;
            let edge = distance + ragged * noise.fractal(x * scale, y * scale, 3);
            step(1.0, 1.0 - soft, edge - soft / 2.0)
        })
    }

    /// A line through `points`; `widths` are those at its points.
    pub(super) fn line(size: (u32, u32), points: &[Vector], widths: &[f32]) -> Self {
        let parts: Vec<Self> = points
            .windows(2)
            .zip(widths)
            .map(|(ends, &width)| {
                let (from, to) = (ends[0], ends[1]);
                let margin = width / 2.0 + 1.0;
                let low = (from.0.min(to.0) - margin, from.1.min(to.1) - margin);
                let high = (from.0.max(to.0) + margin, from.1.max(to.1) + margin);
                let along = (to.0 - from.0, to.1 - from.1);
                let squared = (along.0 * along.0 + along.1 * along.1).max(1e-6);
                Self::of(size, low, high, |x, y| {
                    let (x, y) = (x - from.0, y - from.1);
                    let share = ((x * along.0 + y * along.1) / squared).clamp(0.0, 1.0);
                    let (x, y) = (x - share * along.0, y - share * along.1);
                    let distance = (x * x + y * y).sqrt();
                    (width / 2.0 + 0.5 - distance).clamp(0.0, 1.0)
                })
            })
            .collect();
        Self::union(&parts)
    }

    /// What any of `parts` covers.
    pub(super) fn union(parts: &[Self]) -> Self {
        let edge = |edge: fn(&Self) -> u32| parts.iter().filter(|part| part.width > 0).map(edge);
        let (x, y) = (
            edge(|part| part.x).min().unwrap_or(0),
            edge(|part| part.y).min().unwrap_or(0),
        );
        let width = edge(|part| part.x + part.width).max().unwrap_or(x) - x;
        let height = edge(|part| part.y + part.height).max().unwrap_or(y) - y;
        let mut cover = vec![0_f32; width as usize * height as usize];
        for part in parts.iter().filter(|part| part.width > 0) {
            for (row, values) in part.cover.chunks_exact(part.width as usize).enumerate() {
                let start = (row + (part.y - y) as usize) * width as usize + (part.x - x) as usize;
                for (cover, &value) in cover[start..].iter_mut().zip(values) {
                    *cover = cover.max(value);
                }
            }
        }
        Self {
            x,
            y,
            width,
            height,
            cover,
        }
    }

    /// Every pixel of it that is covered: column, row and how much.
    pub(super) fn pixels(&self) -> impl Iterator<Item = (u32, u32, f32)> {
        let rows = (self.y..self.y + self.height)
            .flat_map(|row| (self.x..self.x + self.width).map(move |column| (column, row)));
        rows.zip(&self.cover)
            .filter(|(_, cover)| **cover > 0.0)
            .map(|((column, row), &cover)| (column, row, cover))
    }
}
