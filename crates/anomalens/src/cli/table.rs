//! Results as tables on the terminal.

use anomalens::evaluation::{Evaluation, ResultRecord};

/// Images in a table of scores, the most anomalous first.
const SHOWN: usize = 20;

/// The highest scores of a run.
pub(super) fn scores(records: &[&ResultRecord]) -> String {
    let mut scored: Vec<(f32, &ResultRecord)> = records
        .iter()
        .filter_map(|record| Some((record.score?, *record)))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let rows = scored.iter().take(SHOWN).map(|(score, record)| {
        vec![
            format!("{score:.4}"),
            record.regions.len().to_string(),
            record.image.clone(),
        ]
    });
    let mut text = align(&["score", "regions", "image"], rows.collect());
    if scored.len() > SHOWN {
        text += &format!("\n… and {} more with lower scores", scored.len() - SHOWN);
    }
    text
}

/// A row for each evaluation.
pub(super) fn evaluations(evaluations: &[Evaluation]) -> String {
    let pixels = evaluations.iter().any(|e| e.metrics.pixel_auroc.is_some());
    let mut titles = vec![
        "data",
        "method",
        "shots",
        "seed",
        "image AUROC",
        "image AP",
        "image F1-max",
    ];
    if pixels {
        titles.extend(["pixel AUROC", "pixel AP", "AUPRO", "AUPRO 200"]);
    }
    titles.extend(["images", "seconds"]);
    let rows = evaluations.iter().map(|evaluation| {
        let metrics = &evaluation.metrics;
        let mut row = vec![
            evaluation.data.clone(),
            evaluation.method.clone(),
            evaluation
                .shots
                .map_or_else(|| "-".to_owned(), |shots| shots.to_string()),
            evaluation.seed.to_string(),
            fraction(metrics.image_auroc),
            fraction(metrics.image_ap),
            fraction(metrics.image_f1_max),
        ];
        if pixels {
            row.extend([
                fraction(metrics.pixel_auroc),
                fraction(metrics.pixel_ap),
                fraction(metrics.aupro),
                fraction(metrics.aupro_200_steps),
            ]);
        }
        row.extend([
            evaluation.images.to_string(),
            format!("{:.1}", evaluation.seconds),
        ]);
        row
    });
    align(&titles, rows.collect())
}

/// Three decimals, or a dash for what is not defined.
pub(super) fn fraction(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"))
}

/// Columns under their titles: text to the left, numbers to the right.
pub(super) fn align(titles: &[&str], rows: Vec<Vec<String>>) -> String {
    let width = |i: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(i))
            .map(|cell| cell.chars().count());
        cells.chain([titles[i].chars().count()]).max().unwrap_or(0)
    };
    let is_number = |i: usize| {
        rows.iter()
            .all(|row| row[i] == "-" || row[i].parse::<f64>().is_ok())
    };
    let layout: Vec<(usize, bool)> = (0..titles.len())
        .map(|i| (width(i), is_number(i)))
        .collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&layout).map(|(cell, &(width, number))| {
            if number {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let mut lines = vec![line(&titles)];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}
