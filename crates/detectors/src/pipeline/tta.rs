//! Test-time augmentation: an image is scored in several views, each moved right and down by a part
//! of a patch. What lies across the border of patches in one view is in the middle of one in
//! another.

use anomalens_vision::{Map, Preprocessed};
use serde::{Deserialize, Serialize};

use crate::{DetectorError, Scored};

/// The most views that are of use: patches are 14 to 16 pixels wide.
const MOST: usize = 8;

/// The number of views in which each image is scored: 1 is the image as it is; view `i` of `n` is
/// moved by `i / n` of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "usize", into = "usize")]
pub struct Tta(usize);

impl Default for Tta {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<usize> for Tta {
    type Error = String;

    fn try_from(views: usize) -> Result<Self, Self::Error> {
        match views {
            1..=MOST => Ok(Self(views)),
            _ => Err(format!("`tta` must be 1 to {MOST}")),
        }
    }
}

impl From<Tta> for usize {
    fn from(tta: Tta) -> Self {
        tta.0
    }
}

impl Tta {
    /// How many views.
    pub fn count(self) -> usize {
        self.0
    }

    /// All views of `input` for a network with patches of `patch` pixels; the first is the input.
    pub fn views(self, input: Preprocessed, patch: usize) -> Vec<Preprocessed> {
        let moves = (1..self.0).map(|view| moved(&input, view * patch / self.0));
        let moves: Vec<Preprocessed> = moves.collect();
        [vec![input], moves].concat()
    }
}

/// The input moved right and down by `by` pixels; what enters mirrors what is there.
fn moved(input: &Preprocessed, by: usize) -> Preprocessed {
    let (height, width) = (input.height, input.width);
    let values = input.values.chunks_exact(height * width).flat_map(|plane| {
        (0..height).flat_map(move |y| {
            let row = &plane[y.abs_diff(by).min(height - 1) * width..][..width];
            (0..width).map(move |x| row[x.abs_diff(by).min(width - 1)])
        })
    });
    Preprocessed {
        height,
        width,
        values: values.collect(),
    }
}

/// One result of all views of an image: the mean of the scores, and a map of as many times the
/// resolution as there are views, with the mean of what each place scored.
pub(super) fn merge(views: Vec<Scored>) -> Result<Option<Scored>, DetectorError> {
    let (Some(first), count) = (views.first(), views.len()) else {
        return Ok(None);
    };
    let (rows, columns) = (first.map.rows(), first.map.columns());
    let mean = |y: usize, x: usize| {
        // The last parts of patches left the picture when it was moved.
        let seen = views.iter().enumerate().filter_map(|(view, scored)| {
            let (row, column) = ((y + view) / count, (x + view) / count);
            let inside = row < rows && column < columns;
            inside.then(|| scored.map.values()[row * columns + column])
        });
        let (sum, count) = seen.fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0_f32));
        sum / count
    };
    let values = (0..count * rows).flat_map(|y| (0..count * columns).map(move |x| mean(y, x)));
    Ok(Some(Scored {
        score: views.iter().map(|view| view.score).sum::<f32>() / count as f32,
        map: Map::new(count * rows, count * columns, values.collect())?,
        range: first.range,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NormalRange;

    fn scored(score: f32, values: &[f32]) -> Scored {
        Scored {
            score,
            map: Map::new(1, values.len(), values.to_vec()).unwrap(),
            range: NormalRange::default(),
        }
    }

    #[test]
    fn views_are_moved_by_parts_of_a_patch_and_mirror_their_edge() {
        let values = (0..48).map(|i| i as f32).collect();
        let input = Preprocessed {
            height: 4,
            width: 4,
            values,
        };
        assert_eq!(Tta(1).views(input.clone(), 4), std::slice::from_ref(&input));
        let two = Tta(2).views(input.clone(), 4);
        assert_eq!(two[0], input);
        let expected = [
            [10., 9., 8., 9.],
            [6., 5., 4., 5.],
            [2., 1., 0., 1.],
            [6., 5., 4., 5.],
        ];
        assert_eq!(two[1].values[..16], expected.concat());
        assert_eq!(two[1].values[32], 42.0);
        assert_eq!((two[1].height, two[1].width), (4, 4));
        let four = Tta(4).views(input, 4);
        assert_eq!(four.len(), 4);
        assert_eq!(four[1].values[..4], [5., 4., 5., 6.]);
        assert_eq!(four[2], two[1]);
    }

    #[test]
    fn views_are_averaged_where_they_overlap() {
        let one = scored(1.0, &[2.0, 4.0]);
        assert_eq!(merge(vec![one.clone()]).unwrap().unwrap(), one);
        assert_eq!(merge(vec![]).unwrap(), None);
        let two = merge(vec![one.clone(), scored(3.0, &[6.0, 8.0])]);
        let two = two.unwrap().unwrap();
        assert_eq!(two.score, 2.0);
        assert_eq!((two.map.rows(), two.map.columns()), (2, 4));
        // Columns: patch 1 twice, patch 2 twice; moved by half: 1, 2, 2, none.
        assert_eq!(two.map.values()[..4], [4.0, 5.0, 6.0, 4.0]);
        // The lower half of the only row left the picture.
        assert_eq!(two.map.values()[4..], [2.0, 2.0, 4.0, 4.0]);
        let three = merge(vec![
            one,
            scored(3.0, &[6.0, 8.0]),
            scored(5.0, &[1.0, 0.0]),
        ]);
        let three = three.unwrap().unwrap();
        assert_eq!(three.score, 3.0);
        assert_eq!((three.map.rows(), three.map.columns()), (3, 6));
        // Columns: 1 1 1 2 2 2; moved by a third: 1 1 2 2 2 -; by two thirds: 1 2 2 2 - -.
        let expected = [3.0, 8.0 / 3.0, 10.0 / 3.0, 4.0, 6.0, 4.0];
        for (found, expected) in three.map.values()[..6].iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }

    #[test]
    fn the_number_of_views_is_checked() {
        for (text, expected) in [
            ("1", Some(Tta(1))),
            ("2", Some(Tta(2))),
            ("8", Some(Tta(8))),
        ] {
            assert_eq!(serde_json::from_str(text).ok(), expected);
        }
        for bad in ["0", "9", "-1", "\"two\""] {
            assert!(serde_json::from_str::<Tta>(bad).is_err(), "{bad}");
        }
    }
}
