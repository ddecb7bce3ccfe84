//! What a caller must know, in the file.

use anomalens_backbones::weights::Registry;
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Size;
use serde_json::{Value, json};

use super::plan::Plan;
use super::{ExportOptions, Part};
use crate::{DetectorFile, NormalRange};

/// The version of these entries.
const FORMAT: u32 = 1;

/// Adds an entry for each fact, lists as JSON.
pub(super) fn add(
    graph: &mut Graph,
    file: &DetectorFile,
    plan: &Plan<'_>,
    part: Part,
    options: &ExportOptions,
    range: Option<NormalRange>,
) {
    let detector = file.detector.as_ref();
    let Size { height, width } = plan.size();
    let ports = plan.ports();
    let inputs = plan.seen.iter().map(|seen| {
        let preprocess = &seen.input.preprocess;
        json!({
            "name": ports[seen.port].name,
            "width": seen.size.width,
            "height": seen.size.height,
            "resize": preprocess.resize,
            "filter": preprocess.filter,
            "rgb": preprocess.rgb,
            "mean": preprocess.mean,
            "std": preprocess.std,
            "layers": seen.input.request.layers,
        })
    });
    let backbones = file.backbone.all().map(|backbone| {
        json!({
            "name": backbone.name,
            "sha256": backbone.sha256,
            "licence": licence(&backbone.name),
        })
    });
    let float = if options.half { "float16" } else { "float32" };
    let mut entries = vec![
        ("format", json!(FORMAT)),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("part", json!(part.name())),
        ("method", json!(detector.method())),
        ("settings", detector.state().config),
        ("float", json!(float)),
        ("width", json!(width)),
        ("height", json!(height)),
        ("layout", json!("NHWC")),
        ("colours", json!("RGB")),
        ("normalisation", json!("inside")),
        ("inputs", inputs.collect()),
        ("backbones", backbones.collect()),
        ("made_by", json!(file.provenance.command)),
        ("made_on", json!(file.provenance.date)),
    ];
    if !detector.classes().is_empty() {
        entries.push(("classes", json!(detector.classes())));
    }
    if part == Part::Detector {
        entries.push(("decisions", json!(file.calibration.is_some())));
    }
    if let (Part::Detector, Some(range)) = (part, range) {
        entries.push(("normal_median", json!(range.median)));
        entries.push(("normal_upper", json!(range.upper_quantile)));
    }
    if let Some(calibration) = &file.calibration {
        entries.push(("threshold", json!(calibration.threshold)));
        entries.push(("threshold_rule", json!(calibration.rule)));
        if let Some(probability) = &calibration.probability {
            entries.push(("probability", json!(probability)));
        }
    }
    for (key, value) in entries {
        let text = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        graph.metadata(&format!("anomalens.{key}"), text);
    }
}

/// The licence of weights in the registry; those in the program have `-int8` after their name.
fn licence(name: &str) -> String {
    let registry = Registry::builtin();
    let found = registry
        .find(name)
        .or_else(|_| registry.find(name.trim_end_matches("-int8")));
    found.map_or("unknown".to_owned(), |entry| entry.licence.clone())
}
