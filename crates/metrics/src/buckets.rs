//! Putting the pixels of all maps in order with little memory beyond the maps.
//!
//! The range of score keys is cut into equal buckets. Each map's pixels are dealt into buckets on
//! their own (one small counting sort per map, in parallel); then each bucket is collected from all
//! maps and sorted alone. Whatever the scores, the order is exact; if nearly all of them share one
//! bucket, which takes scores packed closely beside far outliers, that sort runs on one core and holds
//! a second copy of the keys.

/// Small enough that a map's bucket counters stay in the first-level cache.
pub(crate) const BUCKETS: usize = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 12;

/// Which bucket a score key belongs to. A higher bucket holds higher scores.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucketing {
    lowest: u32,
    shift: u32,
}

impl Bucketing {
    /// Equal buckets over the keys `lowest..=highest`.
    pub(crate) fn new(lowest: u32, highest: u32) -> Self {
        let bits = u32::BITS - (highest - lowest).leading_zeros();
        Self {
            lowest,
            shift: bits.saturating_sub(BUCKET_BITS),
        }
    }

    /// The bucket of a key of the range.
    pub(crate) fn bucket_of(self, key: u32) -> usize {
        ((key - self.lowest) >> self.shift) as usize
    }
}

/// Items grouped by bucket.
#[derive(Debug)]
pub(crate) struct Bucketed<T> {
    items: Vec<T>,
    /// Where each bucket ends in `items`.
    ends: Vec<u32>,
}

impl<T: Copy + Default> Bucketed<T> {
    /// Groups at most `u32::MAX` items.
    pub(crate) fn new(items: &[T], bucket_of: impl Fn(T) -> usize) -> Self {
        let mut positions = vec![0_u32; BUCKETS];
        for &item in items {
            positions[bucket_of(item)] += 1;
        }
        let mut start = 0;
        for position in &mut positions {
            let count = std::mem::replace(position, start);
            start += count;
        }
        let mut grouped = vec![T::default(); items.len()];
        for &item in items {
            let position = &mut positions[bucket_of(item)];
            grouped[*position as usize] = item;
            *position += 1;
        }
        // Each position has moved from the start of its bucket to the end.
        Self {
            items: grouped,
            ends: positions,
        }
    }

    /// The items of one bucket, in no particular order.
    pub(crate) fn bucket(&self, bucket: usize) -> &[T] {
        let start = bucket.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.items[start as usize..self.ends[bucket] as usize]
    }
}
