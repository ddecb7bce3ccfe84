//! Normal images: a material, and any number of images of it that differ as photographs of one
//! product do (place, turn, light, camera noise).

use anomalens_vision::{GeometryError, Image};

use crate::noise::{Noise, mix};
use crate::pattern::{Pattern, Point};
use crate::random::Random;

/// Red, green and blue, 0 to 255.
pub(super) type Colour = [f32; 3];

/// A material: a pattern with its colours and measures.
#[derive(Debug, Clone)]
pub struct Texture {
    pattern: Pattern,
    noise: Noise,
    /// Colours of the value 0, the value 1, and the accent.
    dark: Colour,
    light: Colour,
    accent: Colour,
    /// How often the pattern repeats along the side of an image.
    repeats: f32,
    /// Direction of the pattern.
    turn: (f32, f32),
    /// A number in [0, 1) that shapes the pattern.
    shape: f32,
    /// How much one image may differ from the next: turn, light and camera noise.
    play: Play,
}

#[derive(Debug, Clone, Copy)]
struct Play {
    turn: f32,
    light: f32,
    grain: f32,
}

impl Texture {
    /// A material of this pattern.
    pub fn new(pattern: Pattern, random: &mut Random) -> Self {
        let (dark, light, accent) = colours(pattern, random);
        let (fewest, most) = pattern.repeats();
        Self {
            pattern,
            noise: Noise::new(random.bits()),
            dark,
            light,
            accent,
            repeats: random.mostly_small(fewest, most),
            turn: if pattern.is_upright() || random.once_in(2) {
                (1.0, 0.0)
            } else {
                random.direction()
            },
            shape: random.unit(),
            play: Play {
                turn: random.between(0.0, 0.06),
                light: random.between(0.0, 0.12),
                grain: random.between(0.0, 5.0),
            },
        }
    }

    /// A square image of the material, `side` pixels wide.
    ///
    /// # Errors
    /// [`GeometryError`] for a side of zero.
    pub fn image(&self, side: u32, random: &mut Random) -> Result<Image, GeometryError> {
        let mut bytes = Vec::with_capacity(3 * (side as usize).pow(2));
        let turn = {
            let small = random.between(-self.play.turn, self.play.turn);
            let (x, y) = (
                self.turn.0 - small * self.turn.1,
                self.turn.1 + small * self.turn.0,
            );
            let length = (x * x + y * y).sqrt();
            (x / length, y / length)
        };
        let place = if self.pattern.is_object() {
            (random.between(-0.08, 0.08), random.between(-0.08, 0.08))
        } else {
            (random.between(0.0, 512.0), random.between(0.0, 512.0))
        };
        let light = random.direction();
        let brightness = 1.0 + random.between(-self.play.light, self.play.light);
        let grain = self.noise.other(random.bits());
        for row in 0..side {
            for column in 0..side {
                let across = (column as f32 + 0.5) * 2.0 / side as f32 - 1.0;
                let down = (row as f32 + 0.5) * 2.0 / side as f32 - 1.0;
                let (x, y) = (
                    across * turn.0 + down * turn.1 + place.0,
                    down * turn.0 - across * turn.1 + place.1,
                );
                let scale = self.repeats / 2.0;
                let (value, accent) = self.pattern.at(Point {
                    x,
                    y,
                    u: x * scale,
                    v: y * scale,
                    noise: self.noise,
                    shape: self.shape,
                });
                let shine =
                    brightness + self.play.light * (across * light.0 + down * light.1) / 2.0;
                let speck = self.play.grain * grain.lattice(column as i32, row as i32);
                bytes.extend((0..3).map(|i| {
                    let base = mix(self.dark[i], self.light[i], value.clamp(0.0, 1.0));
                    let colour = mix(base, self.accent[i], accent.clamp(0.0, 1.0));
                    to_byte(colour * shine + speck)
                }));
            }
        }
        Image::new(side, side, bytes)
    }
}

/// Rounded, and kept within 0 to 255.
pub(super) fn to_byte(value: f32) -> u8 {
    (value + 0.5) as u8
}

fn colours(pattern: Pattern, random: &mut Random) -> (Colour, Colour, Colour) {
    if pattern.is_scan() {
        let light = random.between(110.0, 190.0);
        let rim = random.between(200.0, 250.0);
        return ([random.between(0.0, 12.0); 3], [light; 3], [rim; 3]);
    }
    let low = random.between(15.0, 110.0);
    let high = (low + random.between(35.0, 120.0)).min(240.0);
    let accent = random.between(20.0, 235.0);
    if random.once_in(3) {
        return ([low; 3], [high; 3], [accent; 3]);
    }
    let hue = tint(random, 0.35);
    let other = tint(random, 0.6);
    let coloured = |level: f32, tint: Colour| tint.map(|part| (level * part).min(250.0));
    (
        coloured(low, hue),
        coloured(high, hue),
        coloured(accent, other),
    )
}

/// Factors around 1 for red, green and blue.
pub(super) fn tint(random: &mut Random, strength: f32) -> Colour {
    [(); 3].map(|()| 1.0 + random.between(-strength, strength))
}
