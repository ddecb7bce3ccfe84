//! Random choices that follow from a seed.

use rand_mt::Mt;

/// A generator of its own for each `purpose`, so that one does not move another.
pub(crate) fn generator(seed: u32, purpose: u32) -> Mt {
    Mt::new_with_key([seed, purpose])
}

/// `0..count` in random order.
pub(crate) fn shuffled(count: usize, random: &mut Mt) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        let other = uniform(random) * (last + 1) as f64;
        order.swap(last, (other as usize).min(last));
    }
    order
}

/// `count` numbers of a normal distribution around zero.
pub(crate) fn normal(count: usize, deviation: f64, random: &mut Mt) -> Vec<f32> {
    (0..count)
        .map(|_| {
            let radius = (-2.0 * (1.0 - uniform(random)).ln()).sqrt();
            let angle = std::f64::consts::TAU * uniform(random);
            (deviation * radius * angle.cos()) as f32
        })
        .collect()
}

/// In [0, 1).
pub(crate) fn uniform(random: &mut Mt) -> f64 {
    f64::from(random.next_u32()) / (f64::from(u32::MAX) + 1.0)
}

/// Python's `random.seed(seed)`, then `random.sample(range(count), wanted)`: the same numbers in the same
/// order.
pub(crate) fn python_sample(seed: u32, count: usize, wanted: usize) -> Vec<usize> {
    let mut random = Mt::new_with_key([seed]);
    // The upper bits of a draw, as many as `bound` has, until it is below.
    let mut below = |bound: usize| loop {
        let bits = usize::BITS - bound.leading_zeros();
        let draw = (random.next_u32() >> (32 - bits.clamp(1, 32))) as usize;
        if draw < bound {
            break draw;
        }
    };
    let wanted = wanted.min(count);
    // Python takes numbers out of a list of all, or draws again where the list would be long.
    let mut longest_list = 21;
    if wanted > 5 {
        longest_list += 4_usize.pow(((3 * wanted) as f64).log(4.0).ceil() as u32);
    }
    if count <= longest_list {
        let mut left: Vec<usize> = (0..count).collect();
        let take = |_| left.swap_remove(below(left.len()));
        return (0..wanted).map(take).collect();
    }
    let mut drawn = vec![];
    while drawn.len() < wanted {
        let draw = below(count);
        if !drawn.contains(&draw) {
            drawn.push(draw);
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_pythons() {
        let wide = python_sample(1024, 1792, 550);
        assert_eq!(wide[..7], [1632, 39, 990, 1740, 797, 661, 1698]);
        let narrow = python_sample(1024, 448, 100);
        assert_eq!(narrow[..7], [408, 9, 247, 435, 199, 165, 424]);
        // So few of so many are drawn again where they repeat.
        let few = python_sample(1024, 1792, 5);
        assert_eq!(few, [1632, 39, 990, 1740, 797]);
    }
}
