//! Every method by name.

use anomalens_base::nearest;

use crate::methods::{
    acr, anomaly_dino, anomalyclip, april_gan, clip, clip_ad, coop, denseclip, inctrl, lens,
    maskclip, musc, padim, patchcore, regad, spade, winclip, zoc,
};
use crate::{DetectorError, Method};

/// One line for each method, in the order of the documentation.
const METHODS: [&dyn Method; 19] = [
    &lens::Lens,
    &anomaly_dino::AnomalyDino,
    &anomalyclip::AnomalyClip,
    &inctrl::InCtrl,
    &musc::Musc,
    &clip::Clip::<false>,
    &clip::Clip::<true>,
    &winclip::WinClip,
    &april_gan::AprilGan,
    &coop::CoOp,
    &patchcore::PatchCore,
    &padim::Padim,
    &spade::Spade,
    &regad::Regad,
    &acr::Acr,
    &maskclip::MaskClip,
    &denseclip::DenseClip,
    &clip_ad::ClipAd,
    &zoc::Zoc,
];

/// The method where none is named.
pub const DEFAULT_METHOD: &str = lens::NAME;

/// Names that methods had in earlier versions, and the present ones.
const FORMER_NAMES: [(&str, &str); 1] = [("self-similarity", lens::NAME)];

/// Every method.
pub fn methods() -> &'static [&'static dyn Method] {
    &METHODS
}

/// The method `name`.
///
/// # Errors
/// [`DetectorError::UnknownMethod`] with the nearest name, [`DetectorError::FormerMethod`] for the
/// name of a method that another one took in.
pub fn find(name: &str) -> Result<&'static dyn Method, DetectorError> {
    if let Some((former, present)) = FORMER_NAMES.iter().find(|(former, _)| *former == name) {
        return Err(DetectorError::FormerMethod { former, present });
    }
    let found = METHODS.iter().find(|method| method.info().name == name);
    found.copied().ok_or_else(|| {
        let names = METHODS.map(|method| method.info().name);
        DetectorError::UnknownMethod {
            name: name.to_owned(),
            nearest: nearest(name, names),
            known: names.join(", "),
        }
    })
}
