//! Outlines as pixels: against the definition, and what must hold for any polygon.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use anomalens_vision::{GeometryError, Mask, SparseMask};
use proptest::prelude::*;

const WIDTH: u32 = 12;
const HEIGHT: u32 = 9;

fn mask(polygons: &[&[[f64; 2]]]) -> Mask {
    let mut mask = Mask::empty(WIDTH, HEIGHT).unwrap();
    for polygon in polygons {
        let before = mask.count();
        let any = mask.fill_polygon(polygon);
        assert!(any || mask.count() == before);
    }
    mask
}

/// The even-odd rule pixel by pixel: how many sides cross the row to the left of the centre.
fn by_definition(corners: &[[f64; 2]], x: u32, y: u32) -> bool {
    let (x, y) = (f64::from(x) + 0.5, f64::from(y) + 0.5);
    let crosses = |i: &usize| {
        let (a, b) = (corners[*i], corners[(i + 1) % corners.len()]);
        let (top, bottom) = if a[1] <= b[1] { (a, b) } else { (b, a) };
        let along = (y - top[1]) / (bottom[1] - top[1]);
        top[1] <= y && y < bottom[1] && top[0] + along * (bottom[0] - top[0]) <= x
    };
    (0..corners.len()).filter(crosses).count() % 2 == 1
}

/// Corners within and around the image, some on centres and edges of pixels.
fn corner() -> impl Strategy<Value = [f64; 2]> {
    let exact =
        (-6..40_i32, -6..30_i32).prop_map(|(x, y)| [f64::from(x) / 2.0, f64::from(y) / 2.0]);
    let any = (-3.0..20.0, -3.0..15.0).prop_map(|(x, y)| [x, y]);
    prop_oneof![exact, any]
}

proptest! {
    #[test]
    fn pixels_are_those_of_the_definition(corners in prop::collection::vec(corner(), 3..8)) {
        let mask = mask(&[&corners]);
        for y in 0..HEIGHT {
            for x in 0..WIDTH {
                prop_assert_eq!(mask.get(x, y), by_definition(&corners, x, y), "{}, {}", x, y);
            }
        }
    }

    /// A pixel of a triangle lies in one (or all) of the three that a further point makes with its
    /// sides, one beside it in none or two: parts share no pixel and leave none out.
    #[test]
    fn parts_make_up_the_whole(a in corner(), b in corner(), c in corner(), d in corner()) {
        let whole = mask(&[&[a, b, c]]);
        let parts = [[a, b, d], [b, c, d], [c, a, d]].map(|part| mask(&[&part]));
        for (x, y) in (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y))) {
            let within = parts.iter().filter(|part| part.get(x, y)).count();
            prop_assert_eq!(within % 2 == 1, whole.get(x, y), "{}, {}", x, y);
        }
    }

    #[test]
    fn boxes_on_the_grid_are_exact(x in 0..WIDTH, y in 0..HEIGHT, w in 0..WIDTH, h in 0..HEIGHT) {
        let [left, top, right, bottom] = [x, y, x + w, y + h].map(f64::from);
        let mask = mask(&[&[[left, top], [right, top], [right, bottom], [left, bottom]]]);
        let inside = w.min(WIDTH - x) * h.min(HEIGHT - y);
        prop_assert_eq!(mask.count(), inside as usize);
    }

    #[test]
    fn runs_hold_the_same_pixels(values in prop::collection::vec(any::<bool>(), 108)) {
        let mask = Mask::new(WIDTH, HEIGHT, values).unwrap();
        let sparse = SparseMask::of(&mask).unwrap();
        prop_assert_eq!(sparse.any(), mask.any());
        prop_assert_eq!(sparse.to_mask(), mask);
    }

    #[test]
    fn column_runs_go_down_the_columns(
        lengths in prop::collection::vec(0..20_u32, 0..30),
    ) {
        let mut mask = Mask::empty(WIDTH, HEIGHT).unwrap();
        let mut left = WIDTH * HEIGHT;
        let mut fitting: Vec<u32> = lengths
            .iter()
            .map(|&length| {
                let fits = length.min(left);
                left -= fits;
                fits
            })
            .collect();
        fitting.push(left);
        let marked = (0_u32..).zip(&fitting);
        let columns: Vec<bool> = marked
            .flat_map(|(i, &length)| vec![i % 2 == 1; length as usize])
            .collect();
        prop_assert_eq!(mask.fill_column_runs(&fitting), Some(columns.contains(&true)));
        for (x, y) in (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| (x, y))) {
            prop_assert_eq!(mask.get(x, y), columns[(x * HEIGHT + y) as usize], "{}, {}", x, y);
        }
        fitting.push(1);
        prop_assert_eq!(Mask::empty(WIDTH, HEIGHT).unwrap().fill_column_runs(&fitting), None);
    }

    #[test]
    fn no_corner_panics(corners in prop::collection::vec(any::<[f64; 2]>(), 0..6)) {
        mask(&[&corners]);
    }
}

#[test]
fn polygons_by_hand() {
    // name, corners, pixels from the top left one
    type Case = (&'static str, &'static [[f64; 2]], &'static [&'static str]);
    let cases: [Case; 6] = [
        (
            "a pixel",
            &[[1.0, 1.0], [2.0, 1.0], [2.0, 2.0], [1.0, 2.0]],
            &["...", ".#.", "..."],
        ),
        (
            "from centre to centre",
            &[[0.5, 0.5], [2.5, 0.5], [2.5, 2.5], [0.5, 2.5]],
            &["##.", "##.", "..."],
        ),
        (
            "a triangle",
            &[[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]],
            &["##.", "#..", "..."],
        ),
        (
            "between centres",
            &[[0.6, 0.6], [1.4, 0.6], [1.4, 1.4], [0.6, 1.4]],
            &["...", "...", "..."],
        ),
        ("a line", &[[0.0, 0.0], [3.0, 3.0]], &["...", "...", "..."]),
        (
            "crossing itself",
            &[
                [0.0, 0.0],
                [3.0, 0.0],
                [3.0, 3.0],
                [0.0, 3.0],
                [0.0, 0.0],
                [1.0, 1.0],
                [2.0, 1.0],
                [2.0, 2.0],
                [1.0, 2.0],
                [1.0, 1.0],
            ],
            &["###", "#.#", "###"],
        ),
    ];
    for (name, corners, expected) in cases {
        let mask = mask(&[corners]);
        let row = |y| {
            (0..3)
                .map(|x| if mask.get(x, y) { '#' } else { '.' })
                .collect::<String>()
        };
        assert_eq!([row(0), row(1), row(2)], expected, "{name}");
    }
}

#[test]
fn sizes_without_sense_are_refused() {
    assert!(matches!(
        Mask::empty(0, 4),
        Err(GeometryError::Empty { .. })
    ));
    assert!(matches!(
        Mask::empty(1 << 19, 1 << 19),
        Err(GeometryError::TooLarge { .. })
    ));
    // Every other pixel, row by row: more runs than outlines have.
    let side = 4096;
    let comb = (0..side * side).map(|i| i % 2 == 0).collect();
    let comb = Mask::new(side, side, comb).unwrap();
    assert!(matches!(
        SparseMask::of(&comb),
        Err(GeometryError::TooManyRuns { .. })
    ));
}

#[test]
fn absurd_corners_are_cut_off_at_the_mask() {
    let far = 1e300;
    for (corners, all) in [
        ([[-far, -far], [far, -far], [far, far], [-far, far]], true),
        (
            [
                [far, far],
                [2.0 * far, far],
                [2.0 * far, 2.0 * far],
                [far, 2.0 * far],
            ],
            false,
        ),
        ([[-1.0, -1.0], [4e9, -1.0], [4e9, 4e9], [-1.0, 4e9]], true),
    ] {
        let mask = mask(&[&corners]);
        let expected = if all { (WIDTH * HEIGHT) as usize } else { 0 };
        assert_eq!(mask.count(), expected, "{corners:?}");
    }
}
