//! The networks and sizes that see each image, and their results joined to one.
//!
//! A detector has one look at least. The others were chosen as everything else is (docs/research/lens.md):
//! a second network sees large pictures of an object, where small details count.

use anomalens_vision::{Alignment, Map};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::choices::PIECE;
use super::look::Look;
use super::settings::Settings;
use super::{Evidence, NAME, refuse};
use crate::detector::{NormalRange, Scored, State};
use crate::{Choice, DetectorError, FitContext, MethodSettings, Note, Settings as _};

/// The setting that holds further looks in a detector file.
const FURTHER: &str = "further";

/// Settings that are those of one network.
const OF_A_NETWORK: [&str; 4] = ["blocks", "stages", "normalisation", "input_size"];

/// A further look in a detector file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Further {
    network: usize,
    settings: MethodSettings,
}

/// All looks of a new detector, and what the user should know.
pub(super) fn fit(context: &FitContext<'_>) -> Result<(Vec<Look>, Vec<Note>), DetectorError> {
    let first = Look::fit(context, 0, context.settings)?;
    let mut notes = first.notes().to_vec();
    let count = networks(context, &first.checked.settings)?;
    let companions = context.encoder.companions();
    if let (Choice::Auto, [_, ..]) = (first.checked.settings.networks, companions) {
        let reason = match count {
            1 => "the first network alone sees surfaces and small pictures best",
            _ => "in large pictures of an object several networks see more than one",
        };
        notes.push(Note::Chosen {
            setting: "networks".to_owned(),
            value: count.to_string(),
            reason: reason.to_owned(),
        });
    }
    let mut plan: Vec<(usize, bool)> = (0..count).map(|network| (network, false)).collect();
    if overview(&first.checked.settings)? {
        plan.extend((0..count).map(|network| (network, true)));
    }
    let mut given = context.settings.clone();
    if let Some(all) = given.get("max_memory").and_then(Value::as_u64) {
        given.insert("max_memory".to_owned(), (all / plan.len() as u64).into());
    }
    let first = match given == *context.settings {
        true => first,
        false => Look::fit(context, 0, &given)?, // with its part of the memory
    };
    let mut looks = vec![first];
    for &(network, is_overview) in &plan[1..] {
        let mut settings = given.clone();
        let mut name = context.encoder.network(network)?.spec().name.clone();
        if network > 0 {
            settings.retain(|name, _| !OF_A_NETWORK.contains(&name.as_str()));
        }
        if is_overview {
            settings.remove("input_size");
            settings.insert("image_size".to_owned(), PIECE.into());
            settings.insert("tiles".to_owned(), 0.into());
            name += ", overview";
        }
        let look = Look::fit(context, network, &settings)?;
        notes.extend(look.notes().iter().filter_map(|note| of_look(&name, note)));
        looks.push(look);
    }
    Ok((looks, notes))
}

/// Whether images that are seen in tiles are seen whole too.
fn overview(first: &Settings) -> Result<bool, DetectorError> {
    let tiled = first.tiles.given().is_some_and(|side| side > 0);
    match first.overview {
        Choice::Given(true) if !tiled => Err(refuse(
            "`overview` is for images that are seen in tiles, and these are seen whole",
        )),
        Choice::Given(wanted) => Ok(wanted),
        Choice::Auto => Ok(false),
    }
}
/// How many of the networks see each image.
fn networks(context: &FitContext<'_>, first: &Settings) -> Result<usize, DetectorError> {
    let there = context.encoder.companions().len() + 1;
    match first.networks {
        Choice::Given(wanted) if !(1..=there).contains(&wanted) => Err(refuse(format!(
            "`networks` is {wanted}, and there are {there}: name more with --weights"
        ))),
        Choice::Given(wanted) => Ok(wanted),
        Choice::Auto
            if first.evidence == Evidence::References
                && first.is_large()
                && first.foreground == Choice::Given(true) =>
        {
            Ok(there)
        }
        Choice::Auto => Ok(1),
    }
}

/// What a further look chose for itself.
fn of_look(name: &str, note: &Note) -> Option<Note> {
    let Note::Chosen {
        setting,
        value,
        reason,
    } = note
    else {
        return None; // Of the images, which the first look noted.
    };
    Some(Note::Chosen {
        setting: format!("{name}: {setting}"),
        value: value.clone(),
        reason: reason.clone(),
    })
}

/// The results of each image as all looks see it, joined: the mean score, and the mean map on the finest
/// grid. All are in the same units.
pub(super) fn join(looks: Vec<Vec<Scored>>) -> Result<Vec<Scored>, DetectorError> {
    let images = looks.first().map_or(0, Vec::len);
    let mut of_images: Vec<Vec<Scored>> = (0..images).map(|_| vec![]).collect();
    for look in looks {
        let pairs = of_images.iter_mut().zip(look);
        pairs.for_each(|(image, scored)| image.push(scored));
    }
    of_images.into_iter().map(of_image).collect()
}

fn of_image(mut seen: Vec<Scored>) -> Result<Scored, DetectorError> {
    if seen.len() == 1 {
        return Ok(seen.remove(0));
    }
    let part = 1.0 / seen.len() as f32;
    let mean = |value: fn(&Scored) -> f32| seen.iter().map(value).sum::<f32>() * part;
    let rows = seen.iter().map(|one| one.map.rows()).max().unwrap_or(0);
    let columns = seen.iter().map(|one| one.map.columns()).max();
    let columns = columns.unwrap_or(0);
    let mut sums = vec![0.0; rows * columns];
    for one in &seen {
        let large = one.map.resize(rows, columns, Alignment::Edges)?;
        let values = sums.iter_mut().zip(large.values());
        values.for_each(|(sum, value)| *sum += part * value);
    }
    Ok(Scored {
        score: mean(|one| one.score),
        map: Map::new(rows, columns, sums)?,
        range: NormalRange {
            median: mean(|one| one.range.median),
            upper_quantile: mean(|one| one.range.upper_quantile),
        },
    })
}

/// What a file keeps of `looks`: the first as that of a detector with one, the others beside it.
pub(super) fn state(looks: &[Look]) -> State {
    let mut states = looks.iter().map(|look| look.checked.state(look.arrays()));
    let mut all = states.next().unwrap_or(State {
        config: Value::Null,
        tensors: Default::default(),
    });
    let mut further = vec![];
    for (number, (look, state)) in (2..).zip(looks[1..].iter().zip(states)) {
        further.push(Further {
            network: look.network,
            settings: look.checked.settings.to_json(),
        });
        let tensors = state.tensors.into_iter();
        let tensors = tensors.map(|(name, array)| (prefix(number) + &name, array));
        all.tensors.extend(tensors);
    }
    if let (Value::Object(config), [_, ..]) = (&mut all.config, further.as_slice()) {
        config.insert(
            FURTHER.to_owned(),
            serde_json::to_value(further).unwrap_or_default(),
        );
    }
    all
}

/// The looks that a file keeps.
pub(super) fn load(mut state: State) -> Result<Vec<Look>, DetectorError> {
    let further = match &mut state.config {
        Value::Object(config) => config.remove(FURTHER),
        _ => None,
    };
    let further: Vec<Further> = match further {
        Some(further) => {
            serde_json::from_value(further).map_err(|error| DetectorError::settings(NAME, error))?
        }
        None => vec![],
    };
    let mut looks = vec![];
    for (number, Further { network, settings }) in (2..).zip(further) {
        let prefix = prefix(number);
        let names: Vec<String> = state.tensors.keys().cloned().collect();
        let names = names.iter().filter_map(|name| name.strip_prefix(&prefix));
        let mut tensors = super::Tensors::new();
        for name in names {
            let array = state.take(NAME, &(prefix.clone() + name))?;
            tensors.insert(name.to_owned(), array);
        }
        let config = Value::Object(settings);
        looks.push(Look::load(State { config, tensors }, network)?);
    }
    looks.insert(0, Look::load(state, 0)?);
    Ok(looks)
}

fn prefix(look: usize) -> String {
    format!("look{look}/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_joined_on_the_finest_grid() {
        let scored = |score, rows, columns, values: &[f32]| Scored {
            score,
            map: Map::new(rows, columns, values.to_vec()).unwrap(),
            range: NormalRange {
                median: score,
                upper_quantile: 2.0 * score,
            },
        };
        let joined = join(vec![
            vec![scored(1.0, 1, 2, &[1.0, 3.0])],
            vec![scored(2.0, 2, 1, &[5.0, 7.0])],
        ]);
        let joined = joined.unwrap().remove(0);
        assert_eq!(joined.score, 1.5);
        assert_eq!((joined.map.rows(), joined.map.columns()), (2, 2));
        assert_eq!(joined.map.values(), [3.0, 4.0, 4.0, 5.0]);
        assert_eq!(
            (joined.range.median, joined.range.upper_quantile),
            (1.5, 3.0)
        );
    }
}
