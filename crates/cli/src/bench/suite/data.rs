//! The data sets of a suite: which are here, and what is reported of the others.

use std::path::Path;

use anomalens::backbones::weights::{Kind, Registry, Store};
use anomalens::benchmark::{Absent, locate, usual_names};
use anomalens::datasets::{DataRef, layout};
use anyhow::{Result, bail};

use super::Args;

/// The data sets of a suite.
#[derive(Default)]
pub(super) struct DataSets {
    /// Those that are here, and what they are called.
    pub(super) found: Vec<(String, DataRef)>,
    /// Those that are only learned from.
    pub(super) auxiliary: Vec<(String, DataRef)>,
    /// Sentences on those that are not.
    pub(super) missing: Vec<String>,
}

impl DataSets {
    /// Those that are given by themselves, below the root, and among the packages that were pulled.
    pub(super) fn find(args: &Args, train_on: &[String]) -> Result<Self> {
        let mut given: Vec<(String, DataRef)> = vec![];
        for reference in &args.data {
            let data = reference.locate()?;
            let name = match data.layout.about {
                Some(_) => data.layout.name.to_owned(),
                None => reference.to_string(),
            };
            if given.iter().any(|(known, _)| *known == name) {
                bail!("`{name}` is given twice with --data");
            }
            given.push((name, data));
        }
        let mut sets = Self::default();
        let mut take = |name: &str| {
            let by_itself = given.iter().position(|(known, _)| known == name);
            match by_itself.map(|i| given.remove(i).1) {
                Some(data) => Ok(data),
                None => below_root(args, name).or_else(|reason| installed(name).ok_or(reason)),
            }
        };
        let suite = args.suite;
        for &name in suite.data {
            match take(name) {
                Ok(data) => sets.found.push((name.to_owned(), data)),
                Err(reason) => sets.missing.push(absent(name, &reason)),
            }
        }
        // Those who teach in the suite are not measured on unless they belong to it.
        let others = suite.train_on.into_iter().chain(suite.tuning);
        for name in others.filter(|name| !suite.data.contains(name)) {
            let is_wanted =
                train_on.iter().any(|train_on| train_on == name) || suite.tuning == Some(name);
            match take(name) {
                Ok(data) => sets.auxiliary.push((name.to_owned(), data)),
                // The second is for measuring on the first.
                Err(reason) if is_wanted && Some(name) != suite.train_on.last().copied() => {
                    sets.missing.push(absent(name, &reason));
                }
                Err(_) => {}
            }
        }
        sets.found.extend(given);
        Ok(sets)
    }
}

/// The data set `name` below the root, or why it is not there.
fn below_root(args: &Args, name: &str) -> Result<DataRef, String> {
    match &args.root {
        Some(root) => below(root, name),
        None => Err(format!("neither --root nor --data {name}:PATH is given")),
    }
}

/// The same below `root`.
pub(in crate::bench) fn below(root: &Path, name: &str) -> Result<DataRef, String> {
    locate(root, name).map_err(|absent| match absent {
        Absent::Unfit(reason) => reason,
        Absent::NotFound => {
            let names: Vec<&str> = usual_names(name).collect();
            let root = root.display();
            format!("there is no folder {} in {root}", names.join(" or "))
        }
    })
}

/// The data set `name` among the packages that were pulled; a damaged one does not count.
fn installed(name: &str) -> Option<DataRef> {
    let entry = Registry::builtin().find(name).ok()?;
    let located = Store::from_env().ok()?.locate(entry).ok()??;
    let layout = layout(name).ok()?;
    (entry.kind == Kind::Data).then(|| DataRef::new(layout, located.path))
}

/// That a data set is missing, why, and whose it is.
pub(in crate::bench) fn absent(name: &str, reason: &str) -> String {
    let about = layout(name).ok().and_then(|layout| layout.about.as_ref());
    let owners = about.map_or_else(String::new, |about| {
        format!("; get {} from {}", about.title, about.obtain)
    });
    format!("missing: {name}: {reason}{owners}")
}

/// Who teaches, and who teaches for measuring on the first.
pub(super) fn train_on(args: &Args) -> Result<[String; 2]> {
    match args.train_on.as_slice() {
        [] => Ok(args.suite.train_on.map(str::to_owned)),
        [first] => Ok([first.clone(), String::new()]),
        [first, second] if first != second => Ok([first.clone(), second.clone()]),
        _ => bail!("name one or two different data sets with --train-on"),
    }
}
