//! Smooth random functions of the plane, computed from integers hashed at lattice points.

/// A random function; equal seeds give equal functions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noise {
    seed: u32,
}

/// Where a point lies among the scattered centres of [`Noise::cell`].
pub(super) struct Cell {
    /// Distance to the nearest centre.
    pub(super) nearest: f32,
    /// Distance to the one after.
    pub(super) second: f32,
    /// A number in [-1, 1] that belongs to the nearest centre.
    pub(super) value: f32,
}

impl Noise {
    pub(super) fn new(seed: u32) -> Self {
        Self { seed }
    }

    /// Another function, for each `index` its own.
    pub(super) fn other(self, index: u32) -> Self {
        Self::new(scramble(
            self.seed ^ scramble(index.wrapping_add(0x9e37_79b9)),
        ))
    }

    /// A number in [-1, 1] for each lattice point, without any relation to its neighbours'.
    pub(super) fn lattice(self, x: i32, y: i32) -> f32 {
        let hash = scramble(scramble(self.seed ^ x as u32).wrapping_add(y as u32));
        (hash >> 8) as f32 / 8_388_607.5 - 1.0
    }

    /// In [-1, 1]; it changes over a distance of about 1.
    pub(super) fn at(self, x: f32, y: f32) -> f32 {
        let (column, row) = (x.floor(), y.floor());
        let (across, down) = (ease(x - column), ease(y - row));
        let (column, row) = (column as i32, row as i32);
        let corner = |dx: i32, dy: i32| self.lattice(column.wrapping_add(dx), row.wrapping_add(dy));
        mix(
            mix(corner(0, 0), corner(1, 0), across),
            mix(corner(0, 1), corner(1, 1), across),
            down,
        )
    }

    /// In [-1, 1]: `octaves` functions, each half as coarse and half as strong as the one before.
    pub(super) fn fractal(self, x: f32, y: f32, octaves: u32) -> f32 {
        let (mut sum, mut weights, mut weight, mut scale) = (0.0, 0.0, 1.0, 1.0);
        for octave in 0..octaves {
            sum += weight * self.other(octave).at(x * scale, y * scale);
            weights += weight;
            weight *= 0.5;
            scale *= 2.0;
        }
        sum / weights
    }

    /// The cells around centres of which each square of side 1 holds one.
    pub(super) fn cell(self, x: f32, y: f32) -> Cell {
        let (column, row) = (x.floor() as i32, y.floor() as i32);
        let mut cell = Cell {
            nearest: f32::INFINITY,
            second: f32::INFINITY,
            value: 0.0,
        };
        for (dx, dy) in (-1..=1).flat_map(|dy| (-1..=1).map(move |dx| (dx, dy))) {
            let (column, row) = (column.wrapping_add(dx), row.wrapping_add(dy));
            let within = |noise: Noise| 0.5 + 0.45 * noise.lattice(column, row);
            let across = column as f32 + within(self.other(1)) - x;
            let down = row as f32 + within(self.other(2)) - y;
            let distance = (across * across + down * down).sqrt();
            if distance < cell.nearest {
                cell.second = cell.nearest;
                cell.nearest = distance;
                cell.value = self.lattice(column, row);
            } else if distance < cell.second {
                cell.second = distance;
            }
        }
        cell
    }
}

/// From `a` at 0 to `b` at 1.
pub(super) fn mix(a: f32, b: f32, share: f32) -> f32 {
    a + (b - a) * share
}

/// From 0 at `low` to 1 at `high`, smooth at both ends; falling if `high` is less.
pub(super) fn step(low: f32, high: f32, x: f32) -> f32 {
    ease(((x - low) / (high - low)).clamp(0.0, 1.0))
}

/// A wave of period 1: 0 at whole numbers, 1 halfway between.
pub(super) fn wave(x: f32) -> f32 {
    ease(1.0 - (2.0 * (x - x.floor()) - 1.0).abs())
}

fn ease(x: f32) -> f32 {
    x * x * (3.0 - 2.0 * x)
}

/// A permutation of the 32-bit numbers that changes about half the bits for each one given
/// (`lowbias32` of C. Wellons' hash prospector).
fn scramble(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}
