//! The settings that the paper's ablations (section 4.3) compare, and what the loss and the score
//! are made of; only those that the backbone allows.

use anomalens_backbones::ImageEncoder;
use serde_json::{Value, json};

use super::settings::{PromptKind, Settings};
use crate::{DetectorError, Variant};

/// The defaults, then every variant: each changes one thing.
pub(super) fn variants(encoder: &dyn ImageEncoder) -> Result<Vec<Variant>, DetectorError> {
    let defaults = Settings::defaults(encoder, encoder.text(None)?.is_some());
    let blocks = encoder.spec().blocks();
    let mut cases: Vec<(String, Value)> = vec![("default".into(), json!({}))];
    let mut add = |name: &str, settings: Value| cases.push((name.to_owned(), settings));
    add("global-only", json!({ "local_weight": 0.0 }));
    add("local-only", json!({ "global_weight": 0.0 }));
    add("dpam-none", json!({ "dpam": null }));
    for attention in ["vv", "qq", "kk"] {
        add(&format!("dpam-{attention}"), json!({ "dpam": attention }));
    }
    // Quarters of the network, as in the paper's [6, 12, 18, 24].
    let quarters: Vec<usize> = (1..=4).map(|i| (i * blocks / 4).max(1)).collect();
    for block in &quarters {
        add(&format!("block-{block}"), json!({ "blocks": [block] }));
    }
    add("blocks-quarters", json!({ "blocks": quarters }));
    for score in ["embedding", "map", "both"] {
        add(&format!("score-{score}"), json!({ "image_score": score }));
    }
    if defaults.prompt == PromptKind::Text {
        for length in [4, 8, 16] {
            add(
                &format!("context-{length}"),
                json!({ "context_length": length }),
            );
        }
        for depth in [1, 5, 12] {
            add(&format!("depth-{depth}"), json!({ "prompt_depth": depth }));
        }
        for tokens in [1, 2, 8] {
            add(&format!("deep-{tokens}"), json!({ "deep_tokens": tokens }));
        }
        add("object-aware", json!({ "object_aware": true }));
        let templates = ["damaged {}.", "{} with a defect.", "broken {}."];
        add(
            "ensemble",
            json!({
                "normal_templates": ["{}.", "flawless {}.", "{} without defect."],
                "anomalous_templates": templates,
            }),
        );
    }
    let unchanged = |settings: &Value| {
        let defaults = serde_json::to_value(&defaults).unwrap_or_default();
        settings.as_object().is_some_and(|settings| {
            !settings.is_empty()
                && settings
                    .iter()
                    .all(|(name, value)| defaults[name] == *value)
        })
    };
    cases.retain(|(_, settings)| !unchanged(settings));
    let variants = cases.into_iter().map(|(name, settings)| Variant {
        name,
        settings: settings.as_object().cloned().unwrap_or_default(),
    });
    Ok(variants.collect())
}
