//! Figures that papers published, each with its source; never shown without it.
//!
//! A file in `published/` holds the figures of one source; a new one needs a line in `SOURCES`.

use std::sync::LazyLock;

use anomalens_datasets::{Published as Counts, layout};
use serde::{Deserialize, Serialize};

use crate::Metrics;

/// The figures published for one method on one data set; metrics as fractions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The data set: its layout's name where there is one.
    pub data: String,
    /// The class, where the figure is not a mean over all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The method, as the source calls it.
    pub method: String,
    /// Normal images given, if any.
    pub shots: Option<usize>,
    /// Image-level AUROC.
    pub image_auroc: Option<f64>,
    /// Average precision of the image scores.
    pub image_ap: Option<f64>,
    /// Pixel-level AUROC.
    pub pixel_auroc: Option<f64>,
    /// AUPRO as the source computes it; most take 200 thresholds.
    pub aupro: Option<f64>,
    /// What must be known of the figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Where they stand.
    #[serde(skip_deserializing)]
    pub source: &'static str,
}

impl Published {
    /// Source and note in one line.
    pub fn origin(&self) -> String {
        match &self.note {
            Some(note) => format!("{}; {note}", self.source),
            None => self.source.to_owned(),
        }
    }

    /// Its figures as metrics.
    pub fn metrics(&self) -> Metrics {
        Metrics {
            image_auroc: self.image_auroc,
            image_ap: self.image_ap,
            pixel_auroc: self.pixel_auroc,
            aupro_200_steps: self.aupro,
            ..Metrics::default()
        }
    }
}

/// What a source is called, and its figures as comma-separated values.
const SOURCES: [(&str, &str); 6] = [
    (
        "Zhou et al., AnomalyCLIP, ICLR 2024, tables 1 and 2",
        include_str!("../published/anomalyclip.csv"),
    ),
    (
        "published prompts, logs of zqhang/AnomalyCLIP, December 2024",
        include_str!("../published/anomalyclip-prompts.csv"),
    ),
    (
        "Zhu and Pang, InCTRL, CVPR 2024",
        include_str!("../published/inctrl.csv"),
    ),
    (
        "the methods' papers, quoted in the README of huzongxiang/sowa",
        include_str!("../published/few-shot.csv"),
    ),
    (
        "Huang et al., RegAD, ECCV 2022, README of MediaBrain-SJTU/RegAD",
        include_str!("../published/regad.csv"),
    ),
    (
        "the methods' papers and repositories",
        include_str!("../published/all-normals.csv"),
    ),
];

static FIGURES: LazyLock<Vec<Published>> = LazyLock::new(|| {
    let read = |&(source, text): &(&'static str, &'static str)| {
        // A test reads every line: none is left out here.
        csv::Reader::from_reader(text.as_bytes())
            .into_deserialize::<Published>()
            .flatten()
            .map(move |figure| Published { source, ..figure })
            .collect::<Vec<_>>()
    };
    SOURCES.iter().flat_map(read).collect()
});

/// The figures published for the data set `data` as a whole.
pub fn figures(data: &str) -> impl Iterator<Item = &'static Published> {
    let whole = |figure: &&Published| figure.class.is_none();
    FIGURES
        .iter()
        .filter(whole)
        .filter(move |figure| figure.data == data)
}

/// Those of them that a mean over `classes` classes is compared with: none if they are means over
/// more or fewer.
pub fn comparable(data: &str, classes: usize) -> impl Iterator<Item = &'static Published> {
    let is_whole = class_count(data).is_none_or(|all| all == classes);
    figures(data).filter(move |_| is_whole)
}

/// How many classes the figures published for `data` are means over, if its classes are counted one
/// by one.
pub fn class_count(data: &str) -> Option<usize> {
    match layout(data).ok()?.about.as_ref()?.published {
        Counts::Classes(classes) => Some(classes.len()),
        _ => None,
    }
}

/// The figures published for the class `class` of `data`.
pub fn class_figures(data: &str, class: &str) -> impl Iterator<Item = &'static Published> {
    FIGURES
        .iter()
        .filter(move |figure| figure.data == data && figure.class.as_deref() == Some(class))
}

/// Every data set that figures are published for.
pub fn data_sets() -> Vec<&'static str> {
    let mut names: Vec<&str> = FIGURES.iter().map(|figure| figure.data.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_every_source_is_read() {
        for (source, text) in SOURCES {
            let lines = text.lines().count() - 1;
            let found = FIGURES.iter().filter(|figure| figure.source == source);
            assert_eq!(found.count(), lines, "{source}");
        }
        for figure in FIGURES.iter() {
            let all = [
                figure.image_auroc,
                figure.image_ap,
                figure.pixel_auroc,
                figure.aupro,
            ];
            assert!(all.iter().any(Option::is_some), "{figure:?}");
            assert!(
                all.iter().flatten().all(|x| (0.0..=1.0).contains(x)),
                "{figure:?}"
            );
        }
    }

    #[test]
    fn every_data_set_has_a_layout() {
        for name in data_sets() {
            let found = anomalens_datasets::layout(name);
            assert!(found.is_ok_and(|layout| layout.about.is_some()), "{name}");
        }
    }

    #[test]
    fn a_mean_over_some_classes_is_not_compared_with_one_over_all() {
        for (data, classes, comparable_with) in [
            ("mvtec", 15, true),
            ("mvtec", 14, false),
            ("mvtec", 1, false),
            ("visa", 12, true),
            ("headct", 1, true),
        ] {
            let found = comparable(data, classes).count();
            let expected = if comparable_with {
                figures(data).count()
            } else {
                0
            };
            assert_eq!(found, expected, "{data}, {classes}");
            assert_ne!(figures(data).count(), 0, "{data}");
        }
    }

    #[test]
    fn the_table_of_anomalyclip_is_whole() {
        let methods = |data: &str| {
            figures(data)
                .filter(|figure| figure.source.contains("tables 1 and 2"))
                .count()
        };
        let table = data_sets();
        assert_eq!(table.iter().filter(|data| methods(data) > 0).count(), 17);
        let cells: usize = table.iter().map(|data| methods(data)).sum();
        // Six methods, of which CoOp lacks DTD-Synthetic.
        assert_eq!(cells, 17 * 6 - 1);
    }
}
