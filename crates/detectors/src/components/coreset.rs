//! A coreset: rows that cover all others, so that a memory bank stays small and a search fast
//! (PatchCore, Roth et al., CVPR 2022, section 3.2). Greedy k-centre, one row at a time as the papers have
//! it, or in rounds: each round takes rows that are far from all that were taken before.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use anomalens_backbones::Precision;
use rand_mt::Mt;
use rayon::prelude::*;

use super::nearest::{UnitVectors, matrix};
use super::tokens::squared_distance;
use crate::DetectorError;
use crate::training::random::{shuffled, uniform};

/// Rows that are measured together, and by one thread at least.
const TOGETHER: usize = 256;
const LEAST_TOGETHER: usize = 16;

/// Random rows from which the approximate selection measures how far rows are at first.
const FIRST: usize = 10;

/// How far a Johnson-Lindenstrauss projection may change the square of a distance.
const DISTORTION: f64 = 0.9;

/// Where the selection of one row at a time begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Start {
    /// With this row, which is the first that is taken.
    Row(usize),
    /// With the row whose distances to all rows have the largest norm; it counts as so far from what was
    /// taken.
    Norms,
    /// With the row that is farthest from these on average; it counts as so far from what was taken, and
    /// these are not taken.
    Mean(Vec<usize>),
}

impl Start {
    /// From a few random rows of `count`.
    pub(crate) fn random_mean(count: usize, random: &mut Mt) -> Self {
        let mut rows = shuffled(count, random);
        rows.truncate(FIRST);
        Self::Mean(rows)
    }

    /// The squares of how far each row counts as being from what was taken, before any was.
    fn squares(&self, rows: &[f32], width: usize) -> Vec<f32> {
        let each = rows.par_chunks_exact(width);
        match self {
            // Farther than any other, so that it comes first.
            Self::Row(first) => {
                let mut all = vec![f32::MAX; each.len()];
                if let Some(first) = all.get_mut(*first) {
                    *first = f32::INFINITY;
                }
                all
            }
            // The sum of |a - b|^2 over all b follows from that of b and of |b|^2.
            Self::Norms => {
                let mut sum = vec![0.0_f64; width];
                let mut squares = 0.0;
                for row in rows.chunks_exact(width) {
                    for (sum, &x) in sum.iter_mut().zip(row) {
                        *sum += f64::from(x);
                        squares += f64::from(x).powi(2);
                    }
                }
                let count = each.len() as f64;
                let total = each.map(|row| {
                    let terms = row.iter().zip(&sum).map(|(&x, sum)| {
                        let x = f64::from(x);
                        count * x * x - 2.0 * x * sum
                    });
                    (terms.sum::<f64>() + squares) as f32
                });
                total.collect()
            }
            Self::Mean(first) => {
                let mean = each.map(|row| {
                    let from = first.iter().map(|&i| &rows[i * width..][..width]);
                    let sum: f32 = from.map(|from| squared_distance(row, from).sqrt()).sum();
                    (sum / first.len().max(1) as f32).powi(2)
                });
                mean.collect()
            }
        }
    }
}

/// A row that was not taken yet.
#[derive(Clone, Copy)]
struct Far {
    /// The square of its distance to the nearest of the first `seen` rows that were taken: what it is from all
    /// of them can only be less.
    square: f32,
    row: usize,
    seen: usize,
}

impl Ord for Far {
    /// By distance, the first row before others that are as far.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_distance = self.square.total_cmp(&other.square);
        by_distance.then(other.row.cmp(&self.row))
    }
}

impl PartialOrd for Far {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Far {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Far {}

/// The indices of `most` of `rows` (`width` numbers each) in the order in which they are taken: each time
/// the row that is farthest from all taken so far, of equally far ones the first; fewer, if no other row
/// differs from those taken.
///
/// A row is measured against those taken meanwhile only when it looks farther than all others, which most
/// rows soon never do again.
pub(crate) fn greedy(rows: &[f32], width: usize, most: usize, start: &Start) -> Vec<usize> {
    if width == 0 || rows.is_empty() {
        return vec![];
    }
    let squares = start.squares(rows, width).into_iter().enumerate();
    let mut far: BinaryHeap<Far> = squares
        .map(|(row, square)| Far {
            square,
            row,
            seen: 0,
        })
        .collect();
    let (mut taken, mut taken_rows): (Vec<usize>, Vec<f32>) = (vec![], vec![]);
    let mut outdated: Vec<Far> = Vec::with_capacity(TOGETHER);
    while taken.len() < most {
        let is_outdated = |farthest: &Far| farthest.seen < taken.len();
        while let Some(farthest) = far.peek().filter(|farthest| is_outdated(farthest))
            && outdated.len() < TOGETHER
        {
            outdated.push(*farthest);
            far.pop();
        }
        if !outdated.is_empty() {
            let measured = outdated.par_iter_mut().with_min_len(LEAST_TOGETHER);
            measured.for_each(|far| {
                let row = &rows[far.row * width..][..width];
                for new in taken_rows[far.seen * width..].chunks_exact(width) {
                    far.square = far.square.min(squared_distance(row, new));
                }
                far.seen = taken.len();
            });
            far.extend(outdated.drain(..));
            continue;
        }
        match far.pop() {
            Some(farthest) if taken.is_empty() || farthest.square > 0.0 => {
                taken.push(farthest.row);
                taken_rows.extend(&rows[farthest.row * width..][..width]);
            }
            _ => break,
        }
    }
    taken
}

/// A random linear map of rows to shorter ones that keeps their distances nearly as they are.
pub(crate) struct Projection {
    /// `[from, to]`.
    matrix: candle_core::Tensor,
    width: usize,
}

impl Projection {
    /// Uniformly distributed, as PyTorch's linear layers begin (the original's).
    pub(crate) fn dense(from: usize, to: usize, random: &mut Mt) -> Result<Self, DetectorError> {
        let bound = (from as f64).sqrt().recip();
        Self::new(from, to, || ((2.0 * uniform(random) - 1.0) * bound) as f32)
    }

    /// As scikit-learn's `SparseRandomProjection` has it: most numbers are 0.
    pub(crate) fn sparse(from: usize, to: usize, random: &mut Mt) -> Result<Self, DetectorError> {
        let density = (from as f64).sqrt().recip();
        let size = (density * to as f64).sqrt().recip() as f32;
        Self::new(from, to, || match uniform(random) / density {
            x if x < 0.5 => size,
            x if x < 1.0 => -size,
            _ => 0.0,
        })
    }

    fn new(from: usize, to: usize, mut number: impl FnMut() -> f32) -> Result<Self, DetectorError> {
        Self::given((0..from * to).map(|_| number()).collect(), to)
    }

    /// That of the matrix `[from, to]`.
    pub(crate) fn given(numbers: Vec<f32>, to: usize) -> Result<Self, DetectorError> {
        Ok(Self {
            matrix: matrix(numbers, to)?,
            width: to,
        })
    }

    /// Length of the shorter rows.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// `rows`, each made shorter.
    pub(crate) fn apply(&self, rows: &[f32]) -> Result<Vec<f32>, DetectorError> {
        let rows = matrix(rows.to_vec(), self.matrix.dim(0)?)?;
        Ok(rows.matmul(&self.matrix)?.flatten_all()?.to_vec1()?)
    }
}

/// Numbers that are enough for the distances of `count` rows (Johnson and Lindenstrauss).
pub(crate) fn enough_numbers(count: usize) -> usize {
    let per_logarithm = 4.0 / (DISTORTION.powi(2) / 2.0 - DISTORTION.powi(3) / 3.0);
    (per_logarithm * (count.max(2) as f64).ln()) as usize
}

/// Rounds; more come nearer to taking one row at a time, and cost the same.
const ROUNDS: usize = 64;

/// In a round one of so many of the farthest rows is taken: neighbours are far together.
const APART: usize = 3;

/// The indices of at most `most` of `rows` (of length 1, `width` numbers each), in ascending order.
/// The same rows give the same coreset.
pub(crate) fn coreset(
    rows: &[f32],
    width: usize,
    most: usize,
) -> Result<Vec<usize>, DetectorError> {
    let count = rows.len() / width.max(1);
    if count <= most || most == 0 {
        return Ok((0..count).collect());
    }
    let round = most.div_ceil(ROUNDS);
    // Rows from everywhere come first.
    let mut taken: Vec<usize> = (0..round).map(|i| i * count / round).collect();
    let mut newest = taken.clone();
    let mut nearest = vec![f32::NEG_INFINITY; count];
    while taken.len() < most {
        let new = newest.iter().flat_map(|&row| &rows[row * width..][..width]);
        let new = UnitVectors::new(new.copied().collect(), width, Precision::Half)?;
        let similarities = new.roughly_highest_similarity(rows);
        let both = nearest.iter_mut().zip(similarities);
        both.for_each(|(nearest, new)| *nearest = nearest.max(new));
        for &row in &newest {
            nearest[row] = f32::INFINITY;
        }
        let wanted = round.min(most - taken.len());
        let mut order: Vec<usize> = (0..count).filter(|&row| nearest[row].is_finite()).collect();
        order.sort_by(|&a, &b| nearest[a].total_cmp(&nearest[b]));
        let apart = APART.min(order.len() / wanted.max(1)).max(1);
        newest = order.into_iter().step_by(apart).take(wanted).collect();
        if newest.is_empty() {
            break;
        }
        taken.extend(&newest);
    }
    taken.sort_unstable();
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::random::{generator, normal};

    /// Points on a circle: many near one place, few elsewhere.
    fn circle() -> Vec<f32> {
        let crowd = (0..900).map(|i| i as f32 * 1e-5);
        let rest = (0..100).map(|i| 0.5 + i as f32 * 0.05);
        crowd
            .chain(rest)
            .flat_map(|angle| [angle.cos(), angle.sin()])
            .collect()
    }

    #[test]
    fn a_coreset_covers_all_rows() {
        let rows = circle();
        for (most, expected) in [(1000, 1000), (2000, 1000), (0, 1000), (200, 200), (48, 48)] {
            let taken = coreset(&rows, 2, most).unwrap();
            assert_eq!(taken.len(), expected, "{most}");
            assert!(taken.is_sorted_by(|a, b| a < b), "{most}");
            assert_eq!(coreset(&rows, 2, most).unwrap(), taken);
            // The farthest row from all that were taken. Rows .05 apart can be covered to .05, and taking
            // the farthest one each time needs at most twice that (Gonzalez, 1985).
            let farthest = rows.chunks(2).map(|row| {
                let similarity = |&i: &usize| row[0] * rows[2 * i] + row[1] * rows[2 * i + 1];
                taken.iter().map(similarity).fold(-1.0, f32::max)
            });
            let farthest = farthest.fold(1.0, f32::min);
            assert!(
                farthest >= 0.1_f32.cos() - f32::EPSILON,
                "{most}: {farthest}"
            );
        }
        assert!(coreset(&[], 2, 5).unwrap().is_empty());
    }

    /// The definition of the original's selection: a matrix of all distances.
    fn naive(rows: &[f32], width: usize, most: usize, start: &Start) -> Vec<usize> {
        let distances: Vec<Vec<f64>> = rows
            .chunks(width)
            .map(|a| {
                let to = |b: &[f32]| {
                    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2));
                    squares.sum::<f64>().sqrt()
                };
                rows.chunks(width).map(to).collect()
            })
            .collect();
        let mut far: Vec<f64> = match start {
            Start::Row(first) => {
                let first = |i| if i == *first { f64::INFINITY } else { f64::MAX };
                (0..distances.len()).map(first).collect()
            }
            Start::Norms => {
                let norm = |row: &Vec<f64>| row.iter().map(|x| x * x).sum::<f64>().sqrt();
                distances.iter().map(norm).collect()
            }
            Start::Mean(first) => {
                let mean = |row: &Vec<f64>| first.iter().map(|&i| row[i]).sum::<f64>();
                let all = distances.iter();
                all.map(|row| mean(row) / first.len() as f64).collect()
            }
        };
        (0..most)
            .map(|_| {
                let all = far.iter().enumerate();
                let (new, _) = all.fold((0, -1.0), |best, (i, &x)| match x > best.1 {
                    true => (i, x),
                    false => best,
                });
                let nearer = far.iter_mut().zip(&distances[new]);
                nearer.for_each(|(far, new)| *far = far.min(*new));
                new
            })
            .collect()
    }

    #[test]
    fn one_row_at_a_time_is_the_definition() {
        let mut random = generator(5, 0);
        const WIDTH: usize = 4;
        let mut rows = normal(300 * WIDTH, 1.0, &mut random);
        // A second crowd, so that many rows need not be measured.
        rows[..600].iter_mut().for_each(|x| *x += 20.0);
        for start in [
            Start::Row(7),
            Start::Norms,
            Start::Mean(vec![3, 250, 77]),
            Start::random_mean(300, &mut random),
        ] {
            for most in [1, 40, 300] {
                let found = greedy(&rows, WIDTH, most, &start);
                assert_eq!(found, naive(&rows, WIDTH, most, &start), "{start:?}");
            }
        }
        assert_eq!(greedy(&rows, WIDTH, 999, &Start::Norms).len(), 300);
        assert!(greedy(&[], WIDTH, 3, &Start::Row(0)).is_empty());
        assert_eq!(greedy(&[1.0; 12], 2, 2, &Start::Row(4)), [4]);
    }

    #[test]
    fn projections_keep_distances() {
        let mut random = generator(5, 1);
        const WIDTH: usize = 400;
        let rows = normal(20 * WIDTH, 1.0, &mut random);
        let to = enough_numbers(20);
        let sparse = Projection::sparse(WIDTH, to, &mut random).unwrap();
        // Numbers of a uniform distribution up to 1 / sqrt(n) have variance 1 / 3n.
        let dense = Projection::dense(WIDTH, 128, &mut random).unwrap();
        for (projection, scale) in [(sparse, 1.0), (dense, 3.0 * WIDTH as f32 / 128.0)] {
            let short = projection.apply(&rows).unwrap();
            let (first, others) = short.split_at(projection.width());
            let whole = rows[WIDTH..].chunks(WIDTH);
            for (short, whole) in others.chunks(projection.width()).zip(whole) {
                let before = squared_distance(&rows[..WIDTH], whole);
                let ratio = scale * squared_distance(first, short) / before;
                assert!((0.4..1.9).contains(&ratio), "{ratio}");
            }
        }
        assert_eq!(enough_numbers(480), 152);
        assert_eq!(enough_numbers(163_856), 296);
    }
}
