//! What was trained, as plain tensors: in detector files, and in the original's checkpoints, which hold the
//! state dicts `STN`, `ENC` and `PRED`.

use std::path::Path;

use anomalens_backbones::checkpoint::write_torch_dicts;
use candle_core::{DType, Device, Tensor};

use super::network::{Network, Sizes};
use super::settings::Settings;
use super::{NAME, refuse};
use crate::DetectorError;
use crate::detector::{Array, State};

/// The network whose tensors `take` gives by the original's names.
pub(super) fn network(
    settings: &Settings,
    take: &mut dyn FnMut(&str) -> Option<Tensor>,
) -> Result<Network, DetectorError> {
    const STEM: &str = "STN.conv1.weight";
    const MIDDLE: &str = "STN.stn1.fc.2.weight";
    let missing = |name: &str| DetectorError::tensor(NAME, name);
    let [stem, middle] = [STEM, MIDDLE].map(|name| take(name).ok_or_else(|| missing(name)));
    let (stem, middle) = (stem?, middle?);
    let (&[width, ..], &[numbers, hidden]) = (stem.dims(), middle.dims()) else {
        return Err(missing(MIDDLE));
    };
    if width == 0 || hidden == 0 {
        return Err(missing(STEM));
    }
    let wanted = settings.transformer.identity().len();
    if numbers != wanted {
        return Err(refuse(format!(
            "its transformers were trained to give {numbers} numbers, and those of `transformer` are \
             {wanted}: set the kind that they were trained with"
        )));
    }
    let sizes = Sizes {
        hidden,
        ..settings.sizes(width)
    };
    let network = Network::of(sizes, |parameter| {
        let tensor = match parameter.name.as_str() {
            STEM => stem.clone(),
            MIDDLE => middle.clone(),
            name => take(name)?,
        };
        tensor.to_dtype(DType::F32).ok()
    });
    network.map_err(|name| match name.contains(".fc.0.") {
        true => refuse(format!(
            "`{name}` does not fit images of {} pixels: leave `image_size` as it was in training",
            settings.image_size
        )),
        false => missing(&name),
    })
}

/// The tensors for a detector file.
pub(super) fn arrays(network: &Network) -> impl Iterator<Item = (String, Array)> {
    Array::all_of(network.variables())
}

/// The network of a detector file.
pub(super) fn load(settings: &Settings, state: &mut State) -> Result<Network, DetectorError> {
    network(settings, &mut |name| state.take_tensor(name))
}

/// Writes a checkpoint as the original does, after so many batches.
pub(super) fn write(path: &Path, network: &Network, batches: usize) -> Result<(), DetectorError> {
    let count = Tensor::new(batches as i64, &Device::Cpu)?;
    let unused = Tensor::new(0_i64, &Device::Cpu)?;
    let mut state: Vec<(String, Tensor)> = vec![];
    for (name, variable) in network.variables() {
        let norm = name.strip_suffix("running_var").map(str::to_owned);
        state.push((name, variable.as_tensor().clone()));
        if let Some(norm) = norm {
            let count = if norm == "ENC.bn3." { &unused } else { &count };
            state.push((format!("{norm}num_batches_tracked"), count.clone()));
        }
    }
    Ok(write_torch_dicts(path, &state)?)
}
