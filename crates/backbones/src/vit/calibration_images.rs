//! Images that 8-bit networks are fitted to: they need no data set, and are the same everywhere.
//!
//! Dead leaves (Lee, Mumford and Huang, 2001) have the edges, the areas and the independence of scale
//! of natural images: rectangles of random colours, sides and places that cover one another.

use crate::checkpoint::uniform;

/// Rectangles of an image: enough to cover it.
const RECTANGLES: usize = 300;

/// Which numbers they follow from.
const STREAM: u64 = 0x1ea5;

/// `count` images of three colours, `[count, 3, side, side]`, in numbers as they are after the
/// normalisation of CLIP and DINOv2, which differ by little.
pub fn draw(count: usize, side: usize) -> Vec<f32> {
    let mut random = Random::default();
    (0..count)
        .flat_map(|i| image(i, side, &mut random))
        .collect()
}

fn image(i: usize, side: usize, random: &mut Random) -> Vec<f32> {
    const MEAN: f32 = 0.45;
    const DEVIATION: f32 = 0.25;
    // From bold to faint, and grey every second time: so are pictures from industry.
    let contrast = [1.0, 0.5, 0.2, 0.1][i % 4];
    let (grey, grain) = ((i / 4).is_multiple_of(2), 0.1 * random.next());
    let light = 0.5 + (random.next() - 0.5) * (1.0 - contrast);
    let mut pixels = vec![0.0; 3 * side * side];
    for _ in 0..RECTANGLES {
        let shade = random.next();
        let colour = [(); 3].map(|()| if grey { shade } else { random.next() });
        let mut span = || {
            let length = (side as f32).powf(random.next());
            let start = random.next() * (side as f32 + length) - length;
            let pixel = |x: f32| x.clamp(0.0, side as f32) as usize;
            pixel(start)..pixel(start + length)
        };
        let (rows, columns) = (span(), span());
        for (plane, colour) in pixels.chunks_exact_mut(side * side).zip(colour) {
            for row in plane.chunks_exact_mut(side).take(rows.end).skip(rows.start) {
                row[columns.clone()].fill(colour);
            }
        }
    }
    for pixel in &mut pixels {
        let value = light + contrast * (*pixel - 0.5 + grain * (random.next() - 0.5));
        *pixel = (value.clamp(0.0, 1.0) - MEAN) / DEVIATION;
    }
    pixels
}

/// A stream of numbers that is always the same.
#[derive(Default)]
struct Random {
    drawn: u64,
}

impl Random {
    /// A number in [0, 1).
    fn next(&mut self) -> f32 {
        let number = uniform(STREAM, self.drawn);
        self.drawn += 1;
        number as f32
    }
}
