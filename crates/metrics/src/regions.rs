//! 8-connected regions of a mask: the connected components that AUPRO averages over.
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

/// The regions of one mask.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Regions {
    /// In row-major order.
    pub(crate) runs: Vec<Run>,
    /// Pixels of each region.
    pub(crate) areas: Vec<usize>,
}

impl Regions {
    /// Labels the anomalous (`true`) pixels of a row-major mask with `columns` columns.
    pub(crate) fn label(columns: usize, mask: &[bool]) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        let mut labels = Labels::default();
        let mut previous_row = 0..0;
        for row_start in (0..mask.len()).step_by(columns) {
            let row = &mask[row_start..row_start + columns];
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
        Self { runs, areas }
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
struct Labels {
    parents: Vec<usize>,
}

/// Provisional labels turned into consecutive region numbers.
struct Numbered {
    of_label: Vec<usize>,
    count: usize,
}

impl Labels {
    fn fresh(&mut self) -> usize {
        self.parents.push(self.parents.len());
        self.parents.len() - 1
    }

    fn root(&mut self, mut label: usize) -> usize {
        while self.parents[label] != label {
            self.parents[label] = self.parents[self.parents[label]];
            label = self.parents[label];
        }
        label
    }

    fn join(&mut self, a: usize, b: usize) -> usize {
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
            prop_assert_eq!((region_of, regions.areas), flooded(columns, mask));
        }
    }
}
