//! Looking at an image a second time, moved by half a patch: what lies across the border of patches at
//! first is in the middle of one then.

use anomalens_vision::{Map, Preprocessed};
use serde::{Deserialize, Serialize};

use crate::{DetectorError, Scored};

/// How often each image goes through the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum Looks {
    /// As it is.
    #[default]
    Once,
    /// And again, moved right and down by half a patch; both results are averaged.
    Twice,
}

impl TryFrom<u8> for Looks {
    type Error = &'static str;

    fn try_from(looks: u8) -> Result<Self, Self::Error> {
        match looks {
            1 => Ok(Self::Once),
            2 => Ok(Self::Twice),
            _ => Err("`looks` must be 1 or 2"),
        }
    }
}

impl From<Looks> for u8 {
    fn from(looks: Looks) -> Self {
        match looks {
            Looks::Once => 1,
            Looks::Twice => 2,
        }
    }
}

impl Looks {
    /// How many.
    pub(crate) fn count(self) -> usize {
        u8::from(self).into()
    }

    /// The input of the second look, if there is one, to a network with patches of `patch` pixels.
    pub fn second(self, input: &Preprocessed, patch: usize) -> Option<Preprocessed> {
        (self == Self::Twice).then(|| moved(input, patch / 2))
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

/// One result of both looks: the mean of the scores, and a map of twice the resolution with the mean of
/// what each place scored.
pub(crate) fn merge(first: Scored, second: Option<Scored>) -> Result<Scored, DetectorError> {
    let Some(second) = second else {
        return Ok(first);
    };
    let (rows, columns) = (first.map.rows(), first.map.columns());
    let (here, moved) = (first.map.values(), second.map.values());
    let mean = |y: usize, x: usize| {
        let at_first = here[y / 2 * columns + x / 2];
        let (row, column) = (y.div_ceil(2), x.div_ceil(2));
        // The last half patches left the picture when it was moved.
        match row < rows && column < columns {
            true => 0.5 * (at_first + moved[row * columns + column]),
            false => at_first,
        }
    };
    let values = (0..2 * rows).flat_map(|y| (0..2 * columns).map(move |x| mean(y, x)));
    Ok(Scored {
        score: 0.5 * (first.score + second.score),
        map: Map::new(2 * rows, 2 * columns, values.collect())?,
        range: first.range,
    })
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
    fn a_moved_input_mirrors_its_edge() {
        let values = (0..48).map(|i| i as f32).collect();
        let input = Preprocessed {
            height: 4,
            width: 4,
            values,
        };
        let moved = moved(&input, 2);
        let expected = [
            [10., 9., 8., 9.],
            [6., 5., 4., 5.],
            [2., 1., 0., 1.],
            [6., 5., 4., 5.],
        ];
        assert_eq!(moved.values[..16], expected.concat());
        assert_eq!(moved.values[32], 42.0);
        assert_eq!((moved.height, moved.width), (4, 4));
    }

    #[test]
    fn looks_are_averaged_where_they_overlap() {
        let one = scored(1.0, &[2.0, 4.0]);
        assert_eq!(merge(one.clone(), None).unwrap(), one);
        let both = merge(one, Some(scored(3.0, &[6.0, 8.0]))).unwrap();
        assert_eq!(both.score, 2.0);
        assert_eq!((both.map.rows(), both.map.columns()), (2, 4));
        // Columns: patch 1 twice, patch 2 twice; moved by half: 1, 2, 2, none.
        assert_eq!(both.map.values()[..4], [4.0, 5.0, 6.0, 4.0]);
        // The lower half of the only row left the picture.
        assert_eq!(both.map.values()[4..], [2.0, 2.0, 4.0, 4.0]);
    }

    #[test]
    fn looks_are_one_or_two() {
        for (text, expected) in [("1", Some(Looks::Once)), ("2", Some(Looks::Twice))] {
            assert_eq!(serde_json::from_str(text).ok(), expected);
        }
        for bad in ["0", "3", "\"two\""] {
            assert!(serde_json::from_str::<Looks>(bad).is_err(), "{bad}");
        }
    }
}
