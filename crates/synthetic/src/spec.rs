//! Which set is to be drawn, as a user writes it: `textures,seed=1,images=20` or `FOLDER,seed=1`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::SyntheticError;
use anomalens_datasets::split_settings;

/// All that a drawn set follows from, but for the images of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The normal images.
    pub normals: Normals,
    /// Another seed, another set.
    pub seed: u32,
}

/// Where the normal images of a drawn set come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Normals {
    /// They are generated.
    Textures {
        /// How many materials: classes of the set, of all patterns in turn.
        materials: u32,
        /// Of each material: normal images for training, normal ones for the test, and
        /// defective ones.
        images: u32,
        /// Width and height of an image in pixels.
        side: u32,
    },
    /// They are all images in a folder and below.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Defective versions of each image.
        versions: u32,
        /// Images set apart for training, without defective versions; a quarter of all by default.
        train: Option<u32>,
    },
}

/// The word that stands for generated normal images.
const TEXTURES: &str = "textures";

impl FromStr for Spec {
    type Err = SyntheticError;

    fn from_str(text: &str) -> Result<Self, SyntheticError> {
        let bad = |reason: String| SyntheticError::Spec {
            given: text.to_owned(),
            reason,
        };
        let (rest, settings) = split_settings(text);
        let mut seed = 0;
        let mut normals = match rest {
            "" => {
                return Err(bad(format!(
                    "write {TEXTURES} or a folder of normal images"
                )));
            }
            TEXTURES => Normals::Textures {
                materials: 13,
                images: 8,
                side: 256,
            },
            folder => Normals::Folder {
                path: folder.into(),
                versions: 2,
                train: None,
            },
        };
        for (name, value) in settings {
            let number = |least: u32, most: u32| {
                value
                    .parse()
                    .ok()
                    .filter(|number| (least..=most).contains(number))
                    .ok_or_else(|| bad(format!("{name} is a number from {least} to {most}")))
            };
            match (name, &mut normals) {
                ("seed", _) => seed = number(0, u32::MAX)?,
                ("materials", Normals::Textures { materials, .. }) => {
                    *materials = number(1, 9999)?;
                }
                ("images", Normals::Textures { images, .. }) => *images = number(1, 9999)?,
                ("side", Normals::Textures { side, .. }) => *side = number(8, 4096)?,
                ("versions", Normals::Folder { versions, .. }) => *versions = number(1, 99)?,
                ("train", Normals::Folder { train, .. }) => *train = Some(number(0, u32::MAX)?),
                (_, Normals::Textures { .. }) => {
                    return Err(bad(format!(
                        "there is no setting {name}; there are seed, materials, images and side"
                    )));
                }
                (_, Normals::Folder { .. }) => {
                    return Err(bad(format!(
                        "there is no setting {name}; there are seed, versions and train"
                    )));
                }
            }
        }
        Ok(Self { normals, seed })
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seed = self.seed;
        match &self.normals {
            Normals::Textures {
                materials,
                images,
                side,
            } => write!(
                f,
                "{TEXTURES},seed={seed},materials={materials},images={images},side={side}"
            ),
            Normals::Folder {
                path,
                versions,
                train,
            } => {
                write!(f, "{},seed={seed},versions={versions}", path.display())?;
                match train {
                    Some(train) => write!(f, ",train={train}"),
                    None => Ok(()),
                }
            }
        }
    }
}
