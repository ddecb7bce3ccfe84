//! 8-connected regions of a mask: the connected components that AUPRO averages over, and where the
//! anomalies of an image are.
//!
//! Works on runs (unbroken stretches of anomalous pixels in one row): runs of neighbouring rows
//! that touch, also by a corner, are joined with union-find. 8-connectivity is the default of
//! scikit-image's `label` and what the MVTec evaluation code uses.

use std::ops::Range;

/// Anomalous pixels of one row that lie side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// Positions in the row-major mask.
    pub(crate) pixels: Range<usize>,
    /// Index of the region, from 0 in the order of first pixels.
    pub(crate) region: usize,
}

/// Where a region is and how high it scores, in pixels of the map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Left edge of the bounding box.
    pub x: usize,
    /// Top edge of the bounding box.
    pub y: usize,
    /// Width of the bounding box.
    pub width: usize,
    /// Height of the bounding box.
    pub height: usize,
    /// Number of pixels.
    pub area: usize,
    /// Largest score.
    pub peak: f32,
    /// Column and row of the first pixel with the largest score.
    pub peak_at: (usize, usize),
}

/// The regions of one mask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Regions {
    columns: usize,
    /// In row-major order.
    pub(crate) runs: Vec<Run>,
    /// Pixels of each region.
    pub(crate) areas: Vec<usize>,
}

impl Regions {
    /// The regions of the pixels with a score of at least `threshold` in a row-major map with
    /// `columns` columns; NaN is below every threshold.
    pub fn at_least(columns: usize, scores: &[f32], threshold: f32) -> Self {
        let mask: Vec<bool> = scores.iter().map(|&score| score >= threshold).collect();
        Self::label(columns, &mask)
    }

    /// Labels the anomalous (`true`) pixels of a row-major mask with `columns` columns; the last row
    /// may be shorter.
    pub fn label(columns: usize, mask: &[bool]) -> Self {
        let columns = columns.max(1);
        let mut runs: Vec<Run> = Vec::new();
        let mut labels = Labels::default();
        let mut previous_row = 0..0;
        for (row, row_start) in mask.chunks(columns).zip((0..).step_by(columns)) {
            let first = runs.len();
            let mut candidates = previous_row.clone();
            for run in runs_of(row) {
                let pixels = run.start + row_start..run.end + row_start;
                // Corners touch, hence no strict comparison with the exclusive ends.
                let above = |run: &Run| run.pixels.start + columns..run.pixels.end + columns;
                while candidates.start < candidates.end
                    && above(&runs[candidates.start]).end < pixels.start
                {
                    candidates.start += 1;
                }
                let touching = runs[candidates.clone()]
                    .iter()
                    .take_while(|candidate| above(candidate).start <= pixels.end);
                let region = touching
                    .map(|run| run.region)
                    .reduce(|a, b| labels.join(a, b))
                    .unwrap_or_else(|| labels.fresh());
                runs.push(Run { pixels, region });
            }
            previous_row = first..runs.len();
        }

        let regions = labels.numbered();
        let mut areas = vec![0; regions.count];
        for run in &mut runs {
            run.region = regions.of_label[run.region];
            areas[run.region] += run.pixels.len();
        }
        Self {
            columns,
            runs,
            areas,
        }
    }

    /// How many regions there are.
    pub fn len(&self) -> usize {
        self.areas.len()
    }

    /// Whether no pixel is anomalous.
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }

    /// Each region with its bounding box and highest score, in the order of first pixels, row by
    /// row. `scores` are those of the map; what they lack counts as minus infinity.
    pub fn measure(&self, scores: &[f32]) -> Vec<Region> {
        let mut measured: Vec<Option<Region>> = vec![None; self.len()];
        for run in &self.runs {
            let (y, x) = (
                run.pixels.start / self.columns,
                run.pixels.start % self.columns,
            );
            let right = x + run.pixels.len();
            let region = measured[run.region].get_or_insert(Region {
                x,
                y,
                width: 0,
                height: 0,
                area: self.areas[run.region],
                peak: f32::NEG_INFINITY,
                peak_at: (x, y),
            });
            let right = right.max(region.x + region.width);
            region.x = region.x.min(x);
            region.width = right - region.x;
            region.height = y + 1 - region.y;
            for (score, x) in scores
                .get(run.pixels.clone())
                .unwrap_or_default()
                .iter()
                .zip(x..)
            {
                if *score > region.peak {
                    (region.peak, region.peak_at) = (*score, (x, y));
                }
            }
        }
        measured.into_iter().flatten().collect()
    }
}

/// The runs of one row, as ranges of columns.
fn runs_of(row: &[bool]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut column = 0;
    std::iter::from_fn(move || {
        let start = column + row[column..].iter().position(|&anomalous| anomalous)?;
        let length = row[start..].iter().position(|&anomalous| !anomalous);
        column = length.map_or(row.len(), |length| start + length);
        Some(start..column)
    })
}

/// Union-find over provisional labels; a parent is never larger than its child.
#[derive(Default)]
pub(crate) struct Labels {
    parents: Vec<usize>,
}

/// Provisional labels turned into consecutive region numbers.
struct Numbered {
    of_label: Vec<usize>,
    count: usize,
}

impl Labels {
    pub(crate) fn fresh(&mut self) -> usize {
        self.parents.push(self.parents.len());
        self.parents.len() - 1
    }

    pub(crate) fn root(&mut self, mut label: usize) -> usize {
        while self.parents[label] != label {
            self.parents[label] = self.parents[self.parents[label]];
            label = self.parents[label];
        }
        label
    }

    pub(crate) fn join(&mut self, a: usize, b: usize) -> usize {
        let (a, b) = (self.root(a), self.root(b));
        let (root, child) = (a.min(b), a.max(b));
        self.parents[child] = root;
        root
    }

    fn numbered(self) -> Numbered {
        let mut of_label = Vec::with_capacity(self.parents.len());
        let mut count = 0;
        for (label, parent) in self.parents.into_iter().enumerate() {
            if parent == label {
                of_label.push(count);
                count += 1;
            } else {
                of_label.push(of_label[parent]);
            }
        }
        Numbered { of_label, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Region number per pixel, written as letters; normal pixels as dots.
    fn picture(rows: &[&str]) -> Vec<String> {
        let columns = rows[0].len();
        let mask: Vec<bool> = rows.concat().bytes().map(|byte| byte == b'#').collect();
        let mut pixels = vec!['.'; mask.len()];
        for run in Regions::label(columns, &mask).runs {
            pixels[run.pixels].fill(char::from(b'a' + u8::try_from(run.region).unwrap()));
        }
        pixels
            .chunks(columns)
            .map(|row| row.iter().collect())
            .collect()
    }

    #[test]
    fn labels_regions() {
        let cases: [(&str, &[&str], &[&str]); 9] = [
            ("empty", &["...", "..."], &["...", "..."]),
            ("full", &["##", "##"], &["aa", "aa"]),
            ("single pixel", &["#"], &["a"]),
            ("one column", &["#", ".", "#"], &["a", ".", "b"]),
            (
                "falling diagonal",
                &["#..", ".#.", "..#"],
                &["a..", ".a.", "..a"],
            ),
            (
                "rising diagonal",
                &["..#", ".#.", "#.."],
                &["..a", ".a.", "a.."],
            ),
            ("row ends do not touch", &["..#", "#.."], &["..a", "b.."]),
            (
                "late join",
                &["#.#.#", "#.#.#", "###.#"],
                &["a.a.b", "a.a.b", "aaa.b"],
            ),
            (
                "spiral and its eye",
                &[
                    "#######", "#.....#", "#.###.#", "#...#.#", "#####.#", "......#", "#######",
                ],
                &[
                    "aaaaaaa", "a.....a", "a.aaa.a", "a...a.a", "aaaaa.a", "......a", "aaaaaaa",
                ],
            ),
        ];
        for (name, mask, expected) in cases {
            assert_eq!(picture(mask), expected, "{name}");
        }
    }

    /// Flood fill: slow and plain.
    fn flooded(columns: usize, mask: &[bool]) -> (Vec<Option<usize>>, Vec<usize>) {
        let rows = mask.len() / columns;
        let mut region_of = vec![None; mask.len()];
        let mut areas = Vec::new();
        for first in 0..mask.len() {
            if !mask[first] || region_of[first].is_some() {
                continue;
            }
            let mut area = 0;
            let mut open = vec![first];
            while let Some(pixel) = open.pop() {
                if !mask[pixel] || region_of[pixel].is_some() {
                    continue;
                }
                region_of[pixel] = Some(areas.len());
                area += 1;
                let (row, column) = (pixel / columns, pixel % columns);
                for y in row.saturating_sub(1)..=(row + 1).min(rows - 1) {
                    for x in column.saturating_sub(1)..=(column + 1).min(columns - 1) {
                        open.push(y * columns + x);
                    }
                }
            }
            areas.push(area);
        }
        (region_of, areas)
    }

    #[test]
    fn measures_regions() {
        #[rustfmt::skip]
        let scores = [
            0.9, 0.0, 0.0, 0.0, 0.5,
            0.0, 0.7, 0.0, 0.0, 0.6,
            0.0, 0.0, 0.4, f32::NAN, 0.0,
            0.5, 0.0, 0.0, 0.0, 0.95,
        ];
        let region = |(x, y), (width, height), area, peak, peak_at| Region {
            x,
            y,
            width,
            height,
            area,
            peak,
            peak_at,
        };
        let high = region((4, 3), (1, 1), 1, 0.95, (4, 3));
        let corners = vec![
            region((0, 0), (2, 2), 2, 0.9, (0, 0)),
            region((4, 0), (1, 2), 2, 0.6, (4, 1)),
            region((0, 3), (1, 1), 1, 0.5, (0, 3)),
            high,
        ];
        let all_but_nan = vec![region((0, 0), (5, 4), 19, 0.95, (4, 3))];
        for (name, threshold, expected) in [
            ("touching by a corner", 0.5, corners),
            ("one pixel", 0.94, vec![high]),
            ("none so high", 2.0, vec![]),
            ("all but NaN", 0.0, all_but_nan),
            ("no threshold", f32::NAN, vec![]),
        ] {
            let regions = Regions::at_least(5, &scores, threshold);
            assert_eq!(regions.measure(&scores), expected, "{name}");
            assert_eq!(regions.is_empty(), expected.is_empty(), "{name}");
        }
        // What cannot be a map is no panic.
        assert_eq!(Regions::at_least(0, &[1.0; 3], 0.5).len(), 1);
        assert_eq!(Regions::label(2, &[true; 3]).measure(&[1.0])[0].height, 2);
    }

    proptest! {
        #[test]
        fn equals_flood_fill(
            columns in 1_usize..20,
            rows in 1_usize..20,
            mask in prop::collection::vec(prop::bool::weighted(0.45), 400),
        ) {
            let mask = &mask[..rows * columns];
            let regions = Regions::label(columns, mask);
            let mut region_of = vec![None; mask.len()];
            for run in &regions.runs {
                region_of[run.pixels.clone()].fill(Some(run.region));
            }
            for (index, region) in regions.measure(&vec![1.0; mask.len()]).into_iter().enumerate() {
                let pixels = (0..mask.len()).filter(|pixel| region_of[*pixel] == Some(index));
                let at: Vec<_> = pixels.map(|pixel| (pixel % columns, pixel / columns)).collect();
                prop_assert_eq!(region.x, at.iter().map(|(x, _)| *x).min().unwrap());
                prop_assert_eq!(region.y, at.iter().map(|(_, y)| *y).min().unwrap());
                let right = at.iter().map(|(x, _)| *x).max().unwrap();
                let bottom = at.iter().map(|(_, y)| *y).max().unwrap();
                let end = (region.x + region.width, region.y + region.height);
                prop_assert_eq!(end, (right + 1, bottom + 1));
                prop_assert_eq!((region.area, region.peak_at), (at.len(), at[0]));
            }
            prop_assert_eq!((region_of, regions.areas), flooded(columns, mask));
        }
    }
}
