//! `anomalens bench tradeoff`: how good a method is and how fast, at several sizes, tiles and
//! precisions.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Instant;

use anomalens::backbones::{
    Backbone, BackboneOptions, DEFAULT_COMPANION, DEFAULT_WEIGHTS, Precision,
};
use anomalens::base::write_atomic;
use anomalens::datasets::{DataSet, few_shot};
use anomalens::detectors::{
    DEFAULT_METHOD, FitContext, Method, MethodSettings, Need, ReferenceImage, StreamOptions, find,
};
use anomalens::evaluation::run::source;
use anomalens::evaluation::table::fraction;
use anomalens::evaluation::{Candidate, Evaluation, RunOptions, Table};
use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::data::Reference;
use crate::eval::evaluate_shown;
use crate::{End, backbone, command_line, fit, print_json, print_line};

/// Measure how good a method is and how fast, at several sizes, tiles and precisions
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    anomalens bench tradeoff --data headct:DIR --shots 4 --seed 0,1,2 --size auto,224,336,448 \\\n      \
    --weights dinov2-s-focus-int8,dinov2-s-focus@half -o tradeoff\n\n\
    The folder gets tradeoff.md, tradeoff.csv and tradeoff.svg. Each cell runs alone; the time is that \
    of scoring, with decoding and without fitting.")]
pub(super) struct Args {
    /// The labelled data to measure on
    #[arg(long, value_name = "LAYOUT:PATH")]
    data: Reference,
    /// The method
    #[arg(long, value_name = "METHOD", default_value = DEFAULT_METHOD)]
    method: String,
    /// Pixels of the shorter side of what the network sees; `auto` is what the method chooses
    #[arg(
        long,
        value_name = "PIXELS|auto",
        value_delimiter = ',',
        default_value = "auto,224,336,448"
    )]
    size: Vec<Choice>,
    /// Side of the tiles, 0 for none; `auto` is what the method chooses
    #[arg(
        long,
        value_name = "PIXELS|auto",
        value_delimiter = ',',
        default_value = "auto"
    )]
    tiles: Vec<Choice>,
    /// Backbones, each with a precision if wanted: NAME or NAME@half; A+B are used together
    #[arg(
        long,
        value_name = "NAME[@PRECISION][+...]",
        value_delimiter = ',',
        default_values_t = [Weights::default()]
    )]
    weights: Vec<Weights>,
    /// Number of normal images
    #[arg(long, value_name = "K", default_value_t = 4)]
    shots: usize,
    /// Seeds by which they are chosen
    #[arg(
        long,
        value_name = "SEED",
        value_delimiter = ',',
        default_value = "0,1,2"
    )]
    seed: Vec<u32>,
    /// The folder to write
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Print the cells as JSON
    #[arg(long)]
    json: bool,
}

/// A number of pixels, or what the method chooses.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Choice {
    Auto,
    Pixels(u32),
}

impl std::str::FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            text => text
                .parse()
                .map(Self::Pixels)
                .map_err(|_| format!("`{text}` is neither a number of pixels nor `auto`")),
        }
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Pixels(pixels) => write!(f, "{pixels}"),
        }
    }
}

/// Backbones that are used together, each with a precision.
#[derive(Debug, Clone, PartialEq)]
struct Weights(Vec<(String, Option<Precision>)>);

impl std::str::FromStr for Weights {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |text: &str| {
            let (name, precision) = match text.rsplit_once('@') {
                Some((name, precision)) => {
                    let precision = precision.parse().map_err(|e| format!("{text}: {e}"))?;
                    (name, Some(precision))
                }
                None => (text, None),
            };
            Ok((name.to_owned(), precision))
        };
        text.split('+').map(one).collect::<Result<_, _>>().map(Self)
    }
}

impl Default for Weights {
    fn default() -> Self {
        let names = [DEFAULT_WEIGHTS, DEFAULT_COMPANION];
        Self(names.map(|name| (name.to_owned(), None)).to_vec())
    }
}

impl std::fmt::Display for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one = |(name, precision): &(String, Option<Precision>)| match precision {
            Some(precision) => format!("{name}@{precision}"),
            None => name.clone(),
        };
        f.write_str(&self.0.iter().map(one).collect::<Vec<_>>().join("+"))
    }
}

impl Weights {
    fn names(&self) -> String {
        let names = self.0.iter().map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(" + ")
    }

    fn open(&self, method: &dyn Method) -> Result<Backbone> {
        if self.0.len() > 1 && !method.info().several_networks {
            bail!("{} uses one backbone: name one", method.info().name);
        }
        let mut opened = self.0.iter().map(|(name, precision)| {
            let options = BackboneOptions {
                precision: *precision,
                activation: None,
                ..BackboneOptions::default()
            };
            backbone::open(name, options)
        });
        let first = opened.next().context("no backbone is named")??;
        Ok(first.beside(opened.collect::<Result<_>>()?))
    }
}

/// What was measured under one choice of weights, size and tiles.
#[derive(Debug, Serialize)]
struct Cell {
    weights: String,
    precision: String,
    size: String,
    tiles: String,
    shots: usize,
    seeds: usize,
    image_auroc: Option<f64>,
    pixel_auroc: Option<f64>,
    aupro: Option<f64>,
    images_per_second: f64,
    fit_seconds: f64,
}

pub(super) fn run(args: &Args) -> Result<End> {
    let data = args.data.open()?;
    let method = find(&args.method)?;
    if method.requirements(&MethodSettings::new()).references == Need::No || args.shots == 0 {
        bail!("bench tradeoff measures methods with normal images: --shots 1 or more");
    }
    std::fs::create_dir_all(&args.output)
        .with_context(|| format!("cannot make the folder {}", args.output.display()))?;
    let mut cells = vec![];
    for weights in &args.weights {
        let backbone = weights.open(method)?;
        for &size in &args.size {
            for &tiles in &args.tiles {
                let mut settings = MethodSettings::new();
                for (name, choice) in [("image_size", size), ("tiles", tiles)] {
                    if let Choice::Pixels(pixels) = choice {
                        settings.insert(name.to_owned(), pixels.into());
                    }
                }
                let mut runs = vec![];
                for &seed in &args.seed {
                    runs.extend(measured(args, &data, method, &settings, &backbone, seed)?);
                }
                let cell = Cell {
                    weights: weights.names(),
                    precision: backbone.precision.to_string(),
                    size: size.to_string(),
                    tiles: tiles.to_string(),
                    shots: args.shots,
                    seeds: args.seed.len(),
                    image_auroc: mean(&runs, |run| run.0.metrics.image_auroc),
                    pixel_auroc: mean(&runs, |run| run.0.metrics.pixel_auroc),
                    aupro: mean(&runs, |run| run.0.metrics.aupro),
                    images_per_second: runs.iter().map(|run| run.0.images as f64).sum::<f64>()
                        / runs.iter().map(|run| run.0.seconds).sum::<f64>(),
                    fit_seconds: mean(&runs, |run| Some(run.1)).unwrap_or_default(),
                };
                if args.json {
                    print_json(serde_json::to_value(&cell)?)?;
                }
                cells.push(cell);
            }
        }
    }
    let markdown = format!(
        "{}\n    {}\n\n{} threads.\n",
        table(&cells).markdown(),
        command_line(),
        rayon::current_num_threads()
    );
    for (name, text) in [
        ("tradeoff.md", &markdown),
        ("tradeoff.csv", &comma_separated(&cells)?),
        ("tradeoff.svg", &figure(&cells)),
    ] {
        let path = args.output.join(name);
        write_atomic(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !args.json {
        print_line(table(&cells).markdown())?;
        print_line(format!(
            "figure: {}",
            args.output.join("tradeoff.svg").display()
        ))?;
    }
    Ok(End::Done)
}

/// Each class by itself: its evaluation, and the seconds that fitting took.
fn measured(
    args: &Args,
    data: &DataSet,
    method: &dyn Method,
    settings: &MethodSettings,
    backbone: &anomalens::backbones::Backbone,
    seed: u32,
) -> Result<Vec<(Evaluation, f64)>> {
    let one = |class: &String| {
        let data = DataSet {
            classes: vec![class.clone()],
            ..data.clone()
        };
        let normals: Vec<_> = data.train_normals(class).collect();
        let drawn = few_shot(&normals, args.shots, seed)?.into_iter();
        let drawn = drawn.map(|sample| (sample.id.clone(), source(sample)));
        let stream = StreamOptions::default();
        let references = ReferenceImage::read_all(drawn, &stream.decode, |_, _| {})?;
        let start = Instant::now();
        let detector = method.fit(&FitContext {
            class: Some(class),
            ..FitContext::new(settings, backbone.encoder.as_ref()).with_references(&references)
        })?;
        let fit_seconds = start.elapsed().as_secs_f64();
        fit::tell_notes(detector.as_ref());
        let candidates = [Candidate::Ready(detector.as_ref())];
        let options = RunOptions::default();
        let evaluations = evaluate_shown(backbone, &data, &candidates, &options)?;
        let evaluation = evaluations.into_iter().next();
        Ok((evaluation.context("nothing was measured")?, fit_seconds))
    };
    data.classes.iter().map(one).collect()
}

fn mean(
    runs: &[(Evaluation, f64)],
    value: impl Fn(&(Evaluation, f64)) -> Option<f64>,
) -> Option<f64> {
    let values = runs.iter().map(value).collect::<Option<Vec<f64>>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn table(cells: &[Cell]) -> Table {
    let columns = [
        "weights",
        "precision",
        "size",
        "tiles",
        "image AUROC",
        "pixel AUROC",
        "AUPRO",
        "images/s",
        "fit, s",
    ];
    let row = |cell: &Cell| {
        vec![
            cell.weights.clone(),
            cell.precision.clone(),
            cell.size.clone(),
            cell.tiles.clone(),
            fraction(cell.image_auroc),
            fraction(cell.pixel_auroc),
            fraction(cell.aupro),
            format!("{:.1}", cell.images_per_second),
            format!("{:.1}", cell.fit_seconds),
        ]
    };
    Table {
        rows: cells.iter().map(row).collect(),
        ..Table::new("Speed and quality", &columns)
    }
}

fn comma_separated(cells: &[Cell]) -> Result<String> {
    let mut writer = csv::Writer::from_writer(vec![]);
    cells.iter().try_for_each(|cell| writer.serialize(cell))?;
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// Images per second to the right, on a logarithmic axis; image AUROC upwards.
fn figure(cells: &[Cell]) -> String {
    const WIDTH: f64 = 720.0;
    const HEIGHT: f64 = 440.0;
    const LEFT: f64 = 60.0;
    const BOTTOM: f64 = 390.0;
    let shown: Vec<(&Cell, f64, f64)> = cells
        .iter()
        .filter_map(|cell| Some((cell, cell.images_per_second.log10(), cell.image_auroc?)))
        .filter(|(_, speed, _)| speed.is_finite())
        .collect();
    let range = |values: &mut dyn Iterator<Item = f64>, least: f64| {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| {
            (low.min(x), high.max(x))
        });
        let room = 0.1 * (high - low).max(least);
        (low - room, high + room)
    };
    let across = range(&mut shown.iter().map(|(_, speed, _)| *speed), 0.3);
    let up = range(&mut shown.iter().map(|(_, _, auroc)| *auroc), 0.01);
    let x = |speed: f64| LEFT + (speed - across.0) / (across.1 - across.0) * (WIDTH - LEFT - 140.0);
    let y = |auroc: f64| BOTTOM - (auroc - up.0) / (up.1 - up.0) * (BOTTOM - 30.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <path d=\"M{LEFT} 20V{BOTTOM}H{}\" stroke=\"#333\" fill=\"none\"/>\n\
         <text x=\"{LEFT}\" y=\"14\">image AUROC</text>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">images per second</text>\n",
        WIDTH - 20.0,
        WIDTH - 20.0,
        HEIGHT - 8.0
    );
    for speed in [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0_f64,
    ] {
        if (across.0..=across.1).contains(&speed.log10()) {
            let x = x(speed.log10());
            let _ = writeln!(
                svg,
                "<path d=\"M{x:.1} {BOTTOM}v5\" stroke=\"#333\"/><text x=\"{x:.1}\" y=\"{}\" \
                 text-anchor=\"middle\">{speed}</text>",
                BOTTOM + 18.0
            );
        }
    }
    for hundredths in 0..=100 {
        let auroc = f64::from(hundredths) / 100.0;
        if (up.0..=up.1).contains(&auroc) {
            let y = y(auroc);
            let _ = writeln!(
                svg,
                "<path d=\"M{LEFT} {y:.1}h-5\" stroke=\"#333\"/><text x=\"{}\" y=\"{:.1}\" \
                 text-anchor=\"end\">{auroc:.2}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
    }
    let mut labels: Vec<(f64, f64)> = vec![];
    for (cell, speed, auroc) in shown {
        // Labels of neighbours stand one below the other.
        let (left, mut baseline) = (x(speed) + 7.0, y(auroc) + 4.0);
        while labels
            .iter()
            .any(|(x, y)| (x - left).abs() < 110.0 && (y - baseline).abs() < 13.0)
        {
            baseline += 13.0;
        }
        labels.push((left, baseline));
        let fill = match cell.size == "auto" && cell.tiles == "auto" {
            true => "#c02020",
            false => "#2060a0",
        };
        let tiles = match cell.tiles.as_str() {
            "auto" => String::new(),
            tiles => format!(", tiles {tiles}"),
        };
        let _ = writeln!(
            svg,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"{fill}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}{tiles}, \
             {}</text>",
            x(speed),
            y(auroc),
            left,
            baseline,
            cell.size,
            cell.precision
        );
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_has_a_mark_for_each_cell_with_a_score() {
        let cell = |size: &str, image_auroc, images_per_second| Cell {
            weights: "some".to_owned(),
            precision: "half".to_owned(),
            size: size.to_owned(),
            tiles: "auto".to_owned(),
            shots: 4,
            seeds: 1,
            image_auroc,
            pixel_auroc: None,
            aupro: None,
            images_per_second,
            fit_seconds: 1.0,
        };
        // (name, cells, marks)
        for (name, cells, marks) in [
            ("nothing", vec![], 0),
            ("one", vec![cell("auto", Some(0.9), 20.0)], 1),
            (
                "one without a score",
                vec![cell("224", Some(0.9), 20.0), cell("336", None, 9.0)],
                1,
            ),
            (
                "two",
                vec![cell("224", Some(0.9), 20.0), cell("448", Some(0.95), 2.0)],
                2,
            ),
        ] {
            let svg = figure(&cells);
            assert_eq!(svg.matches("<circle").count(), marks, "{name}");
            assert!(
                !svg.contains("NaN") && !svg.contains("inf"),
                "{name}: {svg}"
            );
            assert_eq!(
                comma_separated(&cells).unwrap().lines().count(),
                cells.len() + usize::from(!cells.is_empty()),
                "{name}"
            );
        }
    }
}
