//! What was trained, as plain tensors: in detector files, and in the original's checkpoints
//! (`ckpt_50.pt`), which are state dicts without anything around them.

use std::path::Path;

use anomalens_backbones::checkpoint::write_torch;
use candle_core::{DType, Device, Tensor};

use super::NAME;
use super::network::{Network, Sizes};
use crate::DetectorError;
use crate::detector::Array;

/// The network whose tensors `take` gives by the original's names.
///
/// # Errors
/// [`DetectorError::Settings`] for a tensor that is missing or does not fit the others.
pub(super) fn network(
    mut take: impl FnMut(&str) -> Option<Tensor>,
) -> Result<Network, DetectorError> {
    let mut all: Vec<(String, Tensor)> = vec![];
    let mut sides = |name: String| {
        let tensor = take(&name)?;
        let sides = tensor.dims2().ok();
        all.push((name, tensor));
        sides.filter(|&(outputs, inputs)| outputs > 0 && inputs > 0)
    };
    let hidden = (0..)
        .step_by(3)
        .map_while(|i| sides(format!("enc.{i}.weight")));
    let mut widths: Vec<(usize, usize)> = hidden.collect();
    let unusable = |name: &str| DetectorError::tensor(NAME, name);
    let last = sides("fc.weight".to_owned()).ok_or_else(|| unusable("fc.weight"))?;
    let output = last.0;
    widths.push(last);
    // Before memory is taken for layers between them.
    let broken = widths.windows(2).position(|pair| pair[0].0 != pair[1].1);
    if let Some(layer) = broken {
        return Err(unusable(&format!("enc.{}.weight", 3 * layer)));
    }
    let sizes = Sizes {
        widths: widths.into_iter().map(|(_, inputs)| inputs).collect(),
        output,
    };
    let network = Network::new(&sizes, 0)?;
    for (name, var) in network.variables() {
        let known = all.iter().find(|(known, _)| *known == name);
        let tensor = known.map_or_else(|| take(&name), |(_, tensor)| Some(tensor.clone()));
        let tensor = tensor.filter(|tensor| tensor.dims() == var.dims());
        let tensor = tensor.ok_or_else(|| unusable(&name))?;
        var.set(&tensor.to_dtype(DType::F32)?)?;
    }
    Ok(network)
}

/// Writes such a checkpoint, of a network that saw so many `batches`.
///
/// # Errors
/// That of the file.
pub(super) fn write(path: &Path, network: &Network, batches: usize) -> Result<(), DetectorError> {
    let mut state: Vec<(String, Tensor)> = vec![];
    for (name, var) in network.variables() {
        let norm = name.strip_suffix("running_var").map(str::to_owned);
        state.push((name, var.as_tensor().clone()));
        if let Some(norm) = norm {
            let count = Tensor::new(batches as u32, &Device::Cpu)?.to_dtype(DType::I64)?;
            state.push((format!("{norm}num_batches_tracked"), count));
        }
    }
    Ok(write_torch(path, None, &state)?)
}

/// The tensors for a detector file.
pub(super) fn arrays(network: &Network) -> impl Iterator<Item = (String, Array)> {
    Array::all_of(network.variables())
}
