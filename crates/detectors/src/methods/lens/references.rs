//! Evidence: normal images. A detector keeps their patch tokens, or of many or large ones those that
//! cover the others, so that none is encoded again and each can be taken out by its name.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use anomalens_backbones::{Grid, ImageFeatures};
use anomalens_vision::{Image, Map};
use candle_core::{DType, Device, Tensor};

use super::choices::looked_at;
use super::foreground::Foreground;
use super::power_mean::PowerMean;
use super::residual::{self, Compared, QUARTERS, QuarterMeans, Quarters, quarters};
use super::score_scale::Residuals;
use super::{NAME, Settings, Tensors, refuse};
use crate::components::by_name;
use crate::components::coreset::coreset;
use crate::components::nearest::{UnitVectors, matrix, with_values};
use crate::components::residual::{Among, among, banks, map};
use crate::detector::{Array, NormalRange, Scored, State};
use crate::pipeline::is_flat;
use crate::settings::Checked;
use crate::{DetectorError, FitContext, Note, ReferenceAugmentation, Tta};

/// Quantile of the references' residuals beyond which patches are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// Patches of all references together that are kept, for each block.
const BANK: usize = 24_576;

/// Patches of a reference that are kept however many references there are.
const LEAST: usize = 32;

/// From so many references on each is kept upright alone: they show every direction themselves.
const MANY: usize = 256;

/// Bytes that a number of a patch takes in memory: as it is kept, and as it is searched.
const BYTES: usize = 10;

/// One of so many patches that are kept shows the ground, where there is one.
const GROUND: usize = 8;

/// References that are measured against the others, at most.
const MEASURED: usize = 64;

/// What the names of a reference's tensors start with, and what those of its numbers end with.
const PREFIX: &str = "references/";
const MEANS: &str = "means";
const QUARTER_MEANS: &str = "quarters";
const NUMBERS: &str = "numbers";

/// Name of the tensor that tells the object from its ground.
const FOREGROUND: &str = "foreground";

/// One reference.
struct Kept {
    /// Patches of all its forms, `[rows, width]` of length 1 for each block, the upright form first.
    blocks: Vec<Tensor>,
    /// What each patch of the upright form counts.
    weights: Vec<f32>,
    /// The means of the upright tokens, of length 1, one block after another.
    means: Vec<f32>,
    /// The means of its quarters.
    quarters: QuarterMeans,
    /// Its residual against itself.
    own: f32,
}

impl Kept {
    /// From all forms, the upright one first, each on `grid`: all of their patches, or `most` that
    /// cover the others, half of them upright.
    fn new(
        forms: &[Compared],
        grid: Grid,
        foreground: Option<&Foreground>,
        most: usize,
    ) -> Result<Self, DetectorError> {
        let upright = &forms[0];
        let joined = (0..upright.patches.len()).map(|block| {
            let blocks: Vec<&Tensor> = forms.iter().map(|form| &form.patches[block]).collect();
            Tensor::cat(&blocks, 0)
        });
        let mut blocks = joined.collect::<candle_core::Result<Vec<Tensor>>>()?;
        let weights = forms.iter().map(|form| weights(foreground, form, grid));
        let mut weights = weights.collect::<Result<Vec<_>, _>>()?.concat();
        let mut patches = grid.len();
        if weights.len() > most {
            let of_upright = match forms {
                [_] => most,
                _ => (most / 2).min(patches),
            };
            let mut kept = vec![];
            for (range, most) in [
                (0..patches, of_upright),
                (patches..weights.len(), most - of_upright),
            ] {
                let ground = foreground.map_or(0, |_| most / GROUND);
                let (object, rest): (Vec<usize>, Vec<usize>) =
                    range.partition(|&row| weights[row] >= 1.0);
                for (rows, most) in [(object, most - ground), (rest, ground)] {
                    kept.extend(cover(&blocks, &rows, most)?);
                }
                patches = patches.min(kept.len());
            }
            weights = kept.iter().map(|&row| weights[row as usize]).collect();
            let kept = Tensor::new(kept, &Device::Cpu)?;
            for block in &mut blocks {
                // In 16 bits, as a file keeps them.
                let half = block.index_select(&kept, 0)?.to_dtype(DType::F16)?;
                *block = half.to_dtype(DType::F32)?;
            }
        }
        weights.truncate(patches);
        Ok(Self {
            blocks,
            weights,
            means: upright.means.clone(),
            quarters: quarters(&upright.patches, grid)?,
            own: residual::own(&upright.patches, grid)?,
        })
    }
}

/// What each patch of an image on `grid` counts.
fn weights(
    foreground: Option<&Foreground>,
    image: &Compared,
    grid: Grid,
) -> Result<Vec<f32>, DetectorError> {
    match (foreground, image.patches.last()) {
        (Some(foreground), Some(last)) => foreground.weights(last, grid),
        _ => Ok(vec![1.0; grid.len()]),
    }
}

/// At most `most` of `rows` whose patches of the last of `blocks` cover those of the others.
fn cover(blocks: &[Tensor], rows: &[usize], most: usize) -> Result<Vec<u32>, DetectorError> {
    let Some(last) = blocks.last() else {
        return Ok(vec![]);
    };
    let width = last.dim(1)?;
    let patches: Vec<f32> = with_values(last, |values| {
        let rows = rows.iter().flat_map(|row| &values[row * width..][..width]);
        rows.copied().collect()
    })?;
    let taken = coreset(&patches, width, most)?;
    Ok(taken.into_iter().map(|taken| rows[taken] as u32).collect())
}

/// The references by name, and what follows from all of them.
#[derive(Default)]
pub(super) struct References {
    by_name: BTreeMap<String, Kept>,
    /// The patches of all, for each block.
    banks: Vec<UnitVectors>,
    /// What patches of one reference score against the others.
    range: NormalRange,
    /// What the references differ among themselves.
    unit: Residuals,
    /// Where their object is, if they have a ground.
    foreground: Option<Foreground>,
    /// About those that were added last.
    notes: Vec<Note>,
}

impl References {
    fn new(
        by_name: BTreeMap<String, Kept>,
        foreground: Option<Foreground>,
        settings: &Settings,
    ) -> Result<Self, DetectorError> {
        if by_name.is_empty() {
            return Ok(Self::default());
        }
        let all: Vec<&Kept> = by_name.values().collect();
        let patches: Vec<(&[Tensor], usize)> = all
            .iter()
            .map(|kept| (kept.blocks.as_slice(), kept.weights.len()))
            .collect();
        let (mut scores, mut residuals, mut quarters) = (vec![], vec![], vec![]);
        let mut names = vec![];
        for Among { index, mut map } in among(&patches, MEASURED)? {
            let kept = all[index];
            names.extend(by_name.keys().nth(index).cloned());
            weigh(&mut map, &kept.weights);
            let others = all.iter().enumerate().filter(|(j, _)| *j != index);
            let others = others.map(|(_, other)| other.means.as_slice());
            let count = kept.blocks.len();
            let one = Residuals::new(&map, kept.own, &kept.means, others, count);
            residuals.push(one);
            scores.extend(map);
            quarters.push(&kept.quarters);
        }
        let odd = Residuals::odd(&residuals).into_iter();
        let notes = odd.map(|(index, times)| Note::OddReference {
            name: names[index].clone(),
            tenths: (10.0 * times).round() as u32,
        });
        let notes = notes.collect();
        let mut unit = Residuals::unit(&residuals, Quarters::of(&quarters));
        if settings.lie_in_any_direction(all.len()) {
            // A thing that lies otherwise has another mean token.
            unit.image_level = 0.0;
        }
        let blocks: Vec<&[Tensor]> = patches.iter().map(|(blocks, _)| *blocks).collect();
        Ok(Self {
            banks: banks(&blocks)?,
            range: NormalRange::of(scores, UPPER_QUANTILE),
            unit,
            foreground,
            notes,
            by_name,
        })
    }

    /// These and the references of `context`, without those named in `remove`. Copies of one image
    /// count once, since they would seem not to differ at all; images of one colour are left out.
    pub(super) fn with(
        self,
        context: &FitContext<'_>,
        remove: &[String],
        checked: &Checked<Settings>,
    ) -> Result<Self, DetectorError> {
        let settings = &checked.settings;
        let mut kept = self.by_name;
        by_name::remove(NAME, &mut kept, remove)?;
        let foreground = match (self.foreground, settings.foreground.given()) {
            (None, Some(true)) => ground(context, checked)?,
            (known, _) => known,
        };
        let total = (kept.len() + context.references.len()).max(1);
        let most = most_of_each(total, context, settings)?;
        let mut notes = vec![];
        for reference in context.references {
            let (name, image) = (&reference.name, &*reference.open()?);
            if is_flat(image) {
                notes.push(Note::FlatReference { name: name.clone() });
                continue;
            }
            by_name::check_new(NAME, &kept, name)?;
            let forms = match total >= MANY {
                true => ReferenceAugmentation::Upright.of(image),
                false => settings.augmentation().of(image),
            };
            let (forms, grid) = compared(context, checked, settings.tta, &forms)?;
            match kept.iter().find(|(_, kept)| kept.means == forms[0].means) {
                Some((of, _)) => notes.push(Note::CopiedReference {
                    name: name.clone(),
                    of: of.clone(),
                }),
                None => {
                    let new = Kept::new(&forms, grid, foreground.as_ref(), most)?;
                    kept.insert(name.clone(), new);
                }
            }
        }
        match (kept.is_empty(), notes.first()) {
            (false, _) => {}
            (true, None) => return Err(DetectorError::NoReferences(NAME)),
            (true, Some(_)) => {
                return Err(refuse(
                    "every normal image is of one colour, as with a closed shutter",
                ));
            }
        }
        let mut all = Self::new(kept, foreground, settings)?;
        notes.append(&mut all.notes);
        Ok(Self { notes, ..all })
    }

    /// The result of one image.
    pub(super) fn score(
        &self,
        image: &ImageFeatures,
        checked: &Checked<Settings>,
        head: &PowerMean,
    ) -> Result<Scored, DetectorError> {
        let Checked { settings, profile } = checked;
        let Some(first) = self.banks.first() else {
            return Err(DetectorError::NoReferences(NAME));
        };
        let grid = profile.check(image, first.width())?;
        let compared = Compared::of(image, settings.compared())?;
        let mut map = map(&compared.patches, &self.banks)?;
        weigh(
            &mut map,
            &weights(self.foreground.as_ref(), &compared, grid)?,
        );
        let own = match settings.own_image {
            true => residual::own(&compared.patches, grid)?,
            false => 0.0,
        };
        let means = self.by_name.values().map(|kept| kept.means.as_slice());
        let blocks = settings.compared().len();
        let residuals = Residuals::new(&map, own, &compared.means, means, blocks);
        let score = head.score(residuals.ratios(self.unit), settings)?;
        let unit = self.unit.patches;
        map.iter_mut().for_each(|residual| *residual /= unit);
        Ok(Scored {
            score,
            map: Map::new(grid.rows, grid.columns, map)?,
            range: self.range.scaled_by(unit),
        })
    }

    /// The patches of all, for each block.
    pub(super) fn banks(&self) -> &[UnitVectors] {
        &self.banks
    }

    /// The means of all after one of the blocks, `[references, width]`.
    pub(super) fn means(&self, block: usize, width: usize) -> Vec<f32> {
        let means = self.by_name.values().map(|kept| &kept.means);
        let of_block = means.filter_map(|means| means.chunks(width.max(1)).nth(block));
        of_block.flatten().copied().collect()
    }

    /// What the references differ among themselves.
    pub(super) fn unit(&self) -> Residuals {
        self.unit
    }

    /// Where their object is, if they have a ground.
    pub(super) fn foreground(&self) -> Option<&Foreground> {
        self.foreground.as_ref()
    }

    /// With `first` before what is to be known about the references.
    pub(super) fn with_notes(mut self, first: Vec<Note>) -> Self {
        self.notes.splice(0..0, first);
        self
    }

    /// About the references that were added last.
    pub(super) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The names of the references.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The tensors for a detector file.
    pub(super) fn arrays(&self, blocks: &[usize]) -> Vec<(String, Array)> {
        let references = self.by_name.iter().flat_map(|(name, kept)| {
            let tokens = blocks.iter().zip(&kept.blocks);
            let tokens = tokens
                .filter_map(|(block, rows)| Some((tokens_name(name, *block), Array::of(rows)?)));
            let numbers = [&[kept.own], kept.weights.as_slice()].concat();
            let quarters: Vec<f32> = kept.quarters.iter().flatten().flatten().copied().collect();
            let vectors = [
                (MEANS, kept.means.clone()),
                (QUARTER_MEANS, quarters),
                (NUMBERS, numbers),
            ];
            let vectors =
                vectors.map(|(part, values)| (part_name(name, part), Array::vector(values)));
            tokens.chain(vectors)
        });
        let foreground = self.foreground.iter();
        let foreground = foreground.map(|found| (FOREGROUND.to_owned(), found.array()));
        references.chain(foreground).collect()
    }

    /// The references among the tensors of a detector file.
    pub(super) fn load(state: &mut State, settings: &Settings) -> Result<Self, DetectorError> {
        let tensors: &mut Tensors = &mut state.tensors;
        let suffix = format!("/{MEANS}");
        let names: Vec<String> = tensors
            .keys()
            .filter_map(|name| name.strip_prefix(PREFIX)?.strip_suffix(&suffix))
            .map(str::to_owned)
            .collect();
        let unusable = |name: &str| DetectorError::tensor(NAME, name);
        let mut width_of_all: Option<usize> = None;
        let mut references = BTreeMap::new();
        for name in names {
            let mut rows_of_all: Option<usize> = None;
            let tokens = settings.compared().iter().map(|block| {
                let kept = tokens_name(&name, *block);
                match tensors.remove(&kept) {
                    Some(Array { shape, values })
                        if shape.len() == 2
                            && !values.is_empty()
                            && *rows_of_all.get_or_insert(shape[0]) == shape[0]
                            && *width_of_all.get_or_insert(shape[1]) == shape[1] =>
                    {
                        matrix(values, shape[1])
                    }
                    _ => Err(unusable(&kept)),
                }
            });
            let blocks = tokens.collect::<Result<Vec<_>, _>>()?;
            let (rows, width) = (rows_of_all.unwrap_or(0), width_of_all.unwrap_or(0));
            let mut vector = |part: &str, lengths: RangeInclusive<usize>| {
                let part = part_name(&name, part);
                let values = tensors.remove(&part).map(|array| array.values);
                let values = values.filter(|values| lengths.contains(&values.len()));
                values.ok_or_else(|| unusable(&part))
            };
            let length = width * blocks.len();
            let means = vector(MEANS, length..=length)?;
            let quarters = vector(QUARTER_MEANS, QUARTERS * length..=QUARTERS * length)?;
            let mut numbers = vector(NUMBERS, 2..=rows + 1)?;
            let own = numbers.remove(0);
            let quarter = |block: &[f32], i: usize| block[i * width..][..width].to_vec();
            let quarters = quarters.chunks_exact((QUARTERS * width).max(1));
            let quarters = quarters.map(|block| std::array::from_fn(|i| quarter(block, i)));
            let kept = Kept {
                blocks,
                weights: numbers,
                means,
                quarters: quarters.collect(),
                own,
            };
            references.insert(name, kept);
        }
        let foreground = match settings.foreground.given() {
            Some(true) => {
                let found = tensors.remove(FOREGROUND);
                let found = found
                    .and_then(|array| Foreground::from_array(array, width_of_all.unwrap_or(0)));
                Some(found.ok_or_else(|| unusable(FOREGROUND))?)
            }
            _ => None,
        };
        Self::new(references, foreground, settings)
    }
}

/// Patches that are kept of each of so many references.
fn most_of_each(
    references: usize,
    context: &FitContext<'_>,
    settings: &Settings,
) -> Result<usize, DetectorError> {
    let Some(megabytes) = settings.max_memory else {
        return Ok((BANK / references).max(LEAST));
    };
    let mut bytes = 0;
    for layer in settings.layers()? {
        bytes += BYTES * context.encoder.spec().layer(layer)?.dim;
    }
    let most = (megabytes as usize * (1 << 20)) / bytes.max(1) / references;
    if most < LEAST {
        let needed = (LEAST * references * bytes).div_ceil(1 << 20);
        return Err(refuse(format!(
            "{references} normal images need {needed} MB, {LEAST} patches of each; `max_memory` is \
             {megabytes}"
        )));
    }
    Ok(most)
}

/// Where the references show an object on a ground, at the size that is worked on.
fn ground(
    context: &FitContext<'_>,
    checked: &Checked<Settings>,
) -> Result<Option<Foreground>, DetectorError> {
    let images = looked_at(context)?;
    if images.is_empty() {
        return Ok(None);
    }
    let (compared, grid) = compared(
        context,
        checked,
        Tta::default(),
        images.iter().map(|image| &**image),
    )?;
    let last: Vec<&Tensor> = compared.iter().filter_map(|i| i.patches.last()).collect();
    Ok(Some(Foreground::of(&last, grid)?.0))
}

/// Some images as they are compared, and the grid of their patches.
fn compared<'a>(
    context: &FitContext<'_>,
    Checked { settings, profile }: &Checked<Settings>,
    tta: Tta,
    images: impl IntoIterator<Item = &'a Image>,
) -> Result<(Vec<Compared>, Grid), DetectorError> {
    let features = context.encode(&profile.input, tta, images)?;
    let grid = features.first().map(ImageFeatures::grid);
    let compared = features
        .iter()
        .map(|f| Compared::of(f, settings.compared()));
    let nowhere = Grid {
        rows: 0,
        columns: 0,
    };
    Ok((compared.collect::<Result<_, _>>()?, grid.unwrap_or(nowhere)))
}

/// Makes residuals count by their weights.
fn weigh(map: &mut [f32], weights: &[f32]) {
    let both = map.iter_mut().zip(weights);
    both.for_each(|(residual, weight)| *residual *= weight);
}

fn part_name(reference: &str, part: &str) -> String {
    format!("{PREFIX}{reference}/{part}")
}

fn tokens_name(reference: &str, block: usize) -> String {
    part_name(reference, &format!("block{block}"))
}
