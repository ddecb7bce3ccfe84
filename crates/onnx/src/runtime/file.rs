//! A model file, run once by ONNX Runtime on the processor.

use std::path::Path;
use std::str::FromStr;

use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::session::SessionInputValue;
use ort::value::{DynTensor, Tensor, TensorElementType};

use super::Device;
use super::library::library;
use super::program::{builder, failure};
use crate::OnnxError;

/// Bytes that go in under a name.
#[derive(Debug, Clone)]
pub struct Bytes {
    /// The input's name.
    pub name: String,
    /// Its lengths.
    pub shape: Vec<usize>,
    /// Row-major.
    pub bytes: Vec<u8>,
}

/// Numbers that come out under a name; a truth value is 0 or 1.
#[derive(Debug, Clone)]
pub struct Numbers {
    /// The output's name.
    pub name: String,
    /// Row-major.
    pub numbers: Vec<f32>,
}

/// What a model file gives for `inputs`, and the version of ONNX Runtime that ran it.
///
/// # Errors
/// [`OnnxError::NoLibrary`] where ONNX Runtime is not here, [`OnnxError::Device`] with its reason for
/// a file that it does not run.
pub fn run_file(path: &Path, inputs: &[Bytes]) -> Result<(Vec<Numbers>, String), OnnxError> {
    let device = Device::from_str("ort-cpu")?;
    let library = library(&device)?;
    let found = (|| -> ort::Result<Vec<Numbers>> {
        let mut session = builder(library, &device, false)?.commit_from_file(path)?;
        let mut values = vec![];
        for input in inputs {
            let tensor = Tensor::from_array((input.shape.clone(), input.bytes.clone()))?;
            values.push((input.name.clone(), SessionInputValue::from(tensor)));
        }
        let outputs = session.run(values)?;
        let numbers = outputs.into_iter().map(|(name, value)| {
            Ok(Numbers {
                name: name.to_owned(),
                numbers: numbers(&value.downcast()?)?,
            })
        });
        numbers.collect()
    })();
    let found = found.map_err(|error| failure(library, &device, &error));
    Ok((found?, format!("1.{}", library.version)))
}

fn numbers(tensor: &DynTensor) -> ort::Result<Vec<f32>> {
    Ok(match tensor.data_type() {
        TensorElementType::Bool => {
            let (_, truths) = tensor.try_extract_tensor::<bool>()?;
            truths
                .iter()
                .map(|&truth| f32::from(u8::from(truth)))
                .collect()
        }
        TensorElementType::Float16 => tensor.try_extract_tensor::<f16>()?.1.to_f32_vec(),
        _ => tensor.try_extract_tensor::<f32>()?.1.to_vec(),
    })
}
