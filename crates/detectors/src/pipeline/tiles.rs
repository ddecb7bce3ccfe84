//! Tiles: an input that is too large for one pass through the network goes through it in overlapping
//! parts, and their tokens are joined to those of one large image. Where parts overlap, tokens are
//! averaged with weights that fall towards the edges of a part, so that no seams are left.

use anomalens_backbones::{FeatureMap, Grid, ImageEncoder, ImageFeatures, LayerId};
use anomalens_vision::Preprocessed;
use rayon::prelude::*;

use super::cells::joined_cells;
use crate::{DetectorError, InputSpec};

/// Neighbours overlap by this part of a tile at least.
const OVERLAP: usize = 4;

/// Where tiles of `side` start along `length`, all multiples of `multiple`, and how long they are.
fn along(length: usize, side: usize, multiple: usize) -> (Vec<usize>, usize) {
    if length <= side {
        return (vec![0], length);
    }
    let room = length - side;
    let tiles = room.div_ceil((side - side / OVERLAP).max(1)) + 1;
    let start = |tile: usize| tile * room / (tiles - 1) / multiple * multiple;
    ((0..tiles).map(start).collect(), side)
}

/// A tile of an input, in pixels.
struct Part {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Part {
    fn of(&self, input: &Preprocessed) -> Preprocessed {
        let planes = input.values.chunks_exact(input.height * input.width);
        let values = planes.flat_map(|plane| {
            let rows = plane.chunks_exact(input.width);
            let rows = rows.skip(self.top).take(self.height);
            rows.flat_map(|row| row[self.left..][..self.width].iter().copied())
        });
        Preprocessed {
            height: self.height,
            width: self.width,
            values: values.collect(),
        }
    }
}

/// A tile is as much work as so many images are usually.
const TILE_IMAGES: usize = 8;

impl InputSpec {
    /// The features of each of `inputs`, large ones in tiles.
    ///
    /// # Errors
    /// Those of the network.
    pub fn encode(
        &self,
        encoder: &dyn ImageEncoder,
        inputs: &[Preprocessed],
    ) -> Result<Vec<ImageFeatures>, DetectorError> {
        let features = self.seen(encoder.network(self.network)?, inputs)?;
        Ok(match self.join_cells {
            Some(side) => {
                let joined = features.into_par_iter();
                joined.map(|one| joined_cells(one, side)).collect()
            }
            None => features,
        })
    }

    fn seen(
        &self,
        encoder: &dyn ImageEncoder,
        inputs: &[Preprocessed],
    ) -> Result<Vec<ImageFeatures>, DetectorError> {
        if self.request.layers == [LayerId::PIXELS] {
            return Ok(inputs.iter().map(pixels).collect());
        }
        let side = self.tiles.unwrap_or(usize::MAX);
        let fits = |input: &Preprocessed| input.height.max(input.width) <= side;
        if inputs.iter().all(fits) {
            return Ok(encoder.encode(inputs, &self.request)?);
        }
        let multiple = encoder.spec().multiple.max(1);
        // One at a time on the processor, which a tile keeps busy: few are in memory then.
        let together = (encoder.batch() / TILE_IMAGES).max(1);
        let one = |input: &Preprocessed| {
            let (tops, height) = along(input.height, side, multiple);
            let (lefts, width) = along(input.width, side, multiple);
            let places = tops
                .iter()
                .flat_map(|&top| lefts.iter().map(move |&left| (top, left)));
            let parts: Vec<Part> = places
                .map(|(top, left)| Part {
                    top,
                    left,
                    height,
                    width,
                })
                .collect();
            let mut joined = Joined::default();
            for parts in parts.chunks(together) {
                let inputs: Vec<Preprocessed> = parts.iter().map(|part| part.of(input)).collect();
                let features = encoder.encode(&inputs, &self.request)?;
                for (part, features) in parts.iter().zip(features) {
                    joined.add(part, (input.height, input.width), features);
                }
            }
            Ok(joined.finish())
        };
        inputs.iter().map(one).collect()
    }
}

/// What is before the first stage of any network.
fn pixels(input: &Preprocessed) -> ImageFeatures {
    let grid = Grid {
        rows: input.height,
        columns: input.width,
    };
    let pixel =
        |at: usize| (0..Preprocessed::CHANNELS).map(move |c| input.values[c * grid.len() + at]);
    ImageFeatures {
        maps: vec![FeatureMap {
            layer: LayerId::PIXELS,
            grid,
            dim: Preprocessed::CHANNELS,
            tokens: (0..grid.len()).flat_map(pixel).collect(),
            class_token: None,
        }],
        ..ImageFeatures::default()
    }
}

/// The features of an input, growing tile by tile.
#[derive(Default)]
struct Joined {
    /// The sums of weighted tokens.
    features: ImageFeatures,
    /// The sums of the weights of each token of each map.
    weights: Vec<Vec<f32>>,
    tiles: usize,
}

impl Joined {
    fn add(&mut self, part: &Part, size: (usize, usize), features: ImageFeatures) {
        if self.tiles == 0 {
            let empty = features.maps.iter().map(|map| {
                let grid = Grid {
                    rows: size.0 * map.grid.rows / part.height,
                    columns: size.1 * map.grid.columns / part.width,
                };
                FeatureMap {
                    grid,
                    tokens: vec![0.0; grid.len() * map.dim],
                    class_token: map.class_token.as_ref().map(|token| vec![0.0; token.len()]),
                    ..*map
                }
            });
            self.features.maps = empty.collect();
            let weights = self
                .features
                .maps
                .iter()
                .map(|map| vec![0.0; map.grid.len()]);
            self.weights = weights.collect();
        }
        self.tiles += 1;
        let maps = self.features.maps.iter_mut().zip(&mut self.weights);
        for ((sum, weights), map) in maps.zip(&features.maps) {
            // Rows and columns of the whole grid before the tile.
            let above = part.top * map.grid.rows / part.height;
            let before = part.left * map.grid.columns / part.width;
            for (at, token) in map.tokens.chunks_exact(map.dim.max(1)).enumerate() {
                let (row, column) = (at / map.grid.columns, at % map.grid.columns);
                let weight = ramp(row, map.grid.rows) * ramp(column, map.grid.columns);
                let place = (above + row) * sum.grid.columns + before + column;
                weights[place] += weight;
                let sums = sum.tokens[place * map.dim..].iter_mut();
                sums.zip(token).for_each(|(sum, x)| *sum += weight * x);
            }
            add_to(&mut sum.class_token, &map.class_token);
        }
        match &mut self.features.embedding {
            None => self.features.embedding = features.embedding,
            sum => add_to(sum, &features.embedding),
        }
    }

    fn finish(mut self) -> ImageFeatures {
        let count = self.tiles.max(1) as f32;
        let maps = self.features.maps.iter_mut().zip(&self.weights);
        for (map, weights) in maps {
            let tokens = map.tokens.chunks_exact_mut(map.dim.max(1));
            for (token, weight) in tokens.zip(weights) {
                token.iter_mut().for_each(|x| *x /= weight);
            }
            let class = map.class_token.iter_mut().flatten();
            class.for_each(|x| *x /= count);
        }
        let embedding = self.features.embedding.iter_mut().flatten();
        embedding.for_each(|x| *x /= count);
        self.features
    }
}

/// The weight of a place along a side of `length` places: it falls towards both ends.
fn ramp(at: usize, length: usize) -> f32 {
    (at + 1).min(length - at) as f32
}

fn add_to(sum: &mut Option<Vec<f32>>, one: &Option<Vec<f32>>) {
    if let (Some(sum), Some(one)) = (sum, one) {
        sum.iter_mut().zip(one).for_each(|(sum, x)| *sum += x);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use anomalens_backbones::{
        BackboneError, EncoderSpec, FeatureRequest, LayerId, LayerInfo, Normalisation, Precision,
    };

    use super::*;

    /// The second layer's cells have twice the side.
    const PATCH: usize = 2;

    /// Gives each patch its mean; a second layer has cells of twice the side.
    struct Means;

    static SPEC: LazyLock<EncoderSpec> = LazyLock::new(|| {
        let layer = |number| LayerInfo {
            id: LayerId::Stage(number),
            dim: 1,
            stride: PATCH * number,
        };
        EncoderSpec {
            name: "means".to_owned(),
            layers: vec![layer(1), layer(2)],
            embedding: 1,
            multiple: 2 * PATCH,
            precision: Precision::F32,
            normalisation: Normalisation::IMAGENET,
        }
    });

    impl ImageEncoder for Means {
        fn spec(&self) -> &EncoderSpec {
            &SPEC
        }

        /// Three tiles are encoded together.
        fn batch(&self) -> usize {
            3 * TILE_IMAGES
        }

        fn encode(
            &self,
            images: &[Preprocessed],
            request: &FeatureRequest,
        ) -> Result<Vec<ImageFeatures>, BackboneError> {
            let one = |image: &Preprocessed| {
                let map = |&layer: &LayerId| {
                    let stride = SPEC.layer(layer).unwrap().stride;
                    let grid = Grid {
                        rows: image.height / stride,
                        columns: image.width / stride,
                    };
                    let mean = |at: usize| {
                        let (row, column) = (at / grid.columns, at % grid.columns);
                        let pixels = (0..stride * stride).map(|i| {
                            let y = row * stride + i / stride;
                            image.values[y * image.width + column * stride + i % stride]
                        });
                        pixels.sum::<f32>() / (stride * stride) as f32
                    };
                    FeatureMap {
                        layer,
                        grid,
                        dim: 1,
                        tokens: (0..grid.len()).map(mean).collect(),
                        class_token: Some(vec![1.0]),
                    }
                };
                ImageFeatures {
                    maps: request.layers.iter().map(map).collect(),
                    embedding: Some(vec![2.0]),
                    further: vec![],
                }
            };
            Ok(images.iter().map(one).collect())
        }
    }

    fn spec(tiles: Option<usize>) -> InputSpec {
        let mut spec = InputSpec::square("test", 8, &[1]).unwrap();
        spec.request = FeatureRequest::layers([LayerId::Stage(1), LayerId::Stage(2)]);
        spec.tiles = tiles;
        spec
    }

    #[test]
    fn joined_tiles_are_the_features_of_the_whole_where_these_are_local() {
        for (name, height, width, side) in [
            ("one tile", 8, 8, 8),
            ("a strip", 8, 32, 8),
            ("a tall one", 40, 12, 12),
            ("both", 20, 28, 8),
        ] {
            let values = (0..3 * height * width).map(|i| ((i * 7 + i / 5) % 31) as f32);
            let input = [Preprocessed {
                height,
                width,
                values: values.collect(),
            }];
            let whole = spec(None).encode(&Means, &input).unwrap();
            let found = spec(Some(side)).encode(&Means, &input).unwrap();
            for (found, whole) in found[0].maps.iter().zip(&whole[0].maps) {
                assert_eq!(found.grid, whole.grid, "{name}");
                assert_eq!(found.class_token, whole.class_token, "{name}");
                for (found, whole) in found.tokens.iter().zip(&whole.tokens) {
                    assert!((found - whole).abs() < 1e-4, "{name}: {found} {whole}");
                }
            }
            assert_eq!(found[0].embedding, whole[0].embedding, "{name}");
        }
    }

    #[test]
    fn tiles_cover_a_side_and_overlap() {
        // (length, side, starts, how long)
        for (length, side, starts, long) in [
            (224, 448, vec![0], 224),
            (448, 448, vec![0], 448),
            (560, 448, vec![0, 112], 448),
            (1120, 448, vec![0, 336, 672], 448),
            (1344, 672, vec![0, 336, 672], 672),
            (1134, 448, vec![0, 224, 448, 686], 448),
        ] {
            assert_eq!(along(length, side, 14), (starts, long), "{length}");
        }
    }
}
