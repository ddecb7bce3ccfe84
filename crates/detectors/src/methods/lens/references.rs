//! Evidence: a few normal images. A detector keeps their patch tokens and the means of these, so that
//! none is encoded again, and each can be taken out by its name.

use std::collections::BTreeMap;

use anomalens_backbones::{Grid, ImageFeatures, Precision};
use anomalens_vision::Map;
use candle_core::Tensor;

use super::foreground::Foreground;
use super::power_mean::PowerMean;
use super::residual::{self, Compared, Quarters};
use super::score_scale::Residuals;
use super::{NAME, Settings, Tensors, refuse};
use crate::components::coreset::coreset;
use crate::components::nearest::{UnitVectors, matrix};
use crate::components::residual::{among, map};
use crate::detector::{Array, NormalRange, Scored, State};
use crate::pipeline::is_flat;
use crate::settings::Checked;
use crate::{DetectorError, FitContext, Note, ReferenceImage};

/// Quantile of the references' residuals beyond which patches are drawn as anomalous.
const UPPER_QUANTILE: f64 = 0.995;

/// Patches in a memory bank at most, for each block.
const BANK: usize = 24_576;

/// Patches of the ground at most.
const GROUND: usize = 2048;

/// What the names of a reference's tensors start with, and what that of its means ends with.
const PREFIX: &str = "references/";
const MEANS: &str = "means";

/// Name of the tensor with rows and columns of the references' patches.
const GRID: &str = "grid";

/// One reference.
struct Kept {
    /// `[forms * patches, width]` of length 1 for each block, the upright form first.
    blocks: Vec<Tensor>,
    /// The means of the upright tokens, of length 1, one block after another.
    means: Vec<f32>,
}

impl Kept {
    /// From the features of all forms, the upright one first.
    fn new(forms: &[ImageFeatures], blocks: &[usize]) -> Result<Self, DetectorError> {
        let compared = forms
            .iter()
            .map(|form| Compared::of(form, blocks))
            .collect::<Result<Vec<_>, _>>()?;
        let joined = (0..blocks.len()).map(|block| {
            let forms: Vec<&Tensor> = compared.iter().map(|form| &form.patches[block]).collect();
            Tensor::cat(&forms, 0)
        });
        let upright = compared.first();
        Ok(Self {
            blocks: joined.collect::<candle_core::Result<_>>()?,
            means: upright.map_or_else(Vec::new, |upright| upright.means.clone()),
        })
    }
}

/// The references by name, and what follows from all of them.
pub(super) struct References {
    by_name: BTreeMap<String, Kept>,
    /// The patches of all, for each block.
    banks: Vec<UnitVectors>,
    /// What patches of one reference score against the others.
    range: NormalRange,
    /// What the references differ among themselves.
    unit: Residuals,
    /// The patches of each.
    grid: Grid,
    /// Where their object is, if they have a ground.
    foreground: Option<Foreground>,
    /// About those that were added last.
    notes: Vec<Note>,
}

impl Default for References {
    fn default() -> Self {
        Self {
            by_name: BTreeMap::new(),
            banks: vec![],
            range: NormalRange::default(),
            unit: Residuals::default(),
            grid: Grid {
                rows: 0,
                columns: 0,
            },
            foreground: None,
            notes: vec![],
        }
    }
}

impl References {
    /// Of references on `grid`.
    fn new(
        by_name: BTreeMap<String, Kept>,
        grid: Grid,
        settings: &Settings,
    ) -> Result<Self, DetectorError> {
        let forms = settings.forms();
        if by_name.is_empty() {
            return Ok(Self::default());
        }
        let all: Vec<&Kept> = by_name.values().collect();
        let blocks: Vec<&[Tensor]> = all.iter().map(|kept| kept.blocks.as_slice()).collect();
        let among = among(&blocks, forms)?;
        let foreground = match settings.foreground.given().unwrap_or(false) {
            true => {
                let last: Vec<&Tensor> = among.iter().filter_map(|a| a.upright.last()).collect();
                Some(Foreground::of(&last, grid)?)
            }
            false => None,
        };
        let (mut scores, mut residuals, mut uprights) = (vec![], vec![], vec![]);
        for (i, mut seen) in among.into_iter().enumerate() {
            weigh(&mut seen.map, foreground.as_ref(), &seen.upright, grid)?;
            let others = all.iter().enumerate().filter(|(j, _)| *j != i);
            let others = others.map(|(_, other)| other.means.as_slice());
            let own = residual::own(&seen.upright, grid)?;
            let count = seen.upright.len();
            let one = Residuals::new(&seen.map, own, &all[i].means, others, count);
            residuals.push(one);
            scores.extend(seen.map);
            uprights.push(seen.upright);
        }
        Ok(Self {
            banks: covers(&blocks, foreground.as_ref(), grid)?,
            range: NormalRange::of(scores, UPPER_QUANTILE),
            unit: Residuals::unit(&residuals, Quarters::of(&uprights, grid)?),
            grid,
            foreground,
            notes: vec![],
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
        let Checked { settings, profile } = checked;
        let mut kept = self.by_name;
        let mut grid = self.grid;
        for name in remove {
            if kept.remove(name).is_none() {
                let names: Vec<&str> = kept.keys().map(String::as_str).collect();
                return Err(refuse(format!(
                    "there is no reference `{name}`; the references are: {}",
                    names.join(", ")
                )));
            }
        }
        let mut notes = vec![];
        for ReferenceImage { name, image } in context.references {
            if is_flat(image) {
                notes.push(Note::FlatReference { name: name.clone() });
                continue;
            }
            let forms = settings.augmentation().of(image);
            let forms = context.encode(&profile.input, settings.tta, &forms)?;
            grid = forms.first().map_or(grid, |form| form.grid());
            let new = Kept::new(&forms, &settings.blocks)?;
            if kept.contains_key(name) {
                return Err(refuse(format!(
                    "there are two references called `{name}`: remove the one that is there, or \
                     rename the file"
                )));
            }
            match kept.iter().find(|(_, kept)| kept.means == new.means) {
                Some((of, _)) => notes.push(Note::CopiedReference {
                    name: name.clone(),
                    of: of.clone(),
                }),
                None => {
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
        Ok(Self {
            notes,
            ..Self::new(kept, grid, settings)?
        })
    }

    /// The result of one image.
    pub(super) fn score(
        &self,
        image: &ImageFeatures,
        checked: &Checked<Settings>,
        head: &PowerMean,
    ) -> Result<Scored, DetectorError> {
        let Checked { settings, profile } = checked;
        let settings = &settings.for_references(self.by_name.len());
        let Some(first) = self.banks.first() else {
            return Err(DetectorError::NoReferences(NAME));
        };
        let grid = profile.check(image, first.width())?;
        let compared = Compared::of(image, &settings.blocks)?;
        let mut map = map(&compared.patches, &self.banks)?;
        weigh(&mut map, self.foreground.as_ref(), &compared.patches, grid)?;
        let own = match settings.own_image {
            true => residual::own(&compared.patches, grid)?,
            false => 0.0,
        };
        let means = self.by_name.values().map(|kept| kept.means.as_slice());
        let blocks = settings.blocks.len();
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
            let tokens = blocks.iter().zip(&kept.blocks).filter_map(|(block, rows)| {
                let values = rows.flatten_all().and_then(|flat| flat.to_vec1()).ok()?;
                let shape = rows.dims().to_vec();
                Some((tokens_name(name, *block), Array { shape, values }))
            });
            let means = Array::vector(kept.means.clone());
            tokens.chain([(format!("{PREFIX}{name}/{MEANS}"), means)])
        });
        let Grid { rows, columns } = self.grid;
        let grid = Array::vector(vec![rows as f32, columns as f32]);
        references.chain([(GRID.to_owned(), grid)]).collect()
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
        let grid = tensors.remove(GRID).map(|array| array.values);
        let grid = match grid.as_deref() {
            Some(&[rows, columns]) => Grid {
                rows: rows as usize,
                columns: columns as usize,
            },
            _ => return Err(unusable(GRID)),
        };
        let mut shape_of_all: Option<Vec<usize>> = None;
        let mut references = BTreeMap::new();
        for name in names {
            let tokens = settings.blocks.iter().map(|block| {
                let kept = tokens_name(&name, *block);
                match tensors.remove(&kept) {
                    Some(Array { shape, values })
                        if shape.len() == 2
                            && !values.is_empty()
                            && Some(shape[0]) == grid.len().checked_mul(settings.forms())
                            && *shape_of_all.get_or_insert(shape.clone()) == shape =>
                    {
                        matrix(values, shape[1])
                    }
                    _ => Err(unusable(&kept)),
                }
            });
            let blocks = tokens.collect::<Result<Vec<_>, _>>()?;
            let width = shape_of_all.as_ref().map_or(0, |shape| shape[1]);
            let kept = format!("{PREFIX}{name}{suffix}");
            let means = tensors.remove(&kept).map(|array| array.values);
            let means = means.filter(|means| means.len() == width * blocks.len());
            let means = means.ok_or_else(|| unusable(&kept))?;
            references.insert(name, Kept { blocks, means });
        }
        Self::new(references, grid, settings)
    }
}

/// For each block a coreset of the patches of all references, most of it for the object where there
/// is a ground. `references`: for each block `[forms * patches, width]`, forms on `grid`.
fn covers(
    references: &[&[Tensor]],
    foreground: Option<&Foreground>,
    grid: Grid,
) -> Result<Vec<UnitVectors>, DetectorError> {
    let blocks = references.first().map_or(0, |reference| reference.len());
    let mut object: Vec<bool> = vec![];
    for last in references.iter().filter_map(|blocks| blocks.last()) {
        let rows = last.dim(0)?;
        for form in 0..rows / grid.len().max(1) {
            match foreground {
                Some(foreground) => {
                    let form = last
                        .narrow(0, form * grid.len(), grid.len())?
                        .contiguous()?;
                    let weights = foreground.weights(&form, grid)?;
                    object.extend(weights.into_iter().map(|weight| weight >= 1.0));
                }
                None => object.extend(std::iter::repeat_n(true, grid.len())),
            }
        }
    }
    let one = |block: usize| {
        let parts: Vec<&Tensor> = references.iter().map(|blocks| &blocks[block]).collect();
        let all = Tensor::cat(&parts, 0)?;
        let width = all.dim(1)?;
        let rows: Vec<f32> = all.flatten_all()?.to_vec1()?;
        let mut kept = vec![];
        for (wanted, most) in [(true, BANK), (false, GROUND)] {
            let rows = rows.chunks_exact(width.max(1)).zip(&object);
            let rows = rows.filter(|(_, object)| **object == wanted);
            let rows: Vec<f32> = rows.flat_map(|(row, _)| row).copied().collect();
            for row in coreset(&rows, width, most)? {
                kept.extend_from_slice(&rows[row * width..][..width]);
            }
        }
        UnitVectors::new(kept, width, Precision::Half)
    };
    (0..blocks).map(one).collect()
}

/// Makes the residuals `map` of `patches` on `grid` count less where they show the ground.
fn weigh(
    map: &mut [f32],
    foreground: Option<&Foreground>,
    patches: &[Tensor],
    grid: Grid,
) -> Result<(), DetectorError> {
    if let (Some(foreground), Some(last)) = (foreground, patches.last()) {
        let weights = foreground.weights(last, grid)?;
        map.iter_mut()
            .zip(weights)
            .for_each(|(residual, weight)| *residual *= weight);
    }
    Ok(())
}

fn tokens_name(reference: &str, block: usize) -> String {
    format!("{PREFIX}{reference}/block{block}")
}
