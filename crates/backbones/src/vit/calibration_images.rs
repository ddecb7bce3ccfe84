//! Images that 8-bit networks are fitted to, and that devices and exported files are tried on: they need no
//! data set, and are the same everywhere.
//!
//! Dead leaves (Lee, Mumford and Huang, 2001) have the edges, the areas and the independence of scale
//! of natural images: rectangles of random colours, sides and places that cover one another.

use anomalens_vision::Preprocessed;

use crate::checkpoint::uniform;

/// The mean of colours after normalisation is 0, and their deviation 1: those of CLIP and DINOv2 differ by
/// little from these.
const MEAN: f32 = 0.45;
const DEVIATION: f32 = 0.25;

/// Rectangles of an image: enough to cover it.
const RECTANGLES: usize = 300;

/// Which numbers they follow from.
const STREAM: u64 = 0x1ea5;

/// `count` images of a size, normalised as most networks want them.
pub fn test_inputs(count: usize, height: usize, width: usize) -> Vec<Preprocessed> {
    let side = height.max(width);
    let drawn = draw(count, side);
    let images = drawn.chunks_exact((3 * side * side).max(1));
    let image = images.map(|image| {
        let planes = image.chunks_exact(side * side);
        let rows = planes.flat_map(|plane| plane.chunks_exact(side).take(height));
        Preprocessed {
            height,
            width,
            values: rows.flat_map(|row| &row[..width]).copied().collect(),
        }
    });
    image.collect()
}

/// The same as bytes of RGB, `[height, width, 3]` each.
pub fn test_images(count: usize, height: usize, width: usize) -> Vec<Vec<u8>> {
    let byte = |value: f32| ((value * DEVIATION + MEAN) * 255.0).round() as u8;
    let inputs = test_inputs(count, height, width);
    let image = inputs.iter().map(|Preprocessed { values, .. }| {
        let (places, planes) = (height * width, [0, 1, 2]);
        let pixel = |at: usize| planes.map(|plane| byte(values[plane * places + at]));
        (0..places).flat_map(pixel).collect()
    });
    image.collect()
}

/// `count` images of three colours, `[count, 3, side, side]`, normalised.
pub(super) fn draw(count: usize, side: usize) -> Vec<f32> {
    let mut random = Random::default();
    (0..count)
        .flat_map(|i| image(i, side, &mut random))
        .collect()
}

fn image(i: usize, side: usize, random: &mut Random) -> Vec<f32> {
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
