//! What the references decide: the size that images are worked on, whether references are turned, and
//! whether there is a ground around an object. Each choice is a setting that can be given instead.
//!
//! The rules were found on magnetic tile, textile, MVTec AD's screws and HeadCT
//! (docs/research/lens.md).

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use anomalens_backbones::{Grid, ImageEncoder};
use anomalens_vision::Image;
use candle_core::Tensor;

use super::foreground::{Evidence, Foreground};
use super::residual::Compared;
use super::settings::{SMALL_BELOW, Settings, small};
use crate::components::layers::of_twelve;
use crate::components::residual::{banks, map};
use crate::pipeline::is_flat;
use crate::settings::Checked;
use crate::{Choice, DetectorError, FitContext, Note, ReferenceAugmentation, ReferenceImage};

/// References that are looked at, at most.
const LOOKED_AT: usize = 8;

/// Blocks that are compared in larger images, of twelve.
const PARTS: [usize; 3] = [6, 8, 10];

/// The shorter side for small images of surfaces.
const SURFACE: u32 = 336;

/// The most for what goes through the network in one piece, and the side of a tile.
pub(super) const PIECE: u32 = 672;

/// From this shorter side on images are seen in tiles, at this size.
const LARGE: u32 = 1344;

/// What is longer than this many times the side of a piece is seen in tiles.
const LONG: f64 = 1.5;

/// Where turned references come so much nearer to the others than moved ones, things lie in any
/// direction. Screws have .41 to .74 and once 1.03, things that are upright .94 to 1.06.
const TURNED: f32 = 0.85;

/// Images are moved by one of so many parts of their sides.
const MOVE: i64 = 32;

/// `settings` with everything chosen that they leave open, and what was chosen.
pub(super) fn choose(
    context: &FitContext<'_>,
    settings: Settings,
) -> Result<(Settings, Vec<Note>), DetectorError> {
    let images = looked_at(context)?;
    let images: Vec<&Image> = images.iter().map(|image| &**image).collect();
    let mut notes = vec![];
    let mut note = |setting: &str, value: String, reason: String| {
        notes.push(Note::Chosen {
            setting: setting.to_owned(),
            value,
            reason,
        });
    };
    if images.is_empty() {
        return Ok((settings.settled(context.encoder), vec![]));
    }
    let overview = Overview::of(context, &settings, &images)?;
    let mut chosen = settings.clone();

    let object = match settings.foreground {
        Choice::Given(given) => given,
        Choice::Auto => {
            let Evidence { pure, separate } = overview.ground;
            let is_there = overview.ground.is_clear();
            let what = match is_there {
                true => "the references show an object on an even ground",
                false => "the references have no even ground around an object",
            };
            note(
                "foreground",
                is_there.to_string(),
                format!("{what} ({pure:.2} of their border, {separate:.2} of the variance)"),
            );
            is_there
        }
    };
    chosen.foreground = Choice::Given(object);

    if settings.reference_augmentation == Choice::Auto {
        let (value, reason) = match overview.turned {
            None => (
                ReferenceAugmentation::Rotations,
                "one reference does not say whether things lie in any direction".to_owned(),
            ),
            Some(ratio) if ratio < TURNED => (
                ReferenceAugmentation::Rotations,
                format!(
                    "turned references are {ratio:.2} times as far from each other as moved ones"
                ),
            ),
            Some(ratio) => (
                ReferenceAugmentation::Flips,
                format!(
                    "turned references are {ratio:.2} times as far from each other as moved ones"
                ),
            ),
        };
        let name = format!("{value:?}").to_lowercase();
        note("reference_augmentation", name, reason);
        chosen.reference_augmentation = Choice::Given(value);
    }

    let shape = Shape::of(&images);
    let (size, tile) = settings.size(context.encoder, &shape, object);
    let open = !context.settings.contains_key("blocks") && !settings.blocks.is_empty();
    if size[0].min(size[1]) >= SMALL_BELOW && open {
        chosen.blocks = of_twelve(&PARTS, context.encoder.spec().blocks());
        let value = serde_json::json!(chosen.blocks).to_string();
        note(
            "blocks",
            value,
            "of a large picture, small details count".to_owned(),
        );
    }
    chosen.image_size = Choice::Given(size[0].min(size[1]));
    chosen.input_size = Choice::Given(size);
    chosen.tiles = Choice::Given(tile);
    let tiles = match tile {
        0 => String::new(),
        side => format!(", in tiles of {side}"),
    };
    let patch = settings.patch(context.encoder)? as f64;
    let covers = patch * f64::from(shape.shorter) / f64::from(size[0].min(size[1]));
    note(
        "input_size",
        format!("[{},{}]", size[0], size[1]),
        format!(
            "the shorter side of references has {} pixels; a patch covers {covers:.0} of them{tiles}",
            shape.shorter
        ),
    );
    Ok((chosen, notes))
}

/// Some references, from everywhere among their names, without copies and those of one colour: copies
/// would seem to lie alike. The order of the files changes nothing.
pub(super) fn looked_at(context: &FitContext<'_>) -> Result<Vec<Arc<Image>>, DetectorError> {
    let mut references: Vec<&ReferenceImage> = context.references.iter().collect();
    references.sort_by(|a, b| a.name.cmp(&b.name));
    let every = references.len().div_ceil(LOOKED_AT).max(1);
    let wanted = references.len().div_ceil(every);
    let mut seen = HashSet::new();
    let mut images = vec![];
    // Evenly spread ones, then their neighbours where one cannot be used.
    let order = (0..every).flat_map(|first| references[first..].iter().step_by(every));
    for reference in order {
        if images.len() == wanted {
            break;
        }
        let image = reference.open()?;
        let mut hasher = DefaultHasher::new();
        (image.width(), image.as_bytes()).hash(&mut hasher);
        if !is_flat(&image) && seen.insert(hasher.finish()) {
            images.push(image);
        }
    }
    Ok(images)
}

impl Settings {
    /// Width and height to work on, and the side of tiles or 0.
    fn size(&self, encoder: &dyn ImageEncoder, shape: &Shape, object: bool) -> ([u32; 2], u32) {
        let multiple = encoder.spec().multiple.max(1) as u32;
        // CLIP's networks were trained at one size.
        let has_text = matches!(encoder.text(None), Ok(Some(_)));
        let side = self.image_size.given().unwrap_or(match shape.shorter {
            _ if has_text => small(encoder),
            shorter if shorter >= LARGE => LARGE,
            shorter if shorter >= SMALL_BELOW => shorter.min(PIECE),
            _ if object => small(encoder),
            _ => SURFACE,
        });
        let (width, height) = match shape.aspect >= 1.0 {
            true => (f64::from(side) * shape.aspect, f64::from(side)),
            false => (f64::from(side), f64::from(side) / shape.aspect),
        };
        let longer = width.max(height);
        let to = |side: f64| {
            let patches = (side / f64::from(multiple)).round().max(1.0);
            patches as u32 * multiple
        };
        let largest = self.image_size.given().unwrap_or(0).max(PIECE);
        let tile = self.tiles.given().unwrap_or(match has_text {
            false if longer > LONG * f64::from(largest) => side.min(PIECE) / multiple * multiple,
            _ => 0,
        });
        // A side that was asked for stays: the network refuses one that does not fit.
        let to = |length: f64| match self.image_size.given() {
            Some(side) if length == f64::from(side) => side,
            _ => to(length),
        };
        let size = self.input_size.given();
        (size.unwrap_or([to(width), to(height)]), tile)
    }
}

/// How large and wide the references are, in the middle.
struct Shape {
    /// Pixels of the shorter side.
    shorter: u32,
    /// Width by height.
    aspect: f64,
}

impl Shape {
    fn of(images: &[&Image]) -> Self {
        let mut shorter: Vec<u32> = images.iter().map(|i| i.width().min(i.height())).collect();
        let ratio = |image: &&Image| f64::from(image.width()) / f64::from(image.height());
        let mut aspects: Vec<f64> = images.iter().map(ratio).collect();
        shorter.sort_unstable();
        aspects.sort_unstable_by(f64::total_cmp);
        let middle = |count: usize| count.saturating_sub(1) / 2;
        Self {
            shorter: shorter.get(middle(shorter.len())).copied().unwrap_or(1),
            aspect: aspects.get(middle(aspects.len())).copied().unwrap_or(1.0),
        }
    }
}

/// The references at a small size.
struct Overview {
    ground: Evidence,
    /// How far one is from the others where these are turned, by how far where they are only moved a
    /// little; that of the reference that gains most, since a few may lie alike by chance. None for a
    /// single one.
    turned: Option<f32>,
}

impl Overview {
    fn of(
        context: &FitContext<'_>,
        settings: &Settings,
        images: &[&Image],
    ) -> Result<Self, DetectorError> {
        let small = Settings {
            image_size: Choice::Given(small(context.encoder)),
            input_size: Choice::Auto,
            ..settings.clone()
        };
        let small = small.settled(context.encoder);
        let Checked { profile, .. } = Checked::new(small)?;
        let encode = |images: &[&Image]| {
            let tta = crate::Tta::default();
            let features = context.encode(&profile.input, tta, images.iter().copied())?;
            let grid = features.first().map(|features| features.grid());
            let compared = features
                .iter()
                .map(|f| Compared::of(f, settings.compared()));
            Ok::<_, DetectorError>((compared.collect::<Result<Vec<_>, _>>()?, grid))
        };
        let forms = |forms: &[Image]| {
            let (forms, _) = encode(&forms.iter().collect::<Vec<_>>())?;
            let blocks = (0..settings.compared().len()).map(|block| {
                let all: Vec<&Tensor> = forms.iter().map(|form| &form.patches[block]).collect();
                Tensor::cat(&all, 0)
            });
            Ok::<Vec<Tensor>, DetectorError>(blocks.collect::<candle_core::Result<_>>()?)
        };
        let (upright, grid) = encode(images)?;
        let grid = grid.unwrap_or(Grid {
            rows: 0,
            columns: 0,
        });
        let last: Vec<&Tensor> = upright.iter().filter_map(|i| i.patches.last()).collect();
        let (_, ground) = Foreground::of(&last, grid)?;
        let turned = match (images, settings.reference_augmentation) {
            ([_, _, ..], Choice::Auto) => {
                // As many patches in both banks, so that only direction differs.
                let (mut turned, mut moved) = (vec![], vec![]);
                for image in images {
                    turned.push(forms(&ReferenceAugmentation::Rotations.of(image))?);
                    moved.push(forms(&moves(image))?);
                }
                let upright: Vec<Vec<Tensor>> = upright.into_iter().map(|i| i.patches).collect();
                let (turned, moved) = (residuals(&upright, &turned)?, residuals(&upright, &moved)?);
                let ratios = turned
                    .into_iter()
                    .zip(moved)
                    .filter(|(_, moved)| *moved > 0.0);
                ratios
                    .map(|(turned, moved)| turned / moved)
                    .reduce(f32::min)
            }
            _ => None,
        };
        Ok(Self { ground, turned })
    }
}

/// The image moved by a small part of its sides in eight directions.
fn moves(image: &Image) -> Vec<Image> {
    let [right, down] = [image.width(), image.height()].map(|side| i64::from(side) / MOVE);
    let directions = (-1..=1).flat_map(|y| (-1..=1).map(move |x| (x, y)));
    let directions = directions.filter(|direction| *direction != (0, 0));
    directions
        .map(|(x, y)| image.moved(x * right, y * down))
        .collect()
}

/// For each of `images` the mean residual of its patches against those of all `others` but its own.
fn residuals(images: &[Vec<Tensor>], others: &[Vec<Tensor>]) -> Result<Vec<f32>, DetectorError> {
    let one = |(i, image): (usize, &Vec<Tensor>)| {
        let rest = others.iter().enumerate().filter(|(j, _)| *j != i);
        let rest: Vec<&[Tensor]> = rest.map(|(_, other)| other.as_slice()).collect();
        let map = map(image, &banks(&rest)?)?;
        Ok(map.iter().sum::<f32>() / map.len().max(1) as f32)
    };
    images.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: u32, height: u32) -> Image {
        let bytes = (0..3 * width * height).map(|i| (i / 3 % 251) as u8);
        Image::new(width, height, bytes.collect()).unwrap()
    }

    #[test]
    fn the_shape_is_that_of_the_middle_reference() {
        let images = [image(40, 20), image(30, 30), image(90, 60)];
        let shape = Shape::of(&images.iter().collect::<Vec<_>>());
        assert_eq!((shape.shorter, shape.aspect), (30, 1.5));
    }
}
