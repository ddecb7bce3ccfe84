//! The depth of a product in stretches, and their weights on the way into the first-level cache.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::{PANEL, Product};
use crate::buffer::Buffer;
use crate::simd::{Dot, Simd};

/// Words of a row in a stretch.
const fn depth<D: Dot>() -> usize {
    match D::Simd::BLOCKED {
        true => ROOM,
        false => usize::MAX,
    }
}

/// Words of a stretch that [`Room`] has place for.
const ROOM: usize = 192;

/// Wide weights of a stretch.
#[repr(align(64))]
pub(super) struct Room([MaybeUninit<f32>; ROOM * PANEL]);

impl Room {
    /// With nothing in it yet.
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self([const { MaybeUninit::uninit() }; ROOM * PANEL])
    }
}

/// Weights of a panel from a place on, for so many words of the rows, made as wide as these.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
pub(super) unsafe fn widen<D: Dot>(
    weights: *const f32,
    words: usize,
    room: &mut Room,
) -> *const f32 {
    let words = words.div_ceil(D::STEPS);
    assert!(words * D::STEPS <= ROOM, "a stretch that is too long");
    let to = room.0.as_mut_ptr().cast::<f32>();
    for word in 0..words {
        for vector in (0..PANEL).step_by(D::Simd::LANES) {
            // SAFETY: a panel has PANEL columns, and the room is long enough, see above.
            unsafe {
                let narrow = D::Simd::load(weights.add(word * PANEL + vector));
                for step in 0..D::STEPS {
                    let to = to.add((word * D::STEPS + step) * PANEL + vector);
                    D::Simd::store(to, D::widen(narrow, step));
                }
            }
        }
    }
    to
}

/// Fetches part of the next panel's stretch into the second-level cache, all of it in the course of
/// this panel's blocks, `share` lines with each: weights come from far, and only the first block would
/// wait for them.
#[inline(always)]
pub(super) unsafe fn fetch_share<D: Dot>(
    job: &Product,
    panel: usize,
    stretch: &Stretch,
    (block, share): (usize, usize),
) {
    let lines = stretch.words() / D::STEPS * PANEL / Buffer::LINE;
    let next = ((panel + 1) * job.depth + stretch.at) * PANEL;
    for line in (block * share).min(lines)..((block + 1) * share).min(lines) {
        // SAFETY: nothing is read, whatever the address.
        unsafe { D::Simd::fetch(job.panels.wrapping_add(next + line * Buffer::LINE).cast()) }
    }
}

/// A part of the depth, of which the weights of a tile fit the first-level cache.
#[derive(Clone, Copy)]
pub(super) struct Stretch<'a> {
    /// Where the words of parts begin, in words from the beginning of a row.
    pub(super) parts: &'a [usize],
    /// The words of each of them.
    pub(super) from: usize,
    pub(super) count: usize,
    /// The first word of weights.
    pub(super) at: usize,
    pub(super) first: bool,
    pub(super) last: bool,
}

impl Stretch<'_> {
    /// Words of a row.
    pub(super) fn words(&self) -> usize {
        self.parts.len() * self.count
    }
}

/// All of a product's depth in stretches: some parts at once, or some words of one.
pub(super) struct Stretches<'a, D> {
    parts: &'a [usize],
    used: usize,
    /// Parts and words at once.
    together: usize,
    most: usize,
    part: usize,
    word: usize,
    dot: PhantomData<D>,
}

impl<'a, D: Dot> Stretches<'a, D> {
    #[inline(always)]
    pub(super) fn new(job: &Product<'a>) -> Self {
        let used = job.used.max(1);
        let pieces = used.div_ceil(depth::<D>());
        Self {
            parts: job.parts,
            used: job.used,
            together: (depth::<D>() / used).max(1),
            most: used.div_ceil(pieces).next_multiple_of(D::STEPS),
            part: 0,
            word: 0,
            dot: PhantomData,
        }
    }
}

impl<'a, D: Dot> Iterator for Stretches<'a, D> {
    type Item = Stretch<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Stretch<'a>> {
        let (part, from) = (self.part, self.word);
        if part >= self.parts.len() {
            return None;
        }
        let parts = &self.parts[part..self.parts.len().min(part + self.together)];
        let count = self.most.min(self.used - from);
        self.word += count;
        if self.word >= self.used {
            (self.part, self.word) = (part + parts.len(), 0);
        }
        Some(Stretch {
            parts,
            from,
            count,
            at: (part * self.used + from) / D::STEPS,
            first: (part, from) == (0, 0),
            last: self.part >= self.parts.len(),
        })
    }
}
