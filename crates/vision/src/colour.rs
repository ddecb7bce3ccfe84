//! Colours for scores.

use serde::{Deserialize, Serialize};

/// A colour for every value between 0 (normal) and 1 (anomalous).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColourMap {
    /// Black to yellow through red, perceptually uniform: equal steps of score look equal.
    #[default]
    Inferno,
    /// Blue to red through green: the map of most papers' figures. It shows edges where there are
    /// none.
    Jet,
}

/// The colour of NaN, which stands out from every colour map.
const NOT_A_NUMBER: [u8; 3] = [128, 128, 128];

impl ColourMap {
    /// The colour of `value`; values outside 0..=1 get the colours of the ends, NaN is grey.
    pub fn colour(self, value: f32) -> [u8; 3] {
        if value.is_nan() {
            return NOT_A_NUMBER;
        }
        let value = value.clamp(0.0, 1.0);
        match self {
            ColourMap::Inferno => colorous::INFERNO.eval_continuous(value.into()).as_array(),
            ColourMap::Jet => [3.0, 2.0, 1.0].map(|centre| {
                let brightness = (1.5 - (4.0 * value - centre).abs()).clamp(0.0, 1.0);
                (brightness * 255.0).round() as u8
            }),
        }
    }
}
