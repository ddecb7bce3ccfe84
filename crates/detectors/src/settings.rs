//! The settings of a method: typed in Rust, a JSON object on the command line and in files.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
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

/// A setting that a method chooses itself unless it is given; `"auto"` in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice<T> {
    /// The method chooses.
    #[default]
    Auto,
    /// This value.
    Given(T),
}

impl<T> Choice<T> {
    /// The value, if it is given.
    pub fn given(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Given(value) => Some(value),
        }
    }
}

/// The word for a choice that is left open.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Auto {
    Auto,
}

impl<T: Serialize> Serialize for Choice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => Auto::Auto.serialize(serializer),
            Self::Given(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<T> {
            Auto(Auto),
            Given(T),
        }
        Ok(match Either::deserialize(deserializer)? {
            Either::Auto(Auto::Auto) => Self::Auto,
            Either::Given(value) => Self::Given(value),
        })
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

/// The setting `name` of `method` as it is given, or its default: for settings that decide on the defaults
/// of others.
pub(crate) fn given_or_default<T: DeserializeOwned + Default>(
    method: &'static str,
    given: &MethodSettings,
    name: &str,
) -> Result<T, DetectorError> {
    match given.get(name) {
        None => Ok(T::default()),
        Some(value) => T::deserialize(value)
            .map_err(|error| DetectorError::settings(method, format_args!("`{name}`: {error}"))),
    }
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
