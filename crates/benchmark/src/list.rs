//! The suites: which data sets are measured together, by which methods, trained on what.

use serde::Serialize;

use crate::BenchmarkError;
use crate::comparable::published_weights;
use anomalens_base::nearest;

/// Data sets that are measured together, as a paper's tables do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Suite {
    /// What it is called.
    pub name: &'static str,
    /// One line on what it is.
    pub summary: &'static str,
    /// The data sets by layout, in the order of the tables.
    pub data: &'static [&'static str],
    /// What methods that are trained learn from: the first, and for measuring on the first the
    /// second.
    pub train_on: [&'static str; 2],
    /// What zero-shot methods are tuned on in the end, to be measured once more.
    pub tuning: Option<&'static str>,
    /// The methods, where none are asked for.
    pub methods: &'static [&'static str],
    /// Numbers of normal images for methods that need some.
    pub shots: &'static [usize],
    /// Seeds of their choice.
    pub seeds: &'static [u32],
    /// Side of the square at which pixel metrics are computed.
    pub resolution: u32,
    /// Whether it is there to be compared with a paper's tables.
    pub is_published: bool,
}

impl Suite {
    /// The weights that `method` sees images with where none are named: those of its published figures, if
    /// the suite is compared with them and they are of one network.
    pub fn weights(&self, method: &str) -> Option<&'static str> {
        self.is_published
            .then(|| published_weights(method))
            .flatten()
    }
}

/// The columns of AnomalyCLIP's tables.
const ANOMALYCLIP: &[&str] = &[
    "clip",
    "clip-ac",
    "winclip",
    "april-gan",
    "coop",
    "anomalyclip",
];

/// The data sets of AnomalyCLIP's ablations.
const ABLATION: &[&str] = &["mvtec", "visa"];

static SUITES: [Suite; 6] = [
    Suite {
        name: "anomalyclip-industrial",
        summary: "industrial data sets of AnomalyCLIP (ICLR 2024, table 1), zero-shot",
        data: &[
            "mvtec",
            "visa",
            "mpdd",
            "btad",
            "sdd",
            "dagm",
            "dtd-synthetic",
        ],
        train_on: ["mvtec", "visa"],
        tuning: None,
        methods: ANOMALYCLIP,
        shots: &[0, 4],
        seeds: &[0],
        resolution: 518,
        is_published: true,
    },
    Suite {
        name: "anomalyclip-medical",
        summary: "medical data sets of AnomalyCLIP (ICLR 2024, table 2), zero-shot",
        data: &[
            "headct",
            "brainmri",
            "br35h",
            "covid-19",
            "isic",
            "cvc-colondb",
            "cvc-clinicdb",
            "kvasir",
            "endo",
            "tn3k",
        ],
        train_on: ["mvtec", "visa"],
        tuning: None,
        methods: ANOMALYCLIP,
        shots: &[0, 4],
        seeds: &[0],
        resolution: 518,
        is_published: true,
    },
    Suite {
        name: "inctrl",
        summary: "data sets of InCTRL (CVPR 2024, tables 1 to 3), two, four and eight shots",
        data: &[
            "elpv",
            "sdd",
            "aitex",
            "visa",
            "mvtec",
            "brainmri",
            "headct",
            "mnist",
            "cifar10",
            "cifar10-multi",
        ],
        train_on: ["mvtec", "visa"],
        tuning: None,
        methods: &[
            "spade",
            "padim",
            "patchcore",
            "regad",
            "winclip",
            "coop",
            "inctrl",
        ],
        shots: &[2, 4, 8],
        seeds: &[0, 1, 2],
        resolution: 256,
        is_published: true,
    },
    Suite {
        name: "ablation",
        summary: "data sets of AnomalyCLIP's ablations, each trained on the other (`bench ablation`)",
        data: ABLATION,
        train_on: ["mvtec", "visa"],
        tuning: None,
        methods: &["anomalyclip"],
        shots: &[4],
        seeds: &[0],
        resolution: 518,
        is_published: true,
    },
    Suite {
        name: "tn3k",
        summary: "TN3K, zero-shot, and after tuning on the masks of its training part",
        data: &["tn3k"],
        train_on: ["mvtec", "visa"],
        tuning: Some("tn3k-training"),
        methods: &["anomalyclip"],
        shots: &[4],
        seeds: &[0],
        resolution: 518,
        is_published: true,
    },
    Suite {
        name: "local",
        summary: "small data sets that are easy to get, every kind of method",
        data: &[
            "elpv",
            "headct",
            "brainmri",
            "sdd",
            "br35h",
            "magnetic-tile",
            "mvtec",
            "textile",
            "mnist",
        ],
        train_on: ["magnetic-tile", "sdd"],
        tuning: None,
        methods: &[
            "lens",
            "anomaly-dino",
            "patchcore",
            "padim",
            "spade",
            "musc",
            "acr",
        ],
        shots: &[0, 2, 4, 8],
        seeds: &[0, 1, 2],
        resolution: 256,
        is_published: false,
    },
];

/// Every suite.
pub fn suites() -> &'static [Suite] {
    &SUITES
}

/// The suite called `name`.
///
/// # Errors
/// [`BenchmarkError::UnknownSuite`] with the nearest name.
pub fn suite(name: &str) -> Result<&'static Suite, BenchmarkError> {
    SUITES
        .iter()
        .find(|suite| suite.name == name)
        .ok_or_else(|| BenchmarkError::UnknownSuite {
            name: name.to_owned(),
            nearest: nearest(name, SUITES.iter().map(|suite| suite.name)),
            known: SUITES.map(|suite| suite.name).join(", "),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_those_of_the_papers() {
        for (name, method, expected) in [
            (
                "anomalyclip-industrial",
                "anomalyclip",
                Some("clip-vit-l14-336"),
            ),
            ("inctrl", "regad", Some("resnet18")),
            ("inctrl", "lens", None),
            ("local", "patchcore", None),
        ] {
            let suite = suite(name).unwrap();
            assert_eq!(suite.weights(method), expected, "{name}, {method}");
        }
    }

    #[test]
    fn suites_are_found_and_the_nearest_is_offered() {
        for (name, found) in [
            ("inctrl", Ok("inctrl")),
            ("lokal", Err(Some("local"))),
            ("zzz", Err(None)),
        ] {
            let result = match suite(name) {
                Ok(suite) => Ok(suite.name),
                Err(BenchmarkError::UnknownSuite { nearest, .. }) => Err(nearest),
                Err(other) => unreachable!("{other}"),
            };
            assert_eq!(
                result,
                found.map_err(|nearest| nearest.map(str::to_owned)),
                "{name}"
            );
        }
    }

    #[test]
    fn every_method_and_layout_is_there_and_figures_are_published() {
        for suite in suites() {
            for method in suite.methods {
                assert!(anomalens_detectors::find(method).is_ok(), "{method}");
            }
            for data in suite
                .data
                .iter()
                .chain(&suite.train_on)
                .chain(&suite.tuning)
            {
                assert!(anomalens_datasets::layout(data).is_ok(), "{data}");
            }
            let published = anomalens_evaluation::published::data_sets();
            let known = suite.data.iter().filter(|data| published.contains(data));
            assert!(known.count() > 0, "{}", suite.name);
        }
    }
}
