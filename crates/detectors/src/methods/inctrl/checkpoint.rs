//! What was trained, as plain tensors: from the detector file that `train` writes, and from and to
//! the original's checkpoints (`checkpoint.pyth`), which hold a whole state dict.

use std::path::Path;

use anomalens_backbones::checkpoint::write_torch;
use candle_core::{DType, Device, Tensor};

use super::network::{Network, Sizes};
use super::unusable;
use crate::DetectorError;
use crate::detector::Array;

/// The heads whose tensors `take` gives by the original's names.
pub(super) fn network(
    take: &mut dyn FnMut(&str) -> Option<Tensor>,
) -> Result<Network, DetectorError> {
    let mut taken: Vec<(String, Tensor)> = vec![];
    let mut shape = |name: &str| {
        let tensor = take(name).ok_or_else(|| unusable(name))?;
        match *tensor.dims() {
            [rows, columns] => {
                taken.push((name.to_owned(), tensor));
                Ok((rows, columns))
            }
            _ => Err(unusable(name)),
        }
    };
    let (middle, embedding) = shape("adapter.fc.0.weight")?;
    let (_, patches) = shape("diff_head.projection1.weight")?;
    let sizes = Sizes {
        embedding,
        patches,
        middle,
    };
    let network = Network::new(sizes, 0)?;
    for (name, var) in network.variables() {
        let known = taken.iter().find(|(known, _)| *known == name);
        let tensor = known.map_or_else(|| take(&name), |(_, tensor)| Some(tensor.clone()));
        let tensor = tensor.filter(|tensor| tensor.dims() == var.dims());
        var.set(&tensor.ok_or_else(|| unusable(&name))?)?;
    }
    Ok(network)
}

/// The tensors for a detector file.
pub(super) fn arrays(network: &Network) -> Vec<(String, Array)> {
    Array::all_of(network.variables()).collect()
}

/// Writes the learned part of a published checkpoint, after `steps` steps.
pub(super) fn write(path: &Path, network: &Network, steps: usize) -> Result<(), DetectorError> {
    let mut state: Vec<(String, Tensor)> = vec![];
    for (name, var) in network.variables() {
        let counted = name.strip_suffix("running_var").map(str::to_owned);
        state.push((name, var.as_tensor().clone()));
        if let Some(norm) = counted {
            // The norm over the inputs has never seen a batch.
            let steps = if norm.ends_with("bn1.") { 0 } else { steps };
            let count = Tensor::new(steps as u32, &Device::Cpu)?.to_dtype(DType::I64)?;
            state.push((format!("{norm}num_batches_tracked"), count));
        }
    }
    Ok(write_torch(path, None, &state)?)
}
