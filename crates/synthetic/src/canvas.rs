//! Where on an image a defect can be, and what colours suit it there.

use anomalens_vision::Image;

use crate::area::{Area, Oval, Vector};
use crate::paint::colour_at;
use crate::random::Random;
use crate::texture::{Colour, tint};

/// The image that is drawn on.
pub(super) struct Canvas<'a> {
    pub(super) image: &'a Image,
    pub(super) donor: Option<&'a Image>,
    size: (u32, u32),
    /// That of a square as large as the image.
    pub(super) side: f32,
    /// The mean colour at the edge of the image.
    border: Colour,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(image: &'a Image, donor: Option<&'a Image>) -> Self {
        let size = (image.width(), image.height());
        Self {
            image,
            donor,
            size,
            side: (size.0 as f32 * size.1 as f32).sqrt(),
            border: outline_mean(image, (0, 0), size),
        }
    }

    /// A position for a defect: anywhere, but rather on something than on the ground around it.
    fn point(&self, random: &mut Random) -> Vector {
        let mut anywhere = || {
            (
                random.between(0.04, 0.96) * self.size.0 as f32,
                random.between(0.04, 0.96) * self.size.1 as f32,
            )
        };
        let (one, other) = (anywhere(), anywhere());
        let stands_out = |(x, y): Vector| {
            let colour = colour_at(self.image, x - 0.5, y - 0.5);
            (0..3)
                .map(|i| (colour[i] - self.border[i]).abs())
                .sum::<f32>()
        };
        if stands_out(one) < stands_out(other) {
            other
        } else {
            one
        }
    }

    /// Any one pixel.
    pub(super) fn pixel(&self, random: &mut Random) -> Area {
        Area {
            x: random.below(self.size.0),
            y: random.below(self.size.1),
            width: 1,
            height: 1,
            cover: vec![1.0],
        }
    }

    /// An ellipse or, now and then, a rectangle; its radius is a part of the side within `sizes`.
    pub(super) fn oval(
        &self,
        sizes: Vector,
        ragged: Vector,
        soft: f32,
        random: &mut Random,
    ) -> Area {
        let radius = self.side * random.mostly_small(sizes.0, sizes.1);
        let stretch = random.mostly_small(1.0, 2.0);
        let oval = Oval {
            centre: self.point(random),
            radii: ((radius * stretch).max(0.75), (radius / stretch).max(0.75)),
            direction: random.direction(),
            ragged: random.between(ragged.0, ragged.1),
            soft,
            angular: random.once_in(4),
        };
        Area::oval(self.size, &oval, random)
    }

    /// Width of the thinnest line: a pixel, or what it becomes when the image is shown small.
    fn hairline(&self) -> f32 {
        (self.side / 300.0).max(1.0)
    }

    /// A line with a constant bend.
    pub(super) fn scratch(&self, random: &mut Random) -> Area {
        const STEPS: usize = 20;
        let length = self.side * random.mostly_small(0.08, 0.8);
        let bend = random.between(-0.06, 0.06);
        let width = self.hairline() * random.mostly_small(1.0, 4.0);
        let mut direction = random.direction();
        let mut points = vec![self.point(random)];
        for _ in 0..STEPS {
            points.push(onwards(&points, direction, length / STEPS as f32));
            direction = turned(direction, bend);
        }
        Area::line(self.size, &points, &[width; STEPS])
    }

    /// A random walk that becomes thinner, with shorter ones that branch off.
    pub(super) fn crack(&self, random: &mut Random) -> Area {
        let step = (self.side / 60.0).max(1.0);
        let width = self.hairline() * random.mostly_small(1.0, 3.5);
        let mut walks = vec![(self.point(random), random.direction(), 8 + random.below(36))];
        let mut lines = Vec::new();
        while let Some((start, mut direction, steps)) = walks.pop() {
            let mut points = vec![start];
            let mut widths = Vec::new();
            for i in 0..steps {
                direction = turned(direction, random.between(-0.6, 0.6));
                let point = onwards(&points, direction, step);
                points.push(point);
                widths.push((width * (1.0 - i as f32 / steps as f32)).max(1.0));
                if random.once_in(8) {
                    let turn = random.signed(0.9);
                    walks.push((point, turned(direction, turn), (steps - i) / 3));
                }
            }
            lines.push(Area::line(self.size, &points, &widths));
        }
        Area::union(&lines)
    }

    /// Small ovals around one point.
    pub(super) fn swarm(&self, random: &mut Random) -> Area {
        let centre = self.point(random);
        let spread = self.side * random.mostly_small(0.03, 0.2);
        let specks: Vec<Area> = (0..3 + random.below(25))
            .map(|_| {
                let direction = random.direction();
                let distance = spread * random.unit();
                let radius = (self.side * random.mostly_small(0.003, 0.015)).max(0.75);
                let oval = Oval {
                    centre: (
                        centre.0 + direction.0 * distance,
                        centre.1 + direction.1 * distance,
                    ),
                    radii: (radius, radius),
                    direction,
                    ragged: 0.2,
                    soft: 0.0,
                    angular: false,
                };
                Area::oval(self.size, &oval, random)
            })
            .collect();
        Area::union(&specks)
    }

    /// The mean colour of what is covered.
    pub(super) fn mean(&self, area: &Area) -> Colour {
        mean(
            area.pixels()
                .map(|(x, y, _)| colour_at(self.image, x as f32, y as f32)),
        )
    }

    /// A colour clearly lighter or darker than what is covered.
    pub(super) fn contrast(&self, area: &Area, random: &mut Random) -> Colour {
        let mean = self.mean(area);
        let level = (mean[0] + mean[1] + mean[2]) / 3.0;
        let away = random.between(35.0, 140.0);
        let target = match (level + away > 245.0, level < away) {
            (true, _) => level - away,
            (false, true) => level + away,
            (false, false) => level + random.signed(away),
        };
        let hue = tint(random, 0.25);
        [0, 1, 2].map(|i| (target * hue[i]).clamp(0.0, 255.0))
    }

    /// The colour of what lies behind: around the area, or at the border of the image.
    pub(super) fn ground(&self, area: &Area, random: &mut Random) -> Colour {
        if random.once_in(2) {
            let end = (area.x + area.width, area.y + area.height);
            outline_mean(self.image, (area.x, area.y), end)
        } else {
            self.border
        }
    }
}

/// The mean colour along the sides of a rectangle.
fn outline_mean(image: &Image, (left, top): (u32, u32), (right, bottom): (u32, u32)) -> Colour {
    let across = (left..right).flat_map(|x| [(x, top), (x, bottom)]);
    let down = (top..bottom).flat_map(|y| [(left, y), (right, y)]);
    mean(
        across
            .chain(down)
            .map(|(x, y)| colour_at(image, x as f32, y as f32)),
    )
}

/// The point one step after the last of `points`.
fn onwards(points: &[Vector], direction: Vector, step: f32) -> Vector {
    let from = points.last().copied().unwrap_or_default();
    (from.0 + direction.0 * step, from.1 + direction.1 * step)
}

/// `direction` turned by about `turn` radians.
fn turned(direction: Vector, turn: f32) -> Vector {
    let (x, y) = (
        direction.0 - turn * direction.1,
        direction.1 + turn * direction.0,
    );
    let length = (x * x + y * y).sqrt();
    (x / length, y / length)
}

fn mean(colours: impl Iterator<Item = Colour>) -> Colour {
    let (mut sum, mut count) = ([0.0_f32; 3], 0.0_f32);
    for colour in colours {
        sum = [0, 1, 2].map(|i| sum[i] + colour[i]);
        count += 1.0;
    }
    sum.map(|part| part / count.max(1.0))
}
