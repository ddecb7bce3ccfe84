//! What can be wrong with the numbers that are handed in.

/// A slice whose length does not fit the network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {what} has {found} numbers where {expected} are expected")]
pub struct ShapeError {
    /// What the numbers are.
    pub what: &'static str,
    /// How many there should be.
    pub expected: usize,
    /// How many there are.
    pub found: usize,
}

impl ShapeError {
    /// Checks one slice.
    pub(crate) fn check(what: &'static str, found: usize, expected: usize) -> Result<(), Self> {
        match found == expected {
            true => Ok(()),
            false => Err(Self {
                what,
                expected,
                found,
            }),
        }
    }
}
