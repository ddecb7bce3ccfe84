//! The settings of a method: typed in Rust, a JSON object on the command line and in files.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::DetectorError;
use crate::detector::{Array, Profile, State};

/// Settings that replace a method's defaults, as a JSON object by name; empty for none.
pub type MethodSettings = serde_json::Map<String, Value>;

/// The typed settings of a method. Unknown names are refused by the type itself
/// (`deny_unknown_fields`).
pub trait Settings: Serialize + DeserializeOwned {
    /// The method's name.
    const METHOD: &'static str;

    /// What a detector with these settings asks of the pipeline.
    ///
    /// # Errors
    /// [`DetectorError::Settings`] for values that are impossible.
    fn profile(&self) -> Result<Profile, DetectorError>;

    /// The settings as a JSON object, to be given to [`crate::FitContext`].
    fn to_json(&self) -> MethodSettings {
        match serde_json::to_value(self) {
            Ok(Value::Object(settings)) => settings,
            _ => MethodSettings::new(),
        }
    }

    /// These settings with those `given` in their place.
    ///
    /// # Errors
    /// [`DetectorError::Settings`] for an unknown name or a value of the wrong type.
    fn replaced_by(&self, given: &MethodSettings) -> Result<Self, DetectorError> {
        let mut all = self.to_json();
        all.extend(given.clone());
        parse(Value::Object(all))
    }
}

/// Settings that were checked, and what follows from them.
pub(crate) struct Checked<S> {
    pub(crate) settings: S,
    pub(crate) profile: Profile,
}

impl<S: Settings> Checked<S> {
    pub(crate) fn new(settings: S) -> Result<Self, DetectorError> {
        Ok(Self {
            profile: settings.profile()?,
            settings,
        })
    }

    /// Those of a saved detector.
    pub(crate) fn load(state: &State) -> Result<Self, DetectorError> {
        Self::new(parse(state.config.clone())?)
    }

    /// The state of a detector with these settings and `tensors`.
    pub(crate) fn state(&self, tensors: impl IntoIterator<Item = (String, Array)>) -> State {
        State {
            config: Value::Object(self.settings.to_json()),
            tensors: BTreeMap::from_iter(tensors),
        }
    }
}

fn parse<S: Settings>(value: Value) -> Result<S, DetectorError> {
    serde_json::from_value(value).map_err(|error| DetectorError::settings(S::METHOD, error))
}

/// Refuses a part of the patches outside `(0, 1]`.
pub(crate) fn check_fraction(
    method: &'static str,
    name: &str,
    fraction: f64,
) -> Result<(), DetectorError> {
    match fraction > 0.0 && fraction <= 1.0 {
        true => Ok(()),
        false => Err(DetectorError::settings(
            method,
            format_args!("`{name}` must be above 0 and at most 1"),
        )),
    }
}
