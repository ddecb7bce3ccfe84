//! PatchCore (Roth et al., CVPR 2022): the anomaly score of a patch is the distance to the nearest one of
//! a memory bank of normal patches, which a coreset keeps small; nothing is trained.
//!
//! ```text
//! embedding.rs            section 3.1: patches from two layers of a network
//! graph.rs                the same as operations of a graph
//! components/coreset.rs   section 3.2: the patches that the bank keeps
//! components/nearest.rs   section 3.3: nearest patches
//! ```
//!
//! Two implementations are followed, the authors' (amazon-science/patchcore-inspection at fcaa92f) and
//! anomalib's (2.6.1.dev0). They differ in how images are cut, in the length of a patch, in the first
//! row of the coreset, in the unit of scores, in the image's score and in the map. Random choices are ours:
//! those of the references hang on the state of their generators.

mod embedding;
#[cfg(test)]
mod goldens;
mod graph;
mod settings;

use anomalens_backbones::{Grid, ImageFeatures};
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Outputs;
use anomalens_vision::{Border, GeometryError, Map};
use rand_mt::Mt;

pub use settings::{Selection, Settings, Variant};

use self::embedding::{embedding, width};
use crate::components::coreset::{Projection, Start, enough_numbers, greedy};
use crate::components::graph::{GraphScored, of_input};
use crate::components::layers::{Framing, cells};
use crate::components::nearest::{Near, Vectors};
use crate::components::tokens::squared_distance;
use crate::detector::{Array, Detector, NormalRange, Profile, Scored, State};
use crate::settings::{Checked, given_or_default};
use crate::training::random::{generator, uniform};
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _,
};

/// The method's name.
pub const NAME: &str = "patchcore";

/// Numbers to which the original projects patches when it chooses the coreset.
const PROJECTED: usize = 128;

/// Normal images whose patches are measured against those of others.
const MEASURED: usize = 16;

/// Quantile of their scores from where on patches are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// Names of the tensors in a detector file.
const BANK: &str = "bank";
const RANGE: &str = "range";
const WIDTHS: &str = "widths";

/// The method.
pub struct PatchCore;

impl Method for PatchCore {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "distance of each patch to the nearest one in a coreset of normal patches",
            paper: "Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022",
            requirements: Requirements {
                references: Need::Required,
                training: Need::No,
                joint: false,
                class: false,
            },
            backbones: "convolutional networks, Wide ResNet-50-2 in the paper; transformers",
            weights: DefaultWeights::Convolutional,
            several_networks: false,
        }
    }

    /// The images go through the network twice, so that their patches need not all be in memory: short
    /// projections of them choose the coreset, then its patches are kept.
    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let references = context.require_references(NAME)?;
        let checked = Checked::new(settled(context)?)?;
        let Checked { settings, profile } = &checked;
        let embed = |features: &ImageFeatures| -> Result<Vec<f32>, DetectorError> {
            Ok(embedding(&cells(features, &profile.input.request.layers)?, settings).0)
        };
        let spec = context.encoder.spec();
        let layers = profile.input.request.layers.iter();
        let widths = layers.map(|&layer| Ok(spec.layer(layer)?.dim));
        let widths = widths.collect::<Result<Vec<usize>, DetectorError>>()?;
        let width = width(&widths, settings);

        let mut random = generator(settings.seed, 0);
        let mut chooser = Chooser::new(settings, width);
        context.each_reference(&profile.input, references, |features| {
            chooser.add(embed(&features)?, references.len(), &mut random)
        })?;
        let patches = chooser.of_image;
        let taken = chooser.taken(&mut random);

        // The rows of the bank by their place among all patches, each with its place in the bank.
        let mut wanted: Vec<(usize, usize)> = taken.into_iter().zip(0..).collect();
        wanted.sort_unstable();
        let mut wanted = wanted.into_iter().peekable();
        let mut rows = vec![0.0; wanted.len() * width];
        let mut images = vec![0; wanted.len()];
        let step = references.len().div_ceil(MEASURED);
        let mut measured: Vec<(usize, Vec<f32>)> = vec![];
        let mut image = 0;
        context.each_reference(&profile.input, references, |features| {
            let all = embed(&features)?;
            let first = image * patches;
            while let Some((patch, place)) = wanted.next_if(|(patch, _)| *patch < first + patches) {
                let row = &all[(patch - first) * width..][..width];
                rows[place * width..][..width].copy_from_slice(row);
                images[place] = image;
            }
            if image % step == 0 {
                measured.push((image, all));
            }
            image += 1;
            Ok(())
        })?;
        let range = range(&rows, &images, &measured, width, settings)?;
        Ok(Box::new(PatchCoreDetector {
            bank: Vectors::new(rows, width, settings.search)?,
            widths,
            range,
            checked,
        }))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let bank = match state.take(NAME, BANK)? {
            Array { shape, values } if shape.len() == 2 && !values.is_empty() => {
                Vectors::new(values, shape[1], checked.settings.search)?
            }
            _ => return Err(DetectorError::tensor(NAME, BANK)),
        };
        let widths = state.take(NAME, WIDTHS)?.values.into_iter();
        Ok(Box::new(PatchCoreDetector {
            widths: widths.map(|width| width as usize).collect(),
            range: NormalRange::take(&mut state, NAME, RANGE)?,
            checked,
            bank,
        }))
    }
}

/// Which of `patches`, rows of `width` numbers, make the original's coreset of this part of them: to measure
/// how long the choice takes.
///
/// # Errors
/// [`DetectorError`] if they are no whole number of rows.
pub fn choose_coreset(
    patches: &[f32],
    width: usize,
    part: f64,
    seed: u32,
) -> Result<Vec<usize>, DetectorError> {
    let mut random = generator(seed, 0);
    let rows = Projection::dense(width, PROJECTED, &mut random)?.apply(patches)?;
    let count = rows.len() / PROJECTED;
    let start = Start::random_mean(count, &mut random);
    Ok(greedy(
        &rows,
        PROJECTED,
        (part * count as f64) as usize,
        &start,
    ))
}

/// The settings of `context`, with a crop that fits the network.
fn settled(context: &FitContext<'_>) -> Result<Settings, DetectorError> {
    let variant = given_or_default(NAME, context.settings, "variant")?;
    let defaults = Settings::defaults(context.encoder, variant);
    let settings = defaults.replaced_by(context.settings)?;
    let spec = context.encoder.spec();
    Ok(Settings {
        crop: Framing::crop(settings.crop, settings.image_size, spec),
        ..settings
    })
}

/// Gathers what the coreset is chosen by.
struct Chooser<'a> {
    settings: &'a Settings,
    width: usize,
    projection: Option<Projection>,
    /// Patches, or short projections of them.
    rows: Vec<f32>,
    /// Patches of each image.
    of_image: usize,
}

impl<'a> Chooser<'a> {
    fn new(settings: &'a Settings, width: usize) -> Self {
        Self {
            settings,
            width,
            projection: None,
            rows: vec![],
            of_image: 0,
        }
    }

    /// Adds the patches of one of `images`, which are of one size.
    fn add(
        &mut self,
        patches: Vec<f32>,
        images: usize,
        random: &mut Mt,
    ) -> Result<(), DetectorError> {
        if self.rows.is_empty() {
            self.of_image = patches.len() / self.width.max(1);
            self.projection = self.projection(images * self.of_image, random)?;
            let width = self
                .projection
                .as_ref()
                .map_or(self.width, Projection::width);
            self.rows.reserve_exact(images * self.of_image * width);
        }
        match &self.projection {
            Some(projection) => self.rows.extend(projection.apply(&patches)?),
            None => self.rows.extend(patches),
        }
        Ok(())
    }

    /// That of the variant for so many patches, if it makes them shorter.
    fn projection(
        &self,
        count: usize,
        random: &mut Mt,
    ) -> Result<Option<Projection>, DetectorError> {
        let to = match self.settings.variant {
            Variant::Original => PROJECTED,
            Variant::Anomalib => enough_numbers(count),
        };
        match (
            self.settings.projection && to < self.width,
            self.settings.variant,
        ) {
            (false, _) => Ok(None),
            (true, Variant::Original) => Projection::dense(self.width, to, random).map(Some),
            (true, Variant::Anomalib) => Projection::sparse(self.width, to, random).map(Some),
        }
    }

    /// The patches of the coreset, in the order in which they are taken.
    fn taken(self, random: &mut Mt) -> Vec<usize> {
        let width = self
            .projection
            .as_ref()
            .map_or(self.width, Projection::width);
        let count = self.rows.len() / width.max(1);
        let most = ((self.settings.coreset * count as f64) as usize).max(1);
        let start = match self.settings.selection {
            Selection::Approximate => Start::random_mean(count, random),
            Selection::Exact => Start::Norms,
            Selection::KCentre => Start::Row((uniform(random) * count as f64) as usize),
        };
        greedy(&self.rows, width, most, &start)
    }
}

/// What patches of normal images score with the rows of the bank that come from other images, one half
/// of the images with the other; a single one with its own.
fn range(
    rows: &[f32],
    images: &[usize],
    measured: &[(usize, Vec<f32>)],
    width: usize,
    settings: &Settings,
) -> Result<NormalRange, DetectorError> {
    let mut all = vec![];
    for half in 0..2 {
        let is_other = |image: usize| measured.len() < 2 || image % 2 != half;
        let others = rows.chunks_exact(width).zip(images);
        let others = others.filter(|(_, image)| is_other(**image));
        let others: Vec<f32> = others.flat_map(|(row, _)| row).copied().collect();
        if others.is_empty() {
            continue;
        }
        let others = Vectors::new(others, width, settings.search)?;
        for (_, patches) in measured.iter().filter(|(image, _)| image % 2 == half) {
            all.extend(scores(&others.nearest(patches, 1), settings.variant));
        }
    }
    Ok(NormalRange::of(all, UPPER_QUANTILE))
}

/// The scores of patches whose nearest rows are these: the square of the distance in the original.
fn scores(nearest: &[Near], variant: Variant) -> Vec<f32> {
    let score = |near: &Near| match variant {
        Variant::Original => near.squared,
        Variant::Anomalib => near.squared.sqrt(),
    };
    nearest.iter().map(score).collect()
}

/// A memory bank of normal patches, ready to score images.
struct PatchCoreDetector {
    checked: Checked<Settings>,
    bank: Vectors,
    /// Numbers of a token of each layer of the network that it was made with: patches are shortened to the
    /// same length whatever they are.
    widths: Vec<usize>,
    /// For pictures only.
    range: NormalRange,
}

impl Detector for PatchCoreDetector {
    fn profile(&self) -> &Profile {
        &self.checked.profile
    }

    fn score(&self, images: &[&ImageFeatures]) -> Result<Vec<Scored>, DetectorError> {
        images.iter().map(|image| self.score_one(image)).collect()
    }

    fn graph(&self, graph: &mut Graph, seen: &[Outputs]) -> Result<GraphScored, DetectorError> {
        self.in_graph(graph, of_input(seen, 0)?)
    }

    fn state(&self) -> State {
        self.checked.state([
            (BANK.to_owned(), self.bank.array()),
            (
                WIDTHS.to_owned(),
                Array::vector(self.widths.iter().map(|&width| width as f32).collect()),
            ),
            (RANGE.to_owned(), self.range.array()),
        ])
    }
}

impl PatchCoreDetector {
    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let Checked { settings, profile } = &self.checked;
        let layers = cells(image, &profile.input.request.layers)?;
        let widths: Vec<usize> = layers.iter().map(|layer| layer.width).collect();
        self.check_widths(&widths)?;
        let (patches, grid) = embedding(&layers, settings);
        let nearest = self.bank.nearest(&patches, 1);
        Ok(Scored {
            score: self.image_score(&patches, &nearest),
            map: self.map(grid, &nearest)?,
            range: self.range,
        })
    }

    /// Refuses layers of other widths than those of the network that it was made with.
    fn check_widths(&self, widths: &[usize]) -> Result<(), DetectorError> {
        let settings = &self.checked.settings;
        let other = widths.iter().zip(&self.widths).find(|(a, b)| a != b);
        if let Some((&found, &expected)) = other {
            return Err(DetectorError::Width { expected, found });
        }
        let (expected, found) = (self.bank.width(), width(widths, settings));
        match widths.len() == self.widths.len() && expected == found {
            true => Ok(()),
            false => Err(DetectorError::Width { expected, found }),
        }
    }

    /// The highest score of a patch; in anomalib weighed by how much nearer its neighbour is than those
    /// around that.
    fn image_score(&self, patches: &[f32], nearest: &[Near]) -> f32 {
        let settings = &self.checked.settings;
        let all = nearest.iter().enumerate();
        let farthest = all.fold(None, |best: Option<(usize, &Near)>, one| match best {
            Some(best) if best.1.squared >= one.1.squared => Some(best),
            _ => Some(one),
        });
        let Some((patch, near)) = farthest else {
            return 0.0;
        };
        let score = scores(&[*near], settings.variant)[0];
        match settings.neighbours {
            1 => score,
            count => {
                let patch = &patches[patch * self.bank.width()..][..self.bank.width()];
                score * self.weight(patch, near.index, count).0
            }
        }
    }

    /// How much the score of `patch` counts, whose nearest row of the bank is `nearest`: 1 less the
    /// softmax of the distance to it among those to its `count` neighbours; and these neighbours.
    fn weight(&self, patch: &[f32], nearest: usize, count: usize) -> (f32, Vec<usize>) {
        let around = self.bank.nearest(self.bank.get(nearest), count);
        let around: Vec<usize> = around.iter().map(|near| near.index).collect();
        let distances = around
            .iter()
            .map(|&row| squared_distance(patch, self.bank.get(row)).sqrt());
        let distances: Vec<f32> = distances.collect();
        let largest = distances.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        let parts = distances.iter().map(|distance| (distance - largest).exp());
        let parts: Vec<f32> = parts.collect();
        let own = parts.first().copied().unwrap_or_default();
        (1.0 - own / parts.iter().sum::<f32>(), around)
    }

    /// The scores of the patches; in anomalib enlarged to what the network saw, and smoothed there.
    fn map(&self, grid: Grid, nearest: &[Near]) -> Result<Map, DetectorError> {
        let settings = &self.checked.settings;
        let map = Map::new(grid.rows, grid.columns, scores(nearest, settings.variant))?;
        match settings.variant {
            Variant::Original => Ok(map),
            Variant::Anomalib => {
                let side = settings.framing().side() as usize;
                Ok(enlarged(&map, side, side)?)
            }
        }
    }
}

/// Anomalib's map: each pixel has the score of its patch, then all are smoothed.
fn enlarged(map: &Map, rows: usize, columns: usize) -> Result<Map, GeometryError> {
    let large = map.resize_nearest(rows, columns)?;
    large.smooth_with(settings::SIGMA, Border::EdgeOnce)
}
