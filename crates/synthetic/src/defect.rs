//! Defects drawn on a normal image, with the exact mask of what they changed.

use anomalens_vision::{GeometryError, Image, Mask};

use crate::area::Area;
use crate::canvas::Canvas;
use crate::noise::Noise;
use crate::paint::Paint;
use crate::random::Random;
use crate::texture::tint;

/// A kind of defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// One to three thin lines, straight or bent.
    Scratch,
    /// A dark line that wanders and branches.
    Crack,
    /// A lump of something else.
    Contamination,
    /// A large, faint and uneven darkening or colouring.
    Stain,
    /// A patch of another brightness or hue.
    Discolouration,
    /// A patch of another place, or of another image.
    Paste,
    /// Rubbed along one direction.
    Smudge,
    /// A dark opening.
    Hole,
    /// A part gone, so that the ground shows.
    Missing,
    /// Bent or pressed in.
    Dent,
    /// A swarm of small specks.
    Specks,
    /// A rough, noisy patch.
    Roughness,
}

/// How often another place, size and strength are tried where a defect would hardly be seen.
const ATTEMPTS: usize = 12;

/// What the covered pixels must change by, on average over the channel that changes most.
const VISIBLE: u64 = 8;

/// One in so many pixels may be covered.
const LARGEST: usize = 3;

impl Defect {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Scratch,
        Self::Crack,
        Self::Contamination,
        Self::Stain,
        Self::Discolouration,
        Self::Paste,
        Self::Smudge,
        Self::Hole,
        Self::Missing,
        Self::Dent,
        Self::Specks,
        Self::Roughness,
    ];

    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scratch => "scratch",
            Self::Crack => "crack",
            Self::Contamination => "contamination",
            Self::Stain => "stain",
            Self::Discolouration => "discolouration",
            Self::Paste => "paste",
            Self::Smudge => "smudge",
            Self::Hole => "hole",
            Self::Missing => "missing",
            Self::Dent => "dent",
            Self::Specks => "specks",
            Self::Roughness => "roughness",
        }
    }

    /// Draws a defect of this kind on `image`; returns the image and the mask of the defect, which
    /// is never empty: no pixel outside has changed, most inside have. A paste may be taken from
    /// `donor`. The result follows from the image, the donor and `random` on every machine.
    ///
    /// # Errors
    /// None in practice: the sizes are those of `image`.
    pub fn draw(
        self,
        image: &Image,
        donor: Option<&Image>,
        random: &mut Random,
    ) -> Result<(Image, Mask), GeometryError> {
        let canvas = Canvas::new(image, donor);
        let largest = (image.as_bytes().len() / 3).div_ceil(LARGEST);
        let mut area = canvas.pixel(random);
        for _ in 0..ATTEMPTS {
            let (tried, paint) = self.plan(&canvas, random);
            let pixels = paint.apply(image, &tried);
            if pixels.len() > largest || pixels.is_empty() {
                continue;
            }
            if is_visible(image, &pixels) {
                return changed(image, &pixels);
            }
            area = tried;
        }
        // It would not be seen anywhere: where it was tried last, a change that is always seen.
        changed(image, &Paint::Shift { by: 90.0 }.apply(image, &area))
    }

    /// Where it goes and what it does there.
    fn plan<'a>(self, canvas: &Canvas<'a>, random: &mut Random) -> (Area, Paint<'a>) {
        let noise = Noise::new(random.bits());
        match self {
            Self::Scratch => {
                let lines: Vec<Area> = (0..=random.below(3))
                    .map(|_| canvas.scratch(random))
                    .collect();
                let area = Area::union(&lines);
                let colour = canvas.contrast(&area, random);
                (
                    area,
                    Paint::Fill {
                        colour,
                        uneven: 15.0,
                        noise,
                    },
                )
            }
            Self::Crack => {
                let area = canvas.crack(random);
                let dark = random.between(0.1, 0.5);
                let colour = canvas.mean(&area).map(|part| part * dark);
                (
                    area,
                    Paint::Fill {
                        colour,
                        uneven: 10.0,
                        noise,
                    },
                )
            }
            Self::Contamination => {
                let area = canvas.oval((0.02, 0.18), (0.0, 0.6), 0.0, random);
                let colour = canvas.contrast(&area, random);
                (
                    area,
                    Paint::Fill {
                        colour,
                        uneven: random.between(0.0, 50.0),
                        noise,
                    },
                )
            }
            Self::Stain => {
                let area = canvas.oval((0.06, 0.3), (0.3, 0.9), 0.6, random);
                let darker = random.between(0.45, 0.85);
                let gain = tint(random, 0.12).map(|part| part * darker);
                (
                    area,
                    Paint::Tint {
                        gain,
                        uneven: 0.7,
                        noise,
                    },
                )
            }
            Self::Discolouration => {
                let area = canvas.oval((0.04, 0.25), (0.0, 0.4), 0.1, random);
                let gain = if random.once_in(2) {
                    [random.signed(1.0) * random.between(0.15, 0.4) + 1.0; 3]
                } else {
                    tint(random, 0.45)
                };
                (
                    area,
                    Paint::Tint {
                        gain,
                        uneven: 0.2,
                        noise,
                    },
                )
            }
            Self::Paste => {
                let area = canvas.oval((0.03, 0.22), (0.0, 0.5), 0.0, random);
                let from = canvas.donor.unwrap_or(canvas.image);
                let paint = Paint::Copy {
                    from,
                    x: random.below(from.width()),
                    y: random.below(from.height()),
                    mirrored: random.once_in(2),
                    gain: random.between(0.85, 1.15),
                };
                (area, paint)
            }
            Self::Smudge => {
                let area = canvas.oval((0.05, 0.25), (0.1, 0.6), 0.5, random);
                let direction = random.direction();
                let reach = canvas.side * random.between(0.005, 0.02);
                let along = (direction.0 * reach, direction.1 * reach);
                (
                    area,
                    Paint::Smear {
                        along,
                        gain: random.between(0.85, 1.15),
                    },
                )
            }
            Self::Hole => {
                let area = canvas.oval((0.015, 0.1), (0.0, 0.2), 0.1, random);
                let colour = [random.between(0.0, 30.0); 3];
                (
                    area,
                    Paint::Fill {
                        colour,
                        uneven: 8.0,
                        noise,
                    },
                )
            }
            Self::Missing => {
                let area = canvas.oval((0.04, 0.22), (0.0, 0.5), 0.0, random);
                let colour = canvas.ground(&area, random);
                (
                    area,
                    Paint::Fill {
                        colour,
                        uneven: 5.0,
                        noise,
                    },
                )
            }
            Self::Dent => {
                let area = canvas.oval((0.05, 0.22), (0.0, 0.2), 1.0, random);
                let direction = random.direction();
                let reach = canvas.side * random.between(0.02, 0.08);
                let by = (direction.0 * reach, direction.1 * reach);
                let strength = random.between(0.05, 0.35);
                (
                    area,
                    Paint::Warp {
                        by,
                        shade: random.signed(strength),
                    },
                )
            }
            Self::Specks => {
                let area = canvas.swarm(random);
                let colour = canvas.contrast(&area, random);
                (
                    area,
                    Paint::Fill {
                        colour,
                        uneven: 25.0,
                        noise,
                    },
                )
            }
            Self::Roughness => {
                let area = canvas.oval((0.04, 0.22), (0.1, 0.6), 0.2, random);
                let amount = random.between(40.0, 130.0);
                let scale = 1.0 + canvas.side * random.mostly_small(0.0, 0.02);
                (
                    area,
                    Paint::Roughen {
                        amount,
                        scale,
                        noise,
                    },
                )
            }
        }
    }
}

/// Whether half the pixels change, and all together enough to be seen.
fn is_visible(image: &Image, pixels: &[(u32, u32, [u8; 3])]) -> bool {
    let (mut changed, mut sum) = (0, 0);
    for &(x, y, new) in pixels {
        let old = image.pixel(x, y).unwrap_or_default();
        let most = (0..3).map(|i| old[i].abs_diff(new[i])).max().unwrap_or(0);
        changed += usize::from(most > 0);
        sum += u64::from(most);
    }
    2 * changed > pixels.len() && sum >= VISIBLE * pixels.len() as u64
}

/// `image` with the colours of `pixels`, and their mask.
fn changed(image: &Image, pixels: &[(u32, u32, [u8; 3])]) -> Result<(Image, Mask), GeometryError> {
    let (width, height) = (image.width(), image.height());
    let mut bytes = image.as_bytes().to_vec();
    let mut mask = vec![false; width as usize * height as usize];
    for &(x, y, colour) in pixels {
        let at = y as usize * width as usize + x as usize;
        bytes[3 * at..3 * at + 3].copy_from_slice(&colour);
        mask[at] = true;
    }
    Ok((
        Image::new(width, height, bytes)?,
        Mask::new(width, height, mask)?,
    ))
}
