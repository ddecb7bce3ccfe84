//! Data that any language can make again, for values that were computed elsewhere.

/// Labels and two scores of `images` images, with at least `grid` different scores; from C's
/// example of a random generator, so that any language makes the same.
pub(crate) fn made_up(images: usize, grid: u32) -> (Vec<bool>, Vec<f32>, Vec<f32>) {
    let mut state = 7_u32;
    let mut random = || {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12345) % (1 << 31);
        state >> 16
    };
    let (mut labels, mut a, mut b) = (vec![], vec![], vec![]);
    for _ in 0..images {
        let anomalous = random() % 10 < 3;
        let raised = |by: u32| if anomalous { by } else { 0 };
        labels.push(anomalous);
        a.push((random() % grid + raised(grid / 4)) as f32);
        b.push((random() % grid + raised(grid / 7)) as f32);
    }
    (labels, a, b)
}
