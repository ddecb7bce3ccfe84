//! What a defect does to the pixels that it covers.

use anomalens_vision::Image;

use crate::area::{Area, Vector};
use crate::noise::Noise;
use crate::texture::{Colour, to_byte};

/// The colour that a covered pixel takes on.
pub(super) enum Paint<'a> {
    /// One colour, a little uneven.
    Fill {
        colour: Colour,
        uneven: f32,
        noise: Noise,
    },
    /// What was there, lighter, darker or of another hue; stronger in some places than in others.
    Tint {
        gain: Colour,
        uneven: f32,
        noise: Noise,
    },
    /// What is to be seen in another place or image, from the top left corner of the area on.
    Copy {
        from: &'a Image,
        x: u32,
        y: u32,
        mirrored: bool,
        gain: f32,
    },
    /// The mean over a line of what was there.
    Smear { along: Vector, gain: f32 },
    /// What was there, moved, and shaded as if it were bent.
    Warp { by: Vector, shade: f32 },
    /// What was there, with noise of `scale` pixels.
    Roughen {
        amount: f32,
        scale: f32,
        noise: Noise,
    },
    /// What was there, lighter where it was dark and darker where it was light.
    Shift { by: f32 },
}

/// Samples on each side of the middle of a smear.
const SMEAR: i32 = 6;

impl Paint<'_> {
    /// The pixels that `area` covers with their new colours.
    pub(super) fn apply(&self, image: &Image, area: &Area) -> Vec<(u32, u32, [u8; 3])> {
        area.pixels()
            .map(|(x, y, cover)| {
                let old = colour_at(image, x as f32, y as f32);
                let new = self.colour(image, area, (x, y), cover, old);
                // A bend is no layer on top: how much is covered says how far it moves.
                let opacity = if matches!(self, Self::Warp { .. }) {
                    1.0
                } else {
                    cover
                };
                let colour = [0, 1, 2].map(|i| to_byte(old[i] + (new[i] - old[i]) * opacity));
                (x, y, colour)
            })
            .collect()
    }

    fn colour(
        &self,
        image: &Image,
        area: &Area,
        (column, row): (u32, u32),
        cover: f32,
        old: Colour,
    ) -> Colour {
        let (x, y) = (column as f32, row as f32);
        match self {
            Self::Fill {
                colour,
                uneven,
                noise,
            } => {
                let lighter = uneven * noise.fractal(x / 6.0, y / 6.0, 3);
                colour.map(|part| part + lighter)
            }
            Self::Tint {
                gain,
                uneven,
                noise,
            } => {
                let scale = area.width.max(area.height) as f32 / 4.0;
                let strength = 1.0 - uneven * noise.fractal(x / scale, y / scale, 3).abs();
                [0, 1, 2].map(|i| old[i] * (1.0 + (gain[i] - 1.0) * strength))
            }
            Self::Copy {
                from,
                x,
                y,
                mirrored,
                gain,
            } => {
                let across = column - area.x;
                let across = if *mirrored {
                    area.width - 1 - across
                } else {
                    across
                };
                let source = (
                    (x + across) % from.width(),
                    (y + row - area.y) % from.height(),
                );
                colour_at(from, source.0 as f32, source.1 as f32).map(|part| part * gain)
            }
            Self::Smear { along, gain } => {
                let mut sum = [0.0; 3];
                for i in -SMEAR..=SMEAR {
                    let colour = colour_at(image, x + along.0 * i as f32, y + along.1 * i as f32);
                    sum = [0, 1, 2].map(|part| sum[part] + colour[part]);
                }
                sum.map(|part| part * gain / (2 * SMEAR + 1) as f32)
            }
            Self::Warp { by, shade } => {
                let moved = colour_at(image, x + by.0 * cover, y + by.1 * cover);
                // Light falls on one flank of a bend and not on the other.
                let flank = shade * 4.0 * cover * (1.0 - cover) + shade / 2.0;
                moved.map(|part| part * (1.0 + flank))
            }
            Self::Roughen {
                amount,
                scale,
                noise,
            } => {
                let noise = amount * noise.fractal(x / scale, y / scale, 2);
                old.map(|part| part + noise)
            }
            Self::Shift { by } => old.map(|part| if part < 128.0 { part + by } else { part - by }),
        }
    }
}

/// The colour of the pixel nearest to a place; beyond the edge, that of the edge.
pub(super) fn colour_at(image: &Image, x: f32, y: f32) -> Colour {
    // Conversions to integers saturate.
    let x = ((x + 0.5) as u32).min(image.width() - 1);
    let y = ((y + 0.5) as u32).min(image.height() - 1);
    image.pixel(x, y).unwrap_or_default().map(f32::from)
}
