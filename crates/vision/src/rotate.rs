//! An image moved in place, and rotated as OpenCV's `warpAffine` does it (bilinear, reflect-101 borders),
//! which AnomalyDINO uses to rotate its reference shots.
//!
//! Positions are rounded to 1/32 pixel as in OpenCV 4, so results are equal to its own and quarter
//! turns copy pixels instead of blending them.

use rayon::prelude::*;

use crate::image::Image;

/// Fractional bits of a coordinate while it is summed up (OpenCV's `AB_BITS`).
const COORDINATE_BITS: u32 = 10;

/// Fractional bits of a sampling position (OpenCV's `INTER_BITS`).
const POSITION_BITS: u32 = 5;

const POSITIONS: i64 = 1 << POSITION_BITS;

impl Image {
    /// Rotates counter-clockwise by `degrees` about the true centre of the image, whose size stays.
    ///
    /// For square images quarter turns are exact: four of them give the image back.
    #[must_use]
    pub fn rotate(&self, degrees: f64) -> Image {
        let middle = |side: u32| (f64::from(side) - 1.0) / 2.0;
        self.rotate_about(degrees, (middle(self.width()), middle(self.height())))
    }

    /// Rotates counter-clockwise by `degrees` about `centre`, given as (x, y) in units of pixels with
    /// (0, 0) in the middle of the top left pixel. What comes from outside is mirrored at the border
    /// pixels (reflect-101).
    ///
    /// AnomalyDINO's reference code rotates about (width / 2, height / 2), half a pixel off the true
    /// centre.
    #[must_use]
    pub fn rotate_about(&self, degrees: f64, centre: (f64, f64)) -> Image {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let (centre_x, centre_y) = centre;
        let offset_x = centre_x - cos * centre_x + sin * centre_y;
        let offset_y = centre_y - sin * centre_x - cos * centre_y;
        // Saturates at 32 bits as in OpenCV, which keeps the sums below from overflowing.
        let fixed =
            |v: f64| i64::from((v * f64::from(1 << COORDINATE_BITS)).round_ties_even() as i32);
        // To 1/32 pixel, rounded: half a step is added before the surplus bits are cut off.
        const SURPLUS_BITS: u32 = COORDINATE_BITS - POSITION_BITS;
        let position = |v: i64| (v + (1 << (SURPLUS_BITS - 1))) >> SURPLUS_BITS;

        let mut rotated = self.clone();
        rotated.rows_mut().enumerate().for_each(|(y, row)| {
            let y = y as f64;
            let start_x = fixed(offset_x - sin * y);
            let start_y = fixed(offset_y + cos * y);
            for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let x = x as f64;
                *pixel = self.sample(
                    position(start_x + fixed(cos * x)),
                    position(start_y + fixed(sin * x)),
                );
            }
        });
        rotated
    }

    /// Moves by so many pixels to the right and down; what enters repeats the edge.
    #[must_use]
    pub fn moved(&self, right: i64, down: i64) -> Image {
        let from = |at: usize, by: i64, side: u32| {
            let at = (at as i64).saturating_sub(by);
            at.clamp(0, i64::from(side) - 1) as usize
        };
        let pixels = self.as_bytes().as_chunks::<3>().0;
        let mut moved = self.clone();
        moved.rows_mut().enumerate().for_each(|(y, row)| {
            let source = &pixels[from(y, down, self.height()) * self.width() as usize..];
            for (x, pixel) in row.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                *pixel = source[from(x, right, self.width())];
            }
        });
        moved
    }

    fn rows_mut(&mut self) -> impl IndexedParallelIterator<Item = &mut [u8]> {
        let row_length = self.width() as usize * 3;
        self.as_bytes_mut().par_chunks_exact_mut(row_length)
    }

    /// Blends the four pixels around a position given in 1/32 pixels.
    fn sample(&self, x: i64, y: i64) -> [u8; 3] {
        let (left, right_weight) = (x.div_euclid(POSITIONS), x.rem_euclid(POSITIONS) as u32);
        let (top, bottom_weight) = (y.div_euclid(POSITIONS), y.rem_euclid(POSITIONS) as u32);
        let left_weight = POSITIONS as u32 - right_weight;
        let top_weight = POSITIONS as u32 - bottom_weight;
        let columns = [left, left + 1].map(|x| reflect_101(x, self.width()));
        let rows = [top, top + 1].map(|y| reflect_101(y, self.height()) * self.width() as usize);
        let pixels = self.as_bytes().as_chunks::<3>().0;
        let corners = rows.map(|row| columns.map(|column| pixels[row + column]));
        std::array::from_fn(|channel| {
            let blend = |row: [[u8; 3]; 2]| {
                let [left, right] = row.map(|pixel| u32::from(pixel[channel]));
                left * left_weight + right * right_weight
            };
            let sum = blend(corners[0]) * top_weight + blend(corners[1]) * bottom_weight;
            const SCALE: u32 = 1 << (2 * POSITION_BITS);
            ((sum + SCALE / 2) / SCALE) as u8
        })
    }
}

/// Mirrors an index at the first and last pixel, which are not repeated: `c b | a b c | b a`.
fn reflect_101(index: i64, size: u32) -> usize {
    let last = i64::from(size) - 1;
    if last == 0 {
        return 0;
    }
    let folded = index.rem_euclid(2 * last);
    folded.min(2 * last - folded) as usize
}
