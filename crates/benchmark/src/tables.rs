//! Cells as tables: ours, published, the difference; per class and mean, over the seeds.

use std::io;

use serde::Serialize;

use crate::bench::BenchResult;
use crate::cell::Cell;
use crate::comparable::{is_same, remarks};
use crate::statistics::{Comparison, Spread, compare, interval};
use anomalens_evaluation::published::{Published, class_count, class_figures, comparable, figures};
use anomalens_evaluation::table::{Table, fraction};
use anomalens_evaluation::{Column, IMAGE_COLUMNS, Metrics, PIXEL_COLUMNS, PUBLISHED_COLUMNS};

/// Every metric that tables show.
fn columns() -> impl Iterator<Item = &'static Column> {
    IMAGE_COLUMNS.iter().chain(&PIXEL_COLUMNS)
}

/// A method with a number of normal images.
type Entry<'a> = (&'a str, Option<usize>);

/// The result of a method on a class, or on all classes of a data set, over its seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The data set.
    pub data: String,
    /// The class; none for the mean over all of several.
    pub class: Option<String>,
    /// The method.
    pub method: String,
    /// Normal images that it was given.
    pub shots: Option<usize>,
    /// Draws of them.
    pub seeds: usize,
    /// Each metric that is defined.
    pub metrics: Vec<Figure>,
    /// What stands against comparing it with published figures; empty if nothing does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remarks: String,
    /// The figures published for the same.
    pub published: Vec<&'static Published>,
}

/// A metric over the seeds.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What it is called.
    pub metric: &'static str,
    /// Mean and deviation over the seeds.
    #[serde(flatten)]
    pub spread: Spread,
    /// The 95 % bootstrap interval of the mean: how far the image AUROC varies with the images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    #[serde(skip)]
    of: fn(&Metrics) -> Option<f64>,
}

/// The lines of all cells of a run: data sets, then classes under their mean, then methods, in the
/// order in which they come. A method has a mean only if it was measured on every class.
pub fn lines(result: &BenchResult) -> Vec<Line> {
    let all: Vec<&Cell> = result.cells.iter().collect();
    let mut lines = vec![];
    for (data, cells) in grouped(&all, |cell| cell.name.data.as_str()) {
        let classes = grouped(&cells, |cell| cell.name.class.as_str());
        let count = result.classes.get(data).copied().unwrap_or(0);
        let whole = (count > 1).then(|| (None, cells.clone()));
        let parts = classes
            .iter()
            .map(|(class, cells)| (Some(*class), cells.clone()));
        for (class, cells) in whole.into_iter().chain(parts) {
            for (entry, cells) in grouped(&cells, entry) {
                lines.extend(line(data, class, count, entry, &cells));
            }
        }
    }
    lines
}

/// `cells` by `key`, in the order in which keys come first.
fn grouped<'a, K: PartialEq>(
    cells: &[&'a Cell],
    key: impl Fn(&'a Cell) -> K,
) -> Vec<(K, Vec<&'a Cell>)> {
    let mut groups: Vec<(K, Vec<&Cell>)> = vec![];
    for &cell in cells {
        let key = key(cell);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, cells)) => cells.push(cell),
            None => groups.push((key, vec![cell])),
        }
    }
    groups
}

fn entry(cell: &Cell) -> Entry<'_> {
    (cell.name.method.as_str(), cell.name.shots)
}

/// The line of an entry on a class of a data set that has `classes` of them, or on all of them;
/// none if some are missing.
fn line(
    data: &str,
    class: Option<&str>,
    classes: usize,
    (method, shots): Entry,
    cells: &[&Cell],
) -> Option<Line> {
    let seeds = grouped(cells, |cell| cell.name.seed);
    let wanted = if class.is_some() { 1 } else { classes };
    if seeds.iter().any(|(_, cells)| cells.len() != wanted) {
        return None;
    }
    let runs: Vec<Metrics> = seeds
        .iter()
        .map(|(_, cells)| Metrics::mean(cells.iter().map(|cell| &cell.metrics)))
        .collect();
    let figure = |&(metric, of): &Column| {
        let values: Option<Vec<f64>> = runs.iter().map(of).collect();
        Some(Figure {
            metric,
            spread: Spread::of(&values?)?,
            interval: (metric == IMAGE_COLUMNS[0].0)
                .then(|| interval(cells))
                .flatten(),
            of,
        })
    };
    let is_whole = class.is_none() || classes == 1;
    let whole = is_whole.then(|| comparable(data, classes));
    let all = class_count(data).filter(|&all| is_whole && all != classes);
    let some = all.map(|all| format!("mean over {classes} of the {all} classes"));
    let remarks = some.into_iter().chain(remarks(method, weights(cells)));
    let part = class.map(|class| class_figures(data, class));
    let published = whole
        .into_iter()
        .flatten()
        .chain(part.into_iter().flatten());
    Some(Line {
        data: data.to_owned(),
        class: class.map(str::to_owned),
        method: method.to_owned(),
        shots,
        seeds: seeds.len(),
        metrics: columns().filter_map(figure).collect(),
        remarks: remarks.collect::<Vec<_>>().join("; "),
        published: published
            .filter(|figure| is_same(method, &figure.method) && figure.shots == shots)
            .collect(),
    })
}

/// The weights that cells were measured with.
fn weights<'a>(cells: &[&'a Cell]) -> &'a str {
    let backbone = cells.first().map(|cell| &cell.name.settings["backbone"]);
    let name = backbone.and_then(|backbone| backbone["name"].as_str());
    name.unwrap_or_default()
}

/// A table for each data set: a row for each line, under it what is published for the same and the
/// difference.
pub(crate) fn data_tables(lines: &[Line]) -> Vec<Table> {
    let mut tables: Vec<Table> = vec![];
    for line in lines {
        if tables.last().is_none_or(|table| table.title != line.data) {
            let metrics = columns().map(|(title, _)| *title);
            let titles: Vec<&str> = ["class", "method", "shots", "seeds"]
                .into_iter()
                .chain(metrics)
                .chain(["source"])
                .collect();
            tables.push(Table::new(&line.data, &titles));
        }
        if let Some(table) = tables.last_mut() {
            table.rows.extend(rows(line));
        }
    }
    tables
        .into_iter()
        .map(Table::without_empty_columns)
        .collect()
}

fn rows(line: &Line) -> Vec<Vec<String>> {
    let class = line.class.clone().unwrap_or_else(|| "mean".to_owned());
    let row = |method: String, seeds: String, cells: Vec<String>, source: String| {
        let shots = line
            .shots
            .map_or_else(String::new, |shots| shots.to_string());
        let head = [class.clone(), method, shots, seeds];
        head.into_iter().chain(cells).chain([source]).collect()
    };
    let of = |title: &str| line.metrics.iter().find(|figure| figure.metric == title);
    let cells = |cell: &dyn Fn(&Column) -> String| columns().map(cell).collect();
    let ours = cells(&|(title, _)| of(title).map_or_else(String::new, shown));
    // Without normal images nothing is drawn.
    let seeds = line
        .shots
        .map_or_else(String::new, |_| line.seeds.to_string());
    let mut rows = vec![row(line.method.clone(), seeds, ours, line.remarks.clone())];
    for published in &line.published {
        let theirs = published.metrics();
        rows.push(row(
            format!("{} (published)", published.method),
            String::new(),
            cells(&|(_, metric)| fraction(metric(&theirs))),
            published.origin(),
        ));
        let difference = |(title, metric): &Column| {
            let difference = Some(of(title)?.spread.mean - metric(&theirs)?);
            difference.map(signed)
        };
        rows.push(row(
            "difference".to_owned(),
            String::new(),
            cells(&|column| difference(column).unwrap_or_default()),
            String::new(),
        ));
    }
    rows
}

/// Mean, deviation over several seeds, interval over images.
fn shown(figure: &Figure) -> String {
    let Spread { mean, deviation } = figure.spread;
    let deviation = deviation.map_or_else(String::new, |deviation| format!(" ± {deviation:.3}"));
    let interval = figure
        .interval
        .map_or_else(String::new, |[low, high]| format!(" [{low:.3}, {high:.3}]"));
    format!("{mean:.3}{deviation}{interval}")
}

/// Everything published for the data sets of `lines`, other methods' figures too.
pub(crate) fn published_table(lines: &[Line]) -> Table {
    let metrics = PUBLISHED_COLUMNS.iter().map(|(title, _)| *title);
    let head = ["data", "method", "shots"].into_iter();
    let titles: Vec<&str> = head.chain(metrics).chain(["source"]).collect();
    let mut table = Table::new("Published for these data sets", &titles);
    let mut names: Vec<&str> = lines.iter().map(|line| line.data.as_str()).collect();
    names.dedup();
    for figure in names.into_iter().flat_map(figures) {
        let shots = figure
            .shots
            .map_or_else(String::new, |shots| shots.to_string());
        let metrics = figure.metrics();
        let cells = PUBLISHED_COLUMNS
            .iter()
            .map(|(_, metric)| fraction(metric(&metrics)));
        let head = [figure.data.clone(), figure.method.clone(), shots];
        table.rows.push(
            head.into_iter()
                .chain(cells)
                .chain([figure.origin()])
                .collect(),
        );
    }
    table
}

/// The tests between each two methods on each class, with the same shots or where one needs none.
pub fn comparisons(cells: &[Cell]) -> Vec<Comparison> {
    let all: Vec<&Cell> = cells.iter().collect();
    let mut comparisons = vec![];
    for (_, cells) in grouped(&all, |cell| (&cell.name.data, &cell.name.class)) {
        // Of each method and number of shots one draw, that of the first seed.
        let entries: Vec<&Cell> = grouped(&cells, entry)
            .into_iter()
            .filter_map(|(_, cells)| cells.first().copied())
            .collect();
        for (i, first) in entries.iter().enumerate() {
            for second in &entries[i + 1..] {
                let (one, other) = (&first.name, &second.name);
                let comparable = one.shots.is_none()
                    || other.shots.is_none()
                    || (one.shots == other.shots && one.seed == other.seed);
                if comparable && one.method != other.method {
                    comparisons.extend(compare(first, second));
                }
            }
        }
    }
    comparisons
}

/// The tests as a table.
pub(crate) fn comparison_table(comparisons: &[Comparison]) -> Table {
    let mut table = Table::new(
        "Image AUROC, method against method",
        &[
            "data",
            "class",
            "first",
            "second",
            "seed",
            "AUROC",
            "AUROC",
            "difference",
            "p",
        ],
    );
    for comparison in comparisons {
        let [first, second] = comparison.auroc;
        let row = [
            comparison.data.clone(),
            comparison.class.clone(),
            comparison.methods[0].clone(),
            comparison.methods[1].clone(),
            comparison.seed.to_string(),
            fraction(Some(first)),
            fraction(Some(second)),
            signed(first - second),
            match comparison.p_value {
                p if p < 0.0001 => "<0.0001".to_owned(),
                p => format!("{p:.4}"),
            },
        ];
        table.rows.push(row.to_vec());
    }
    table
}

/// Three decimals with their sign.
fn signed(value: f64) -> String {
    format!("{value:+.3}").replace('-', "−")
}

/// All lines as comma-separated values, a record for each metric.
///
/// # Errors
/// Only those of memory that runs out.
pub(crate) fn csv(lines: &[Line]) -> io::Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(vec![]);
    table.write_record([
        "data",
        "class",
        "method",
        "shots",
        "seeds",
        "metric",
        "mean",
        "deviation",
        "low",
        "high",
        "published",
        "difference",
        "source",
    ])?;
    for line in lines {
        for figure in &line.metrics {
            let number = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.6}"));
            let published: Vec<(f64, String)> = line
                .published
                .iter()
                .filter_map(|published| {
                    Some(((figure.of)(&published.metrics())?, published.origin()))
                })
                .collect();
            let beside = published
                .iter()
                .map(Some)
                .chain(published.is_empty().then_some(None));
            for published in beside {
                let theirs = published.map(|(value, _)| *value);
                table.write_record([
                    line.data.as_str(),
                    line.class.as_deref().unwrap_or("mean"),
                    &line.method,
                    &line
                        .shots
                        .map_or_else(String::new, |shots| shots.to_string()),
                    &line.seeds.to_string(),
                    figure.metric,
                    &number(Some(figure.spread.mean)),
                    &number(figure.spread.deviation),
                    &number(figure.interval.map(|[low, _]| low)),
                    &number(figure.interval.map(|[_, high]| high)),
                    &number(theirs),
                    &number(theirs.map(|theirs| figure.spread.mean - theirs)),
                    published.map_or("", |(_, source)| source),
                ])?;
            }
        }
    }
    table.into_inner().map_err(|error| error.into_error())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cell::CellName;

    /// What stands beside the mean of a method that was measured on `classes` of MVTec AD.
    fn mean_of(classes: &[&str]) -> Line {
        let cell = |class: &&str| Cell {
            name: CellName {
                data: "mvtec".to_owned(),
                class: (*class).to_owned(),
                method: "patchcore".to_owned(),
                shots: Some(4),
                seed: 0,
                settings: Value::Null,
            },
            metrics: Metrics {
                image_auroc: Some(0.5),
                ..Metrics::default()
            },
            undefined: vec![],
            failed: 0,
            seconds: 0.0,
            images: vec![],
        };
        let result = BenchResult {
            cells: classes.iter().map(cell).collect(),
            classes: [("mvtec".to_owned(), classes.len())].into(),
            kept: 0,
            failures: 0,
            stopped: false,
        };
        lines(&result).swap_remove(0)
    }

    #[test]
    fn a_mean_over_some_classes_is_not_compared_with_one_over_all() {
        let about = anomalens_datasets::layout("mvtec").unwrap().about.as_ref();
        let anomalens_datasets::Published::Classes(all) = about.unwrap().published else {
            panic!("MVTec AD is counted by class");
        };
        let all: Vec<&str> = all.iter().map(|(class, _)| *class).collect();
        let whole = mean_of(&all);
        assert!(!whole.published.is_empty());
        assert!(!whole.remarks.contains("of the"), "{}", whole.remarks);
        for (some, remark) in [
            (&all[..2], "mean over 2 of the 15 classes"),
            (&all[..14], "mean over 14 of the 15 classes"),
        ] {
            let line = mean_of(some);
            assert!(line.published.is_empty(), "{:?}", line.published);
            assert!(line.remarks.starts_with(remark), "{}", line.remarks);
        }
    }
}
