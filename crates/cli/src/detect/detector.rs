//! The detector that the arguments of `detect` name or describe, and its backbone.

use anomalens::backbones::Backbone;
use anomalens::detectors::{
    BackboneRef, Detector, DetectorError, DetectorFile, FitContext, Scope, find as find_method,
};
use anyhow::{Context, Result, bail};

use super::Args;
use crate::fit;

/// The detector for images of `class`, where it must be given.
fn of_class(detector: Box<dyn Detector>, class: Option<&str>) -> Result<Box<dyn Detector>> {
    let Some(class) = class else {
        return match detector.classes() {
            [] | [_] => Ok(detector),
            several => Err(DetectorError::ClassNeeded(several.join(", ")).into()),
        };
    };
    let chosen = detector.for_class(class)?;
    chosen.context("the detector is the same for all classes: leave --class out")
}

/// The detector that the arguments name or describe, and its backbone.
pub(super) fn detector(args: &Args, images: usize) -> Result<(DetectorFile, Backbone)> {
    if let Some(path) = &args.detector {
        let mut file = DetectorFile::load(path)?;
        file.levels = args.decode.options_for(&file)?.levels;
        file.detector = of_class(file.detector, args.class.as_deref())?;
        if file.detector.scope() != Scope::Single {
            require_company(images)?;
        }
        let backbone = args
            .backbone
            .open_for(&file)
            .with_context(|| format!("{} needs its backbone", path.display()))?;
        return Ok((file, backbone));
    }
    let method = find_method(&args.method)?;
    let options = args.settings.options()?;
    if method.requirements(&options).joint {
        require_company(images)?;
    }
    let decode = args.decode.options();
    let normal = fit::normal_images(method, &options, &args.normal, None, &decode)?;
    let backbone = args.settings.open(&args.backbone, [method])?;
    let encoder = backbone.encoder.as_ref();
    let detector = method.fit(&FitContext {
        trained: args.settings.trained()?,
        ..FitContext::new(&options, encoder).with_references(&normal)
    })?;
    fit::tell_notes(detector.as_ref());
    let detector = of_class(detector, args.class.as_deref())?;
    let data = match normal.len() {
        0 => "none".to_owned(),
        count => format!("{count} normal images"),
    };
    let backbone_ref = BackboneRef::of(&backbone).used_by(detector.as_ref());
    let provenance = fit::provenance(data);
    Ok((
        DetectorFile {
            detector,
            backbone: backbone_ref,
            provenance,
            calibration: None,
            levels: decode.levels,
        },
        backbone,
    ))
}

/// Images that are scored against each other must be several.
fn require_company(images: usize) -> Result<()> {
    if images < 2 {
        bail!(
            "one image has no others to be scored against: leave --method and --set out, name \
             normal images with --normal, or give more images of the same thing"
        );
    }
    Ok(())
}
