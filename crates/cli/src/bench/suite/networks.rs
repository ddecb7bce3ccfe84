//! Which network each method of a suite sees images with, and what it has learned before.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anomalens::backbones::{Backbone, FeatureCache};
use anomalens::benchmark::{Entry, Network, Suite};
use anomalens::detectors::{BackboneRef, DetectorFile, Method, default_weights};
use anyhow::{Result, bail};

use super::Args;
use super::features::encoder;
use crate::backbone;

/// The networks of a run; each is opened once.
pub(super) struct Networks<'a> {
    suite: &'static Suite,
    args: &'a backbone::Args,
    cache: Option<&'a Arc<FeatureCache>>,
    /// The weights that are named for one method.
    own: HashMap<&'static str, Vec<String>>,
    /// Those that are named for all.
    common: Vec<String>,
    opened: HashMap<Vec<String>, Network>,
}

impl<'a> Networks<'a> {
    pub(super) fn new(
        args: &'a Args,
        methods: &[&'static dyn Method],
        cache: Option<&'a Arc<FeatureCache>>,
    ) -> Result<Self> {
        let mut own: HashMap<&str, Vec<String>> = HashMap::new();
        let mut common = vec![];
        for given in args.backbone.named() {
            match owner(given, methods) {
                Some((method, weights)) => {
                    let of = own.entry(method.info().name).or_default();
                    of.push(weights.to_owned());
                }
                None => common.push(given.clone()),
            }
        }
        Ok(Self {
            suite: args.suite,
            args: &args.backbone,
            cache,
            own,
            common,
            opened: HashMap::new(),
        })
    }

    /// The network of `method`: the one named for it or for all, that of what it has learned, that which the
    /// suite has for it, or its own default.
    pub(super) fn open(
        &mut self,
        method: &'static dyn Method,
        trained: Option<&Path>,
    ) -> Result<Network> {
        let info = method.info();
        let named = match self.own.get(info.name) {
            Some(own) => own,
            None => &self.common,
        };
        // What is wrong with the file is reported where it is used.
        let file = trained.map(DetectorFile::load).and_then(Result::ok);
        if let Some(file) = file {
            let backbone = self.args.with(named.clone()).open_for(&file)?;
            return network(&backbone, self.cache);
        }
        let named = match (named.as_slice(), self.suite.weights(info.name)) {
            ([], Some(of_suite)) => vec![of_suite.to_owned()],
            (named, _) => named.to_vec(),
        };
        let key = match named.as_slice() {
            [] => {
                let names = default_weights([info]).into_iter();
                names.map(str::to_owned).collect()
            }
            named => named.to_vec(),
        };
        if let Some(opened) = self.opened.get(&key) {
            return Ok(opened.clone());
        }
        let backbone = self.args.with(named).open_for_methods([method])?;
        let opened = network(&backbone, self.cache)?;
        self.opened.insert(key, opened.clone());
        Ok(opened)
    }
}

fn network(backbone: &Backbone, cache: Option<&Arc<FeatureCache>>) -> Result<Network> {
    Ok(Network {
        encoder: encoder(backbone, cache)?,
        backbone: BackboneRef::of(backbone),
        identity: backbone::identity(backbone),
    })
}

/// The method of `METHOD=REST`, if it takes part, and the rest.
fn owner<'g>(
    given: &'g str,
    methods: &[&'static dyn Method],
) -> Option<(&'static dyn Method, &'g str)> {
    let (name, rest) = given.split_once('=')?;
    let mut methods = methods.iter();
    let found = methods.find(|method| method.info().name == name)?;
    Some((*found, rest))
}

/// For each of `methods` the one of `files` that it has learned: `METHOD=FILE`, or `FILE` where only one of
/// them learns.
pub(super) fn by_method(
    files: &[PathBuf],
    methods: &[&'static dyn Method],
) -> Result<Vec<Option<PathBuf>>> {
    let learners = methods.iter().filter(|method| method.trainer().is_some());
    let learners: Vec<&str> = learners.map(|method| method.info().name).collect();
    let mut found: Vec<Option<PathBuf>> = vec![None; methods.len()];
    for file in files {
        let named = file.to_str().and_then(|given| owner(given, methods));
        let (name, file) = match (named, learners.as_slice()) {
            (Some((method, file)), _) => (method.info().name, PathBuf::from(file)),
            (None, [one]) => (*one, file.clone()),
            (None, []) => bail!("none of the methods has anything trained: --trained is not used"),
            (None, [first, ..]) => bail!(
                "{} can be trained: name the one that the file is of, such as --trained {first}={}",
                learners.join(", "),
                file.display()
            ),
        };
        if !learners.contains(&name) {
            bail!("{name} learns nothing: --trained is not for it");
        }
        for (method, place) in methods.iter().zip(&mut found) {
            if method.info().name == name && place.replace(file.clone()).is_some() {
                bail!("--trained names two files of {name}");
            }
        }
    }
    Ok(found)
}

/// The networks of `entries` for people, each with its methods where they differ.
pub(super) fn title(entries: &[Entry]) -> String {
    let mut all: Vec<(String, Vec<&str>)> = vec![];
    for Entry {
        method, network, ..
    } in entries
    {
        let Network {
            encoder, backbone, ..
        } = network;
        let names = backbone.all().map(|one| one.name.as_str());
        let what = format!(
            "{} ({}, {})",
            names.collect::<Vec<_>>().join(" + "),
            encoder.spec().name,
            backbone.precision
        );
        let name = method.info().name;
        match all.iter_mut().find(|(known, _)| *known == what) {
            Some((_, methods)) if !methods.contains(&name) => methods.push(name),
            Some(_) => {}
            None => all.push((what, vec![name])),
        }
    }
    match all.as_slice() {
        [(one, _)] => one.clone(),
        several => {
            let each = several.iter();
            let each = each.map(|(what, methods)| format!("{what} for {}", methods.join(", ")));
            each.collect::<Vec<_>>().join("; ")
        }
    }
}
