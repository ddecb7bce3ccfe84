//! SPADE (Cohen and Hoshen, 2020): an image is as anomalous as it is far from the nearest normal images, and
//! a place as far as it is from the nearest place of those images, in several layers of the network.
//!
//! The authors published no code; the settings are those of the re-implementation that most papers compare
//! with (byungjae89/SPADE-pytorch at 077c67b). It compares with 5 images, the paper with 50. It works on
//! blocks of 100 places of the normal images and forgets the rest: the setting `literal_chunks` does that,
//! too. What it means by a distance changed with PyTorch; here it is that over the channels, as it was then,
//! without the 1e-6 that PyTorch adds to every difference.

#[cfg(test)]
mod goldens;
mod graph;
mod settings;

use anomalens_backbones::{FeatureMap, Grid, ImageFeatures};
use anomalens_onnx::model::Graph;
use anomalens_onnx::network::Outputs;
use anomalens_vision::{Alignment, Map};

pub use settings::Settings;

use crate::components::graph::{GraphScored, of_input};
use crate::components::layers::Framing;
use crate::components::nearest::{Near, Vectors};
use crate::detector::{Array, Detector, NormalRange, Profile, Scored, State};
use crate::settings::Checked;
use crate::{
    DefaultWeights, DetectorError, FitContext, Method, MethodInfo, Need, Requirements,
    Settings as _,
};

/// The method's name.
pub const NAME: &str = "spade";

/// Places that the published code works on at once.
const CHUNK: usize = 100;

/// Normal images that are measured against the others.
const MEASURED: usize = 16;

/// Quantile of their distances from where on places are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// Names of the tensors in a detector file; that of each gallery ends with the number of its layer.
const POOLED: &str = "pooled";
const GALLERY: &str = "gallery/";
const RANGE: &str = "range";

/// The method.
pub struct Spade;

impl Method for Spade {
    fn info(&self) -> &'static MethodInfo {
        &MethodInfo {
            name: NAME,
            summary: "distance to the nearest normal images, and of each place to the places of these",
            paper: "Cohen and Hoshen, Sub-Image Anomaly Detection with Deep Pyramid \
                    Correspondences, arXiv 2020",
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

    fn fit(&self, context: &FitContext<'_>) -> Result<Box<dyn Detector>, DetectorError> {
        let references = context.require_references(NAME)?;
        let defaults = Settings::defaults(context.encoder);
        let mut settings = defaults.replaced_by(context.settings)?;
        let spec = context.encoder.spec();
        settings.crop = Framing::crop(settings.crop, settings.image_size, spec);
        let checked = Checked::new(settings)?;
        let (mut pooled, mut width) = (vec![], 0);
        let mut galleries: Vec<Gallery> = vec![];
        context.each_reference(&checked.profile.input, references, |features| {
            let Seen { maps, mean } = Seen::of(&features, &checked.settings)?;
            if galleries.is_empty() {
                let values = maps.iter().map(|map| map.tokens.len()).sum();
                check_memory(references.len(), values, checked.settings.max_memory)?;
                galleries = maps.iter().map(|map| Gallery::new(map)).collect();
                width = mean.len();
            }
            pooled.extend(mean);
            let both = galleries.iter_mut().zip(maps);
            both.for_each(|(gallery, map)| gallery.values.extend(&map.tokens));
            Ok(())
        })?;
        let mut detector = SpadeDetector {
            pooled: Vectors::new(pooled, width, checked.settings.search)?,
            galleries,
            checked,
            range: NormalRange::default(),
        };
        detector.range = detector.range_of_normal()?;
        Ok(Box::new(detector))
    }

    fn load(&self, mut state: State) -> Result<Box<dyn Detector>, DetectorError> {
        let checked: Checked<Settings> = Checked::load(&state)?;
        let (pooled, images) = match state.take(NAME, POOLED)? {
            Array { shape, values } if shape.len() == 2 && !values.is_empty() => {
                let pooled = Vectors::new(values, shape[1], checked.settings.search)?;
                (pooled, shape[0])
            }
            _ => return Err(DetectorError::tensor(NAME, POOLED)),
        };
        let galleries = checked.settings.compared()?.into_iter().map(|layer| {
            let name = format!("{GALLERY}{}", layer.number());
            match state.take(NAME, &name)? {
                Array { shape, values }
                    if shape.len() == 4 && shape[0] == images && !values.is_empty() =>
                {
                    Ok(Gallery {
                        grid: Grid {
                            rows: shape[1],
                            columns: shape[2],
                        },
                        width: shape[3],
                        values,
                    })
                }
                _ => Err(DetectorError::tensor(NAME, &name)),
            }
        });
        Ok(Box::new(SpadeDetector {
            galleries: galleries.collect::<Result<_, _>>()?,
            range: NormalRange::take(&mut state, NAME, RANGE)?,
            pooled,
            checked,
        }))
    }
}

/// Refuses normal images whose features take too much memory, `values` numbers each.
fn check_memory(images: usize, values: usize, megabytes: u32) -> Result<(), DetectorError> {
    let needed = (images * values * size_of::<f32>()).div_ceil(1_000_000);
    match needed > megabytes as usize {
        false => Ok(()),
        true => Err(DetectorError::settings(
            NAME,
            format_args!(
                "the features of {images} normal images need {needed} MB, and `max_memory` is \
                 {megabytes}; use fewer of them (`--shots`)"
            ),
        )),
    }
}

/// What is compared of an image.
struct Seen<'a> {
    maps: Vec<&'a FeatureMap>,
    /// The mean over all places of a deep layer.
    mean: Vec<f32>,
}

impl<'a> Seen<'a> {
    fn of(image: &'a ImageFeatures, settings: &Settings) -> Result<Self, DetectorError> {
        let map = |layer| {
            let map = image.map(layer);
            map.ok_or(DetectorError::MissingLayer(layer))
        };
        let maps = settings.compared()?.into_iter().map(map);
        let deep = map(settings.pooled()?)?;
        let mut mean = vec![0.0; deep.dim];
        for token in deep.tokens.chunks_exact(deep.dim.max(1)) {
            mean.iter_mut().zip(token).for_each(|(sum, x)| *sum += x);
        }
        let count = deep.grid.len().max(1) as f32;
        mean.iter_mut().for_each(|sum| *sum /= count);
        Ok(Self {
            maps: maps.collect::<Result<_, _>>()?,
            mean,
        })
    }
}

/// The tokens of all normal images after one layer.
struct Gallery {
    grid: Grid,
    width: usize,
    /// `[images, rows, columns, width]`.
    values: Vec<f32>,
}

impl Gallery {
    fn new(map: &FeatureMap) -> Self {
        Self {
            grid: map.grid,
            width: map.dim,
            values: vec![],
        }
    }

    /// The places of some images; without the last ones that do not fill a chunk, where they are wanted as
    /// the published code has them, which goes through the columns of each image.
    fn places(&self, images: &[usize], literal_chunks: bool) -> Vec<f32> {
        let Grid { rows, columns } = self.grid;
        let of_image = self.grid.len() * self.width;
        let images = images
            .iter()
            .map(|&image| &self.values[image * of_image..][..of_image]);
        if !literal_chunks {
            return images.flatten().copied().collect();
        }
        let columnwise = images.flat_map(|image| {
            let places = (0..columns).flat_map(|x| (0..rows).map(move |y| y * columns + x));
            places.flat_map(|place| &image[place * self.width..][..self.width])
        });
        let mut places: Vec<f32> = columnwise.copied().collect();
        let count = places.len() / self.width;
        if count > CHUNK {
            places.truncate(count / CHUNK * CHUNK * self.width);
        }
        places
    }
}

/// Features of normal images, ready to score others.
struct SpadeDetector {
    checked: Checked<Settings>,
    /// One for each normal image.
    pooled: Vectors,
    galleries: Vec<Gallery>,
    /// For pictures only.
    range: NormalRange,
}

impl Detector for SpadeDetector {
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
        // They were checked when the detector was made.
        let layers = self.checked.settings.compared().unwrap_or_default();
        let galleries = self.galleries.iter().zip(layers).map(|(gallery, layer)| {
            let Grid { rows, columns } = gallery.grid;
            let array = Array {
                shape: vec![self.pooled.len(), rows, columns, gallery.width],
                values: gallery.values.clone(),
            };
            (format!("{GALLERY}{}", layer.number()), array)
        });
        let others = [
            (POOLED.to_owned(), self.pooled.array()),
            (RANGE.to_owned(), self.range.array()),
        ];
        self.checked.state(galleries.chain(others))
    }
}

impl SpadeDetector {
    fn score_one(&self, image: &ImageFeatures) -> Result<Scored, DetectorError> {
        let settings = &self.checked.settings;
        let seen = Seen::of(image, settings)?;
        let galleries = self.galleries.iter().map(|gallery| gallery.width);
        let expected = std::iter::once(self.pooled.width()).chain(galleries);
        let maps = seen.maps.iter().map(|map| map.dim);
        for (expected, found) in expected.zip(std::iter::once(seen.mean.len()).chain(maps)) {
            if expected != found {
                return Err(DetectorError::Width { expected, found });
            }
        }
        let near = self.pooled.nearest(&seen.mean, settings.neighbours);
        let images: Vec<usize> = near.iter().map(|near| near.index).collect();
        let places = seen
            .maps
            .iter()
            .map(|map| (map.tokens.as_slice(), map.grid));
        Ok(Scored {
            score: mean_distance(&near),
            map: self.map(&places.collect::<Vec<_>>(), &images)?,
            range: self.range,
        })
    }

    /// The mean over the layers of how far each place is from the nearest one of these normal images, at
    /// the size of what the network saw. `layers`: tokens and grid of each.
    fn map(&self, layers: &[(&[f32], Grid)], images: &[usize]) -> Result<Map, DetectorError> {
        let side = self.checked.settings.framing().side() as usize;
        let mut sums = vec![0.0; side * side];
        for (gallery, (tokens, grid)) in self.galleries.iter().zip(layers) {
            let distances = self.distances(gallery, tokens, images)?;
            let large = Map::new(grid.rows, grid.columns, distances)?;
            let large = large.resize(side, side, Alignment::Edges)?;
            let both = sums.iter_mut().zip(large.values());
            both.for_each(|(sum, x)| *sum += x / layers.len() as f32);
        }
        Ok(Map::new(side, side, sums)?)
    }

    /// How far each token is from the nearest place of these normal images.
    fn distances(
        &self,
        gallery: &Gallery,
        tokens: &[f32],
        images: &[usize],
    ) -> Result<Vec<f32>, DetectorError> {
        let settings = &self.checked.settings;
        let places = gallery.places(images, settings.literal_chunks);
        let places = Vectors::new(places, gallery.width, settings.search)?;
        let nearest = places.nearest(tokens, 1).into_iter();
        Ok(nearest.map(|near| near.squared.sqrt()).collect())
    }

    /// What places of normal images score with the images nearest to them, themselves left out. Zeros if
    /// there is only one.
    fn range_of_normal(&self) -> Result<NormalRange, DetectorError> {
        let count = self.pooled.len();
        let mut all = vec![];
        for image in (0..count).step_by(count.div_ceil(MEASURED)) {
            let pooled = self.pooled.get(image);
            let near = self
                .pooled
                .nearest(pooled, self.checked.settings.neighbours + 1);
            let others = near.iter().map(|near| near.index);
            let mut others: Vec<usize> = others.filter(|&other| other != image).collect();
            others.truncate(self.checked.settings.neighbours);
            if others.is_empty() {
                break;
            }
            let layers = self.galleries.iter().map(|gallery| {
                let of_image = gallery.grid.len() * gallery.width;
                let tokens = &gallery.values[image * of_image..][..of_image];
                (tokens, gallery.grid)
            });
            all.extend(
                self.map(&layers.collect::<Vec<_>>(), &others)?
                    .into_values(),
            );
        }
        Ok(NormalRange::of(all, UPPER_QUANTILE))
    }
}

/// The mean of the distances.
fn mean_distance(near: &[Near]) -> f32 {
    let distances = near.iter().map(|near| near.squared.sqrt());
    distances.sum::<f32>() / near.len().max(1) as f32
}
