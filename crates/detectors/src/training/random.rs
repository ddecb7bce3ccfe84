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
