//! What moves the parameters of a method, and can go on from a saved state.

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor};

/// An optimiser of named parameters.
pub(crate) trait Optimiser {
    /// Moves every parameter that has a gradient. False if one of them, or what the optimiser keeps of
    /// its gradients, came out of it not finite.
    ///
    /// # Errors
    /// Those of the tensor library.
    fn step(&mut self, gradients: &GradStore) -> candle_core::Result<bool>;

    /// The learning rate of the next steps.
    fn set_rate(&mut self, rate: f64);

    /// Everything that a saved run needs to go on as if it had not stopped: parameters under their
    /// own names, the rest under names that begin with the optimiser's.
    ///
    /// # Errors
    /// Those of the tensor library.
    fn state(&self) -> candle_core::Result<Vec<(String, Tensor)>>;

    /// Goes back to a saved state; `take` gives its tensors by name.
    ///
    /// # Errors
    /// That of a tensor which is missing or has another shape.
    fn restore(
        &mut self,
        take: &dyn Fn(&str) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<()>;
}

/// Whether every number of `tensor` is finite.
pub(super) fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    let sum = tensor.to_dtype(DType::F64)?.sum_all()?;
    Ok(sum.to_scalar::<f64>()?.is_finite())
}
