//! Figures that papers published, each with its source; never shown without it.

use serde::Serialize;

/// One published figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Published {
    /// The method, as its paper calls it.
    pub method: &'static str,
    /// The data set's layout.
    pub data: &'static str,
    /// Normal images given, if any.
    pub shots: Option<usize>,
    /// Image-level AUROC, as a fraction.
    pub image_auroc: f64,
    /// Where the figure stands.
    pub source: &'static str,
}

const INCTRL: &str = "Zhu and Pang, CVPR 2024 (quoted, not re-read in the paper)";
const ANOMALYCLIP: &str = "Zhou et al., ICLR 2024, tables 1 and 2";

const FIGURES: [Published; 12] = [
    inctrl_elpv(2, 0.839),
    inctrl_elpv(4, 0.846),
    inctrl_elpv(8, 0.872),
    zero_shot("AnomalyCLIP", "headct", 0.934),
    zero_shot("AnomalyCLIP", "brainmri", 0.903),
    zero_shot("AnomalyCLIP", "sdd", 0.847),
    zero_shot("VAND", "headct", 0.891),
    zero_shot("VAND", "brainmri", 0.893),
    zero_shot("VAND", "sdd", 0.798),
    zero_shot("WinCLIP", "headct", 0.818),
    zero_shot("WinCLIP", "brainmri", 0.866),
    zero_shot("WinCLIP", "sdd", 0.843),
];

const fn inctrl_elpv(shots: usize, image_auroc: f64) -> Published {
    Published {
        method: "InCTRL",
        data: "elpv",
        shots: Some(shots),
        image_auroc,
        source: INCTRL,
    }
}

const fn zero_shot(method: &'static str, data: &'static str, image_auroc: f64) -> Published {
    Published {
        method,
        data,
        shots: None,
        image_auroc,
        source: ANOMALYCLIP,
    }
}

/// The figures published for the data set of layout `data`.
pub fn figures(data: &str) -> impl Iterator<Item = &'static Published> {
    FIGURES.iter().filter(move |figure| figure.data == data)
}
