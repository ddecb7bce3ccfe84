//! Random choices that equal the reference implementations' draw for draw: NumPy's legacy
//! `RandomState` (a Mersenne twister) and, on top of it, scikit-learn's `train_test_split`.
//! InCTRL's data conversions split the normal images with it (75/25, random state 42).

use rand_mt::Mt;

use crate::sample::{Label, Sample, Split};

/// `random_state` of InCTRL's conversion scripts.
const RANDOM_STATE: u32 = 42;

/// Indices of the two parts of a split, in the order drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainTest {
    /// Three quarters, rounded down.
    pub train: Vec<usize>,
    /// One quarter, rounded up.
    pub test: Vec<usize>,
}

/// `numpy.random.RandomState(seed).permutation(n)`: the numbers 0 to n−1 in random order, for n
/// up to 2³².
pub fn permutation(n: usize, seed: u32) -> Vec<usize> {
    let mut generator = Mt::new(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        // NumPy draws below `last` by masking to the next power of two and drawing again while
        // the number is too large.
        let mask = usize::MAX >> last.leading_zeros();
        let other = loop {
            let draw = generator.next_u32() as usize & mask;
            if draw <= last {
                break draw;
            }
        };
        order.swap(last, other);
    }
    order
}

/// scikit-learn's `train_test_split(range(n), test_size=0.25, random_state=42)`.
pub fn train_test_split(n: usize) -> TrainTest {
    let mut test = permutation(n, RANDOM_STATE);
    let train = test.split_off(n.div_ceil(4));
    TrainTest { train, test }
}

/// Sends three quarters of the normal samples to training, by [`train_test_split`] over the order
/// in which they stand, and everything else to the test.
pub(crate) fn split_normals(samples: &mut [Sample]) {
    let mut normals: Vec<&mut Sample> = Vec::new();
    for sample in samples {
        sample.split = Split::Test;
        if sample.label == Label::Normal {
            normals.push(sample);
        }
    }
    for index in train_test_split(normals.len()).train {
        normals[index].split = Split::Train;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutation_equals_numpy() {
        assert_eq!(permutation(10, 42), [8, 1, 5, 0, 7, 2, 9, 4, 3, 6]);
        assert_eq!(permutation(1, 42), [0]);
        assert!(permutation(0, 42).is_empty());
    }

    #[test]
    fn train_test_split_equals_scikit_learn() {
        let split = train_test_split(100);
        assert_eq!(split.test[..8], [83, 53, 70, 45, 44, 39, 22, 80]);
        assert_eq!(split.train[..5], [15, 40, 96, 9, 72]);

        let split = train_test_split(1508);
        assert_eq!(split.test[..4], [578, 1146, 382, 583]);
    }

    #[test]
    fn sizes_round_as_scikit_learn_does() {
        // name, n, train, test
        let cases = [
            ("elpv", 1508, 1131, 377),
            ("brainmri", 98, 73, 25),
            ("headct", 100, 75, 25),
            ("sdd", 1143, 857, 286),
            ("one", 1, 0, 1),
            ("none", 0, 0, 0),
        ];
        for (name, n, train, test) in cases {
            let split = train_test_split(n);
            assert_eq!(
                (split.train.len(), split.test.len()),
                (train, test),
                "{name}"
            );
            let mut all = [split.train, split.test].concat();
            all.sort_unstable();
            assert!(all.into_iter().eq(0..n), "{name}");
        }
    }
}
