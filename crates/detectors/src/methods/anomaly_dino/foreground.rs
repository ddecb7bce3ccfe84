//! Which patches show the object and which the ground (AnomalyDINO, section 3.2 and its reference code): a
//! threshold on the first principal component of the image's own tokens.

use anomalens_backbones::Grid;
use nalgebra::DMatrix;

use crate::components::principal_components::longest_axis;

/// Where the first principal component of a token is above this, it belongs to the object.
const THRESHOLD: f64 = 10.0;

/// The border that is left out where the centre of an image is looked at, as a part of its sides.
const BORDER: f64 = 0.2;

/// If at most this part of the centre is above the threshold, the component points to the ground
/// and its sign is turned.
const CENTRE_PART: f64 = 0.35;

/// Which of the `tokens` `[patches, width]` of an image belong to its object.
pub(super) fn foreground(tokens: &[f32], width: usize, grid: Grid) -> Vec<bool> {
    mask(&first_component(tokens, width), grid)
}

/// The first principal component of each of `tokens` `[patches, width]`. Its sign is that of
/// scikit-learn (1.5 and later): the direction's entry that is largest in size is positive.
///
/// The reference uses scikit-learn's randomised solver; this is what that converges to.
pub(super) fn first_component(tokens: &[f32], width: usize) -> Vec<f64> {
    let rows = tokens.len() / width.max(1);
    if rows == 0 {
        return vec![];
    }
    let mut centred = DMatrix::from_row_iterator(rows, width, tokens.iter().map(|&x| x.into()));
    let mean = centred.row_mean();
    centred.row_iter_mut().for_each(|mut row| row -= &mean);
    let direction = longest_axis(&centred.tr_mul(&centred));
    (centred * direction).iter().copied().collect()
}

/// The mask from the first principal component of each patch.
fn mask(component: &[f64], grid: Grid) -> Vec<bool> {
    let mut inside: Vec<bool> = component.iter().map(|&x| x > THRESHOLD).collect();
    if centre_part(&inside, grid) <= CENTRE_PART {
        inside = component.iter().map(|&x| -x > THRESHOLD).collect();
    }
    // The reference gives OpenCV the mask as one column, so that only the neighbours in reading
    // order count, also across the ends of rows: dilated once, then closed.
    erode(&dilate(&dilate(&inside)))
}

/// How much of the centre is set.
fn centre_part(inside: &[bool], grid: Grid) -> f64 {
    let range = |side: usize| {
        let at = |part: f64| (side as f64 * part) as usize;
        at(BORDER)..at(1.0 - BORDER)
    };
    let (rows, columns) = (range(grid.rows), range(grid.columns));
    let size = rows.len() * columns.len();
    let set = rows.map(|row| {
        let centre = &inside[row * grid.columns..][columns.clone()];
        centre.iter().filter(|inside| **inside).count()
    });
    set.sum::<usize>() as f64 / size as f64
}

fn dilate(mask: &[bool]) -> Vec<bool> {
    neighbours(mask).map(|near| near.contains(&true)).collect()
}

fn erode(mask: &[bool]) -> Vec<bool> {
    neighbours(mask)
        .map(|near| !near.contains(&false))
        .collect()
}

/// Each element with the ones before and after it, where they are.
fn neighbours(mask: &[bool]) -> impl Iterator<Item = &[bool]> {
    (0..mask.len()).map(|i| &mask[i.saturating_sub(1)..(i + 2).min(mask.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_the_longest_axis() {
        // Points on a line through (1, 2, 3), tilted twice; the largest entry decides the sign.
        for (name, axis) in [("up", [1.0, 0.5, -2.0_f32]), ("down", [0.2, 3.0, -0.1])] {
            let places = [-2.0, -1.0, 0.5, 2.5_f32];
            let tokens = places.iter().flat_map(|t| axis.map(|a| 1.0 + a * t));
            let found = first_component(&tokens.collect::<Vec<_>>(), 3);
            let length = axis.iter().map(|a| a * a).sum::<f32>().sqrt();
            let largest = axis.into_iter().max_by(|a, b| a.abs().total_cmp(&b.abs()));
            let sign = largest.map_or(1.0, f32::signum);
            for (found, place) in found.iter().zip(places) {
                let expected = f64::from(sign * length * place);
                assert!(
                    (found - expected).abs() < 1e-5,
                    "{name}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn flat_tokens_have_no_object() {
        let grid = Grid {
            rows: 5,
            columns: 5,
        };
        assert_eq!(foreground(&[2.0; 25 * 4], 4, grid), [false; 25]);
    }

    #[test]
    fn morphology_follows_the_reading_order() {
        let mask = |text: &str| text.bytes().map(|b| b == b'#').collect::<Vec<_>>();
        // (name, before, after one dilation and a closing)
        for (name, before, after) in [
            ("nothing", ".......", "......."),
            ("one", "...#...", "..###.."),
            ("a gap of three is filled", ".#...#...", "#######.."),
            ("a gap of four is filled", "#....#...", "#######.."),
            ("a gap of five is not", "#.....#....", "##...###..."),
            ("at the border", "#......", "##....."),
        ] {
            let found = erode(&dilate(&dilate(&mask(before))));
            assert_eq!(found, mask(after), "{name}");
        }
    }
}
