//! Which published rows a method of ours can be compared with, and what stands against it.

/// How a method stands to the published figures.
struct Standing {
    /// The method's name here.
    method: &'static str,
    /// Its names in the papers' tables.
    published: &'static [&'static str],
    /// The weights that the published figures were made with; none if several were.
    weights: Option<&'static str>,
    /// Why the figures do not compare in full, if they do not.
    remark: &'static str,
}

const CLIP_336: Option<&str> = Some("clip-vit-l14-336");
const CLIP_240: Option<&str> = Some("clip-vit-b16-plus-240");
const WIDE_RESNET: Option<&str> = Some("wide-resnet50-2");

/// Where all test images of a class are needed at once.
const JOINT: &str =
    "sees the test images together, without labels: apart from methods that see one at a time";

/// Every method of the papers; what is not here has its own name, and no remark.
const STANDINGS: [Standing; 18] = [
    of("anomalyclip", &["AnomalyCLIP"], CLIP_336, ""),
    of(
        "clip",
        &["CLIP"],
        CLIP_336,
        "the code of this row is not published",
    ),
    of(
        "clip-ac",
        &["CLIP-AC"],
        CLIP_336,
        "which templates were averaged is not published",
    ),
    of(
        "coop",
        &["CoOp"],
        CLIP_336,
        "the code of this adaptation is not published: only the trend compares",
    ),
    of("winclip", &["WinCLIP", "WinCLIP+"], CLIP_240, ""),
    of("april-gan", &["VAND", "APRIL-GAN"], CLIP_336, ""),
    of("inctrl", &["InCTRL"], CLIP_240, ""),
    of("spade", &["SPADE"], WIDE_RESNET, ""),
    of("padim", &["PaDiM"], WIDE_RESNET, ""),
    of("patchcore", &["PatchCore"], WIDE_RESNET, ""),
    of(
        "regad",
        &["RegAD"],
        Some("resnet18"),
        "the published figures are of the best epoch on the test images",
    ),
    of("anomaly-dino", &["AnomalyDINO"], Some("dinov2-small"), ""),
    of("musc", &["MuSc"], None, JOINT),
    of("acr", &["ACR"], WIDE_RESNET, JOINT),
    of(
        "clip-ad",
        &["CLIP-AD"],
        Some("clip-vit-b32"),
        "made for classes of objects, not for defects; without a map",
    ),
    of(
        "zoc",
        &["ZOC"],
        Some("clip-vit-b32"),
        "made for classes of objects, not for defects; without a map",
    ),
    of(
        "maskclip",
        &["MaskCLIP"],
        Some("clip-vit-b16"),
        "no anomaly figures are published",
    ),
    of(
        "denseclip",
        &["DenseCLIP"],
        Some("clip-vit-b16"),
        "no anomaly figures are published",
    ),
];

const fn of(
    method: &'static str,
    published: &'static [&'static str],
    weights: Option<&'static str>,
    remark: &'static str,
) -> Standing {
    Standing {
        method,
        published,
        weights,
        remark,
    }
}

fn standing(method: &str) -> Option<&'static Standing> {
    // `METHOD tuned on DATA` is the method too.
    let name = method.split_once(' ').map_or(method, |(name, _)| name);
    STANDINGS.iter().find(|standing| standing.method == name)
}

/// Whether the row that a paper calls `published` is of `method`.
pub(crate) fn is_same(method: &str, published: &str) -> bool {
    match standing(method) {
        Some(standing) if standing.method == method => standing.published.contains(&published),
        Some(_) => false,
        None => plain(method) == plain(published),
    }
}

/// The weights that the published figures of `method` were made with, if one network's.
pub(crate) fn published_weights(method: &str) -> Option<&'static str> {
    standing(method)?.weights
}

/// What must be known before the row of `method`, measured with `weights`, is compared with published ones.
pub(crate) fn remarks(method: &str, weights: &str) -> Vec<String> {
    let Some(standing) = standing(method) else {
        return vec![];
    };
    let other = standing.weights.filter(|known| *known != weights);
    let other = other.map(|known| format!("with {weights}, not {known}"));
    let remark = Some(standing.remark.to_owned()).filter(|remark| !remark.is_empty());
    other.into_iter().chain(remark).collect()
}

/// The name of a method without what its spelling varies in.
fn plain(method: &str) -> String {
    let kept = method.chars().filter(|c| c.is_alphanumeric());
    kept.flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_the_papers() {
        for (method, published, same) in [
            ("april-gan", "VAND", true),
            ("winclip", "WinCLIP+", true),
            ("clip", "CLIP-AC", false),
            ("anomalyclip", "AnomalyCLIP", true),
            ("anomalyclip tuned on tn3k-training", "AnomalyCLIP", false),
            ("lens", "Lens", true),
        ] {
            assert_eq!(is_same(method, published), same, "{method}, {published}");
        }
    }

    #[test]
    fn every_method_that_is_named_is_there() {
        for standing in &STANDINGS {
            assert!(
                anomalens_detectors::find(standing.method).is_ok(),
                "{}",
                standing.method
            );
        }
    }

    #[test]
    fn remarks_name_other_weights() {
        for (method, weights, expected) in [
            ("patchcore", "wide-resnet50-2", ""),
            (
                "patchcore",
                "efficientnet-lite0",
                "with efficientnet-lite0, not wide-resnet50-2",
            ),
            ("lens", "anything", ""),
        ] {
            assert_eq!(remarks(method, weights).concat(), expected, "{method}");
        }
        assert!(
            remarks("musc", "dinov2-small")
                .concat()
                .contains("together")
        );
    }
}
