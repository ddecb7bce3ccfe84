//! References by the names of their files: each can be taken out again, none takes the place of another.

use std::collections::BTreeMap;

use crate::DetectorError;

/// Takes those called `names` out of `kept`.
///
/// # Errors
/// [`DetectorError::Settings`] of `method` for a name that is not there.
pub(crate) fn remove<T>(
    method: &'static str,
    kept: &mut BTreeMap<String, T>,
    names: &[String],
) -> Result<(), DetectorError> {
    for name in names {
        if kept.remove(name).is_none() {
            let all: Vec<&str> = kept.keys().map(String::as_str).collect();
            let reason = format!(
                "there is no reference `{name}`; the references are: {}",
                all.join(", ")
            );
            return Err(DetectorError::settings(method, reason));
        }
    }
    Ok(())
}

/// Asserts that no reference of `kept` is called `name`.
///
/// # Errors
/// [`DetectorError::Settings`] of `method` if one is.
pub(crate) fn check_new<T>(
    method: &'static str,
    kept: &BTreeMap<String, T>,
    name: &str,
) -> Result<(), DetectorError> {
    if kept.contains_key(name) {
        let reason = format!(
            "there are two references called `{name}`: remove the one that is there, or rename the file"
        );
        return Err(DetectorError::settings(method, reason));
    }
    Ok(())
}
