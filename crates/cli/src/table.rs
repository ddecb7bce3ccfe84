//! Results as tables on the terminal.

use anomalens::evaluation::{
    AUPIMO_COLUMN, Column, Evaluation, IMAGE_COLUMNS, Metrics, PIXEL_COLUMNS, PUBLISHED_COLUMNS,
    ResultRecord, published,
};

/// Images in a table of scores, the most anomalous first.
const SHOWN: usize = 20;

/// The highest scores of a run, and what was decided on them if it was `calibrated`.
pub(super) fn scores(records: &[&ResultRecord], calibrated: bool) -> String {
    let mut scored: Vec<(f32, &ResultRecord)> = records
        .iter()
        .filter_map(|record| Some((record.score?, *record)))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let rows = scored.iter().take(SHOWN).map(|(score, record)| {
        let decision = calibrated.then(|| {
            let probability = record.probability.map(|p| format!("{p:.3}"));
            let decision = match record.anomalous {
                Some(true) => "anomalous",
                Some(false) => "normal",
                None => "-",
            };
            [
                decision.to_owned(),
                probability.unwrap_or_else(|| "-".to_owned()),
            ]
        });
        [format!("{score:.4}")]
            .into_iter()
            .chain(decision.into_iter().flatten())
            .chain([
                record.regions.len().to_string(),
                // A line for each image, whatever its name.
                record.image.replace(['\n', '\t'], " "),
            ])
            .collect()
    });
    let titles: &[&str] = match calibrated {
        true => &["score", "decision", "probability", "regions", "image"],
        false => &["score", "regions", "image"],
    };
    let mut text = align(titles, rows.collect());
    if scored.len() > SHOWN {
        text += &format!("\n… and {} more with lower scores", scored.len() - SHOWN);
    }
    text
}

fn titles(columns: &[Column]) -> impl Iterator<Item = &'static str> {
    columns.iter().map(|(title, _)| *title)
}

fn cells(columns: &[Column], metrics: &Metrics) -> impl Iterator<Item = String> {
    columns.iter().map(|(_, metric)| fraction(metric(metrics)))
}

/// The columns of a table of metrics.
fn columns(pixels: bool, aupimo: bool) -> Vec<Column> {
    let mut columns = IMAGE_COLUMNS.to_vec();
    if pixels {
        columns.extend(PIXEL_COLUMNS);
    }
    if aupimo {
        columns.push(AUPIMO_COLUMN);
    }
    columns
}

/// A row for each defect type in each class that was taken apart.
pub(super) fn defect_types(evaluation: &Evaluation) -> Option<String> {
    let types = || {
        let classes = evaluation.classes.iter();
        let apart = classes.filter_map(|class| Some((class, class.breakdown.as_ref()?)));
        apart.flat_map(|(class, apart)| {
            let types = apart.defect_types.iter();
            types.map(move |result| (class, apart, result))
        })
    };
    let any = |column: fn(&Metrics) -> Option<f64>| {
        types().any(|(_, _, result)| column(&result.metrics).is_some())
    };
    let (pixels, aupimo) = (any(|m| m.pixel_auroc), any(|m| m.aupimo));
    let columns = columns(pixels, aupimo);
    let regions: &[&str] = if pixels { &["regions", "found"] } else { &[] };
    let titles: Vec<&str> = ["class", "defect", "images"]
        .into_iter()
        .chain(titles(&columns))
        .chain(regions.iter().copied())
        .collect();
    let rows: Vec<Vec<String>> = types()
        .map(|(class, apart, result)| {
            let overlap = apart.overlap(&result.defect_type);
            let regions = pixels.then(|| {
                let (found, regions) = overlap.unzip();
                [regions.unwrap_or(0).to_string(), fraction(found)]
            });
            [
                class.class.clone(),
                result.defect_type.clone(),
                result.images.to_string(),
            ]
            .into_iter()
            .chain(cells(&columns, &result.metrics))
            .chain(regions.into_iter().flatten())
            .collect()
        })
        .collect();
    (!rows.is_empty()).then(|| align(&titles, rows))
}

/// A row for each evaluation.
pub(super) fn evaluations(evaluations: &[Evaluation]) -> String {
    let pixels = evaluations.iter().any(|e| e.metrics.pixel_auroc.is_some());
    let aupimo = evaluations.iter().any(|e| e.metrics.aupimo.is_some());
    let columns = columns(pixels, aupimo);
    let head = ["data", "method", "shots", "seed"].into_iter();
    let titles: Vec<&str> = head
        .chain(titles(&columns))
        .chain(["images", "seconds"])
        .collect();
    let rows = evaluations.iter().map(|evaluation| {
        let run = [
            evaluation.data.clone(),
            evaluation.method.clone(),
            shots(evaluation.shots),
            evaluation.seed.to_string(),
        ];
        let size = [
            evaluation.images.to_string(),
            format!("{:.1}", evaluation.seconds),
        ];
        run.into_iter()
            .chain(cells(&columns, &evaluation.metrics))
            .chain(size)
            .collect()
    });
    align(&titles, rows.collect())
}

/// The figures published for `data` that a mean over `classes` is compared with, if there are any.
pub(super) fn published(data: &str, classes: usize) -> Option<String> {
    let rows: Vec<Vec<String>> = published::comparable(data, classes)
        .map(|figure| {
            [figure.method.clone(), shots(figure.shots)]
                .into_iter()
                .chain(cells(&PUBLISHED_COLUMNS, &figure.metrics()))
                .chain([figure.origin()])
                .collect()
        })
        .collect();
    let titles: Vec<&str> = ["published", "shots"]
        .into_iter()
        .chain(titles(&PUBLISHED_COLUMNS))
        .chain(["source"])
        .collect();
    (!rows.is_empty()).then(|| align(&titles, rows))
}

/// The classes of an evaluation, each above the figures published for it under `data`.
pub(super) fn classes(evaluation: &Evaluation, data: &str) -> String {
    let row = |class: &str, method: &str, metrics: &Metrics, source: String| -> Vec<String> {
        [class.to_owned(), method.to_owned()]
            .into_iter()
            .chain(cells(&PUBLISHED_COLUMNS, metrics))
            .chain([source])
            .collect()
    };
    let rows = evaluation.classes.iter().flat_map(|result| {
        let ours = row(
            &result.class,
            &evaluation.method,
            &result.metrics,
            "this run".to_owned(),
        );
        let theirs = published::class_figures(data, &result.class).map(|figure| {
            row(
                &result.class,
                &figure.method,
                &figure.metrics(),
                figure.origin(),
            )
        });
        [ours].into_iter().chain(theirs).collect::<Vec<_>>()
    });
    let titles: Vec<&str> = ["class", "method"]
        .into_iter()
        .chain(titles(&PUBLISHED_COLUMNS))
        .chain(["source"])
        .collect();
    align(&titles, rows.collect())
}

/// A number of normal images, or a dash.
fn shots(shots: Option<usize>) -> String {
    shots.map_or_else(|| "-".to_owned(), |shots| shots.to_string())
}

/// Three decimals, or a dash for what is not defined.
fn fraction(value: Option<f64>) -> String {
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
