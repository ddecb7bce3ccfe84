//! What the user should know about images although they could be used.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Something about an image that makes its score, or those that follow from it, less meaningful.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Note {
    /// A reference image is a copy of another one and counts once.
    CopiedReference {
        /// The copy.
        name: String,
        /// The image that it is a copy of.
        of: String,
    },
    /// A reference image is of one colour and is left out.
    FlatReference {
        /// The image.
        name: String,
    },
    /// A reference image is unlike all the others: perhaps it shows something else.
    OddReference {
        /// The image.
        name: String,
        /// How many times as far from the others it is as a middle one, in tenths.
        tenths: u32,
    },
    /// A method chose a setting itself.
    Chosen {
        /// The setting.
        setting: String,
        /// What was chosen.
        value: String,
        /// Why.
        reason: String,
    },
    /// The scored image is of one colour: a closed shutter or an empty field of view scores low.
    FlatImage,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CopiedReference { name, of } => {
                write!(
                    f,
                    "{name} is a copy of {of}; both count as one normal image"
                )
            }
            Self::FlatReference { name } => {
                write!(f, "{name} is of one colour and left out as a normal image")
            }
            Self::OddReference { name, tenths } => write!(
                f,
                "{name} is {}.{} times as far from the other normal images as these are from each \
                 other: look whether it belongs to them",
                tenths / 10,
                tenths % 10
            ),
            Self::Chosen {
                setting,
                value,
                reason,
            } => write!(f, "{setting}={value}: {reason}"),
            Self::FlatImage => f.write_str("the image is of one colour; its score says nothing"),
        }
    }
}
