//! Random numbers that are the same on every machine: a Mersenne twister, and arithmetic that
//! IEEE 754 fixes (no functions of the platform's mathematics library).

use rand_mt::Mt;

/// A source of random numbers.
#[derive(Debug, Clone)]
pub struct Random(Mt);

impl Random {
    /// The numbers that follow from all of `seeds`.
    pub fn new(seeds: &[u32]) -> Self {
        Self(Mt::new_with_key(seeds.iter().copied()))
    }

    /// Any 32 bits.
    pub(crate) fn bits(&mut self) -> u32 {
        self.0.next_u32()
    }

    /// In [0, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / 16_777_216.0
    }

    /// In [`low`, `high`).
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    /// As [`Random::between`], small numbers being more frequent.
    pub(crate) fn mostly_small(&mut self, low: f32, high: f32) -> f32 {
        let unit = self.unit();
        low + (high - low) * unit * unit
    }

    /// In 0..`count`; 0 if `count` is 0.
    pub(crate) fn below(&mut self, count: u32) -> u32 {
        ((u64::from(self.bits()) * u64::from(count)) >> 32) as u32
    }

    /// True once in `times` on average.
    pub(crate) fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    /// `value` or its opposite.
    pub(crate) fn signed(&mut self, value: f32) -> f32 {
        if self.once_in(2) { value } else { -value }
    }

    /// A vector of length 1 in any direction.
    pub(crate) fn direction(&mut self) -> (f32, f32) {
        loop {
            let (x, y) = (self.between(-1.0, 1.0), self.between(-1.0, 1.0));
            let squared = x * x + y * y;
            if (0.01..=1.0).contains(&squared) {
                let length = squared.sqrt();
                return (x / length, y / length);
            }
        }
    }
}
