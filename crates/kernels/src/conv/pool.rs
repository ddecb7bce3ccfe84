//! The largest number of each window.

use crate::kernel::Kernel;
use crate::parallel::{Shared, Workers};
use crate::simd::Simd;

use super::map::{Geometry, Map, inside};

/// `to = max over windows of from`; `to` has its size.
pub(super) fn max_pool(
    kernel: &Kernel,
    from: &Map,
    to: &mut Map,
    geometry: &Geometry,
    workers: Workers,
) {
    let width = geometry.to.columns * to.channels;
    let numbers = Shared::new(to.numbers_mut());
    workers.for_each(geometry.to.rows, |row| {
        // SAFETY: every row belongs to one task.
        let to = unsafe { numbers.part(row * width, width) };
        let job = Line {
            from: from.numbers(),
            channels: from.channels,
            geometry,
            row,
        };
        // SAFETY: a kernel is only made where its instruction set is there.
        unsafe { (kernel.pool)(&job, to) };
    });
}

/// One row of the output.
pub(crate) struct Line<'a> {
    /// `[rows, columns, channels]`
    from: &'a [f32],
    channels: usize,
    geometry: &'a Geometry,
    row: usize,
}

/// Computes a row, `[columns, channels]`.
///
/// # Safety
/// The processor must have the instruction set, and the caller must be compiled for it.
#[inline(always)]
pub(crate) unsafe fn pool<S: Simd>(job: &Line, to: &mut [f32]) {
    let Geometry {
        window,
        from,
        to: grid,
        top,
        left,
    } = *job.geometry;
    let channels = job.channels;
    assert!(
        job.from.len() == from.len() * channels && to.len() == grid.columns * channels,
        "maps of other sizes than the windows"
    );
    let (side, stride) = (window.side, window.stride);
    let (_, rows) = inside(job.row, stride, top, side, from.rows);
    for column in 0..grid.columns {
        let (_, columns) = inside(column, stride, left, side, from.columns);
        for channel in (0..channels).step_by(S::LANES) {
            let width = S::LANES.min(channels - channel);
            // SAFETY: `inside` keeps places within the map; `width` channels are left in each.
            unsafe {
                let mut most = S::splat(f32::NEG_INFINITY);
                for row in rows.clone() {
                    for column in columns.clone() {
                        let at = (row * from.columns + column) * channels + channel;
                        most = S::max(most, S::load_part(job.from.as_ptr().add(at), width));
                    }
                }
                let to = to.as_mut_ptr().add(column * channels + channel);
                S::store_part(to, most, width);
            }
        }
    }
}
