//! What the materials look like: each pattern is a function of the plane.

use crate::noise::{Noise, step, wave};

/// A kind of material or object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// Threads over and under each other.
    Weave,
    /// Leather, orange peel.
    Grain,
    /// Long wavy fibres with fine pores.
    Wood,
    /// Metal with fine parallel lines.
    Brushed,
    /// Nearly one colour that changes slowly.
    Plain,
    /// Plates with joints.
    Tiles,
    /// Stone of several colours.
    Speckle,
    /// Rounded cells with dark borders.
    Pebbles,
    /// The same shape printed again and again.
    Print,
    /// Parallel ribs.
    Ribs,
    /// A plate with round holes.
    Mesh,
    /// A single part on a plain ground.
    Part,
    /// A cross-section of something round and lively within, grey on black.
    Scan,
}

/// Where a pattern is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    /// From -1 to 1 across the image.
    pub(super) x: f32,
    /// From -1 to 1 down the image.
    pub(super) y: f32,
    /// Across, in units in which the pattern repeats.
    pub(super) u: f32,
    /// Down, likewise.
    pub(super) v: f32,
    /// The material's own randomness.
    pub(super) noise: Noise,
    /// The material's own shape, in [0, 1).
    pub(super) shape: f32,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Weave,
        Self::Grain,
        Self::Wood,
        Self::Brushed,
        Self::Plain,
        Self::Tiles,
        Self::Speckle,
        Self::Pebbles,
        Self::Print,
        Self::Ribs,
        Self::Mesh,
        Self::Part,
        Self::Scan,
    ];

    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weave => "weave",
            Self::Grain => "grain",
            Self::Wood => "wood",
            Self::Brushed => "brushed",
            Self::Plain => "plain",
            Self::Tiles => "tiles",
            Self::Speckle => "speckle",
            Self::Pebbles => "pebbles",
            Self::Print => "print",
            Self::Ribs => "ribs",
            Self::Mesh => "mesh",
            Self::Part => "part",
            Self::Scan => "scan",
        }
    }

    /// How often it repeats along the side of an image, at least and at most.
    pub(super) fn repeats(self) -> (f32, f32) {
        match self {
            Self::Plain => (0.5, 2.0),
            Self::Tiles | Self::Print | Self::Mesh => (3.0, 12.0),
            Self::Weave | Self::Ribs => (10.0, 40.0),
            Self::Wood | Self::Brushed => (2.0, 6.0),
            Self::Grain | Self::Speckle | Self::Pebbles => (6.0, 30.0),
            Self::Part | Self::Scan => (3.0, 8.0),
        }
    }

    /// Whether it is one thing in the middle, not something without end.
    pub(super) fn is_object(self) -> bool {
        matches!(self, Self::Part | Self::Scan)
    }

    /// Whether it is grey on black.
    pub(super) fn is_scan(self) -> bool {
        self == Self::Scan
    }

    /// Whether it does not occur turned.
    pub(super) fn is_upright(self) -> bool {
        matches!(self, Self::Scan)
    }

    /// Its value (0 dark, 1 light) and the share of the accent's colour.
    pub(super) fn at(self, point: Point) -> (f32, f32) {
        let Point {
            u, v, noise, shape, ..
        } = point;
        match self {
            Self::Weave => (weave(point), 0.0),
            Self::Grain => {
                let ridge = 1.0 - 1.6 * noise.fractal(u, v, 4).abs();
                (ridge, 0.0)
            }
            Self::Wood => {
                let bend = noise.fractal(u * 0.5, v * 0.1, 3);
                let pore = noise.other(1).at(u * 18.0, v * 1.2);
                let rings = wave(u * (1.0 + shape) + 1.6 * bend);
                (0.25 + 0.6 * rings + 0.18 * pore, 0.0)
            }
            Self::Brushed => {
                let lines = noise.fractal(u * 24.0, v * 0.35, 3);
                (0.5 + 0.7 * lines, 0.0)
            }
            Self::Plain => (0.5 + 0.45 * noise.fractal(u, v, 2), 0.0),
            Self::Tiles => tiles(point),
            Self::Speckle => {
                let cell = noise.cell(u, v);
                let accent = f32::from(cell.value > 0.9 - 0.8 * shape);
                (
                    0.5 + 0.4 * cell.value,
                    accent * step(0.6, 0.3, cell.nearest),
                )
            }
            Self::Pebbles => {
                let cell = noise.cell(u, v);
                let border = step(0.02, 0.1 + 0.2 * shape, cell.second - cell.nearest);
                (border * (0.7 + 0.25 * cell.value), 0.0)
            }
            Self::Print => {
                let ground = 0.75 + 0.15 * noise.fractal(u * 3.0, v * 3.0, 3);
                let (a, b) = within(u, v);
                (ground, step(0.04, 0.0, outline(shape, a, b) - 0.28))
            }
            Self::Ribs => {
                let uneven = noise.fractal(u * 0.7, v * 0.7, 3);
                (0.1 + 0.8 * wave(u) + 0.2 * uneven, 0.0)
            }
            Self::Mesh => {
                let (a, b) = within(u, v);
                let plate = 0.7 + 0.25 * noise.fractal(u, v * 4.0, 3);
                let edge = (a * a + b * b).sqrt() - 0.2 - 0.2 * shape;
                (plate * step(0.0, 0.08, edge), 0.0)
            }
            Self::Part => part(point),
            Self::Scan => scan(point),
        }
    }
}

/// The place within the square of side 1 around it, from -1/2 to 1/2.
fn within(u: f32, v: f32) -> (f32, f32) {
    (u - u.floor() - 0.5, v - v.floor() - 0.5)
}

/// Distance from the middle in the measure whose circles are discs, squares, diamonds or crosses.
fn outline(shape: f32, a: f32, b: f32) -> f32 {
    let (a, b) = (a.abs(), b.abs());
    match (shape * 4.0) as u32 {
        0 => (a * a + b * b).sqrt(),
        1 => a.max(b),
        2 => (a + b) * 0.8,
        _ => a.max(b).max(3.0 * a.min(b)),
    }
}

fn weave(
    Point {
        u, v, noise, shape, ..
    }: Point,
) -> f32 {
    let (column, row) = (u.floor() as i32, v.floor() as i32);
    // Plain weave, or twill, in which each row is shifted by one of three or four.
    let period = 2 + (shape * 3.0) as i32;
    let over = column.wrapping_add(row).rem_euclid(period) == 0;
    let (across, along, thread) = if over {
        (u, v, noise.lattice(column, 0))
    } else {
        (v, u, noise.lattice(1, row))
    };
    let fibre = noise.other(1).at(u * 9.0, v * 9.0);
    wave(across) * (0.55 + 0.3 * wave(along)) + 0.12 * thread + 0.1 * fibre + 0.1
}

fn tiles(
    Point {
        u, v, noise, shape, ..
    }: Point,
) -> (f32, f32) {
    let row = v.floor();
    let u = if shape < 0.5 { u } else { u + 0.5 * row };
    let (a, b) = within(u, v);
    let joint = 0.5 - 0.02 - 0.05 * shape;
    let edge = a.abs().max(b.abs());
    let plate = noise.lattice(u.floor() as i32, row as i32);
    let surface = noise.other(1).fractal(u * 4.0, v * 4.0, 3);
    (
        0.6 + 0.2 * plate + 0.2 * surface,
        step(joint, joint + 0.02, edge),
    )
}

fn part(
    Point {
        x,
        y,
        u,
        v,
        noise,
        shape,
    }: Point,
) -> (f32, f32) {
    let ground = 0.12 + 0.05 * noise.at(u, v);
    let size = 0.45 + 0.3 * (shape * 7.0 - (shape * 7.0).floor());
    let distance = outline(shape, x, y) / size;
    let surface = 0.7 + 0.15 * noise.other(1).fractal(u * 2.0, v * 2.0, 3) - 0.2 * distance;
    let bore = step(0.30, 0.34, distance);
    let body = step(1.02, 0.98, distance) * bore;
    let groove = step(0.06, 0.03, (distance - 0.65).abs());
    (ground + (surface - ground) * body, groove * body)
}

fn scan(
    Point {
        x,
        y,
        u,
        v,
        noise,
        shape,
    }: Point,
) -> (f32, f32) {
    let (wide, tall) = (0.55 + 0.2 * shape, 0.78);
    let (a, b) = (x / wide, y / tall);
    let wobble = 0.03 * noise.other(2).at(2.0 * x, 2.0 * y);
    let distance = (a * a + b * b).sqrt() + wobble;
    // Nearly the same on both sides, as bodies are.
    let tissue = 0.6 + 0.35 * noise.fractal(u.abs() + 0.1 * u, v, 4);
    let cleft = step(0.0, 0.06, x.abs()) * 0.3 + 0.7;
    let inside = step(0.92, 0.88, distance);
    let rim = step(0.06, 0.02, (distance - 0.97).abs());
    (tissue * cleft * inside, rim)
}
