//! A drawn set on disk, in the layout of MVTec AD: `CLASS/train/good`, `CLASS/test/KIND`,
//! `CLASS/ground_truth/KIND`. Each image has random numbers of its own, so that neither threads
//! nor other images change it.

use std::fs;
use std::path::{Path, PathBuf};

use anomalens_base::AtomicFolder;
use anomalens_datasets::{GOOD, images_below, permutation};
use anomalens_vision::{Image, Mask};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::defect::Defect;
use crate::error::SyntheticError;
use crate::pattern::Pattern;
use crate::random::Random;
use crate::spec::{Normals, Spec};
use crate::texture::Texture;

/// Changes when the same spec gives other images.
const VERSION: u32 = 1;

/// The first of the seeds of everything that is drawn on or about an image.
const MATERIAL: u32 = 0;
const TRAIN: u32 = 1;
const TEST: u32 = 2;
const DEFECT: u32 = 3;

impl Spec {
    /// Draws the set and writes it to `folder`, which is there only when it is complete.
    ///
    /// # Errors
    /// When `folder` is there and is not empty, there are no normal images or one cannot be read,
    /// or nothing can be written.
    pub fn write(&self, folder: &Path) -> Result<(), SyntheticError> {
        let writing = |source| SyntheticError::writing(folder, source);
        let is_empty = || fs::read_dir(folder).is_ok_and(|mut inside| inside.next().is_none());
        if folder.exists() && !is_empty() {
            return Err(SyntheticError::OutputExists {
                path: folder.to_owned(),
            });
        }
        let unfinished = AtomicFolder::create(folder).map_err(writing)?;
        match &self.normals {
            &Normals::Textures {
                materials,
                images,
                side,
            } => (0..materials)
                .into_par_iter()
                .try_for_each(|i| self.write_material(unfinished.path(), i, images, side))?,
            Normals::Folder {
                path,
                versions,
                train,
            } => {
                self.write_versions(unfinished.path(), path, *versions, *train)?;
            }
        }
        unfinished.commit().map_err(writing)
    }

    /// Equal for sets that are equal: a hash of the spec, and of the images of its folder.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn fingerprint(&self) -> Result<String, SyntheticError> {
        let mut hash = Sha256::new();
        hash.update(format!("{VERSION} {self}"));
        if let Normals::Folder { path, .. } = &self.normals {
            for name in normal_images(path)? {
                let file = path.join(&name);
                let bytes =
                    fs::read(&file).map_err(|source| SyntheticError::reading(&file, source))?;
                hash.update(format!("\n{name}\n"));
                hash.update(Sha256::digest(&bytes));
            }
        }
        let digest = hash.finalize();
        Ok(digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    fn write_material(
        &self,
        root: &Path,
        index: u32,
        images: u32,
        side: u32,
    ) -> Result<(), SyntheticError> {
        let pattern = Pattern::ALL[index as usize % Pattern::ALL.len()];
        let texture = Texture::new(pattern, &mut Random::new(&[MATERIAL, self.seed, index]));
        let class = root.join(format!("{}-{:03}", pattern.name(), index + 1));
        let normal =
            |part: u32, i: u32| texture.image(side, &mut Random::new(&[part, self.seed, index, i]));
        (0..images).into_par_iter().try_for_each(|i| {
            let name = format!("{i:04}");
            save_normal(&class, "train", &name, &normal(TRAIN, i)?)?;
            save_normal(&class, "test", &name, &normal(TEST, i)?)?;
            // Of each kind nearly as many, over all materials.
            let kind = Defect::ALL[(index * images + i) as usize % Defect::ALL.len()];
            let (image, donor) = (normal(TEST, images + i)?, normal(TEST, 2 * images + i)?);
            let mut random = Random::new(&[DEFECT, self.seed, index, i]);
            let donor = random.once_in(2).then_some(&donor);
            let (image, mask) = kind.draw(&image, donor, &mut random)?;
            save_defect(&class, kind, &name, &image, &mask)
        })
    }

    fn write_versions(
        &self,
        root: &Path,
        folder: &Path,
        versions: u32,
        train: Option<u32>,
    ) -> Result<(), SyntheticError> {
        let names = normal_images(folder)?;
        let train = train.map_or(names.len() / 4, |train| train as usize);
        let apart = permutation(names.len(), self.seed);
        let apart = &apart[..train.min(names.len())];
        let open = |name: &str| Image::open(folder.join(name));
        names.par_iter().enumerate().try_for_each(|(i, file)| {
            let image = open(file)?;
            // Names of images in folders of folders may be equal.
            let name = format!(
                "{i:05}-{}",
                file.rsplit_once('.')
                    .map_or(file.as_str(), |(stem, _)| stem)
                    .replace('/', "-")
            );
            if apart.contains(&i) {
                return save_normal(root, "train", &name, &image);
            }
            save_normal(root, "test", &name, &image)?;
            (0..versions).try_for_each(|version| {
                let mut random = Random::new(&[DEFECT, self.seed, i as u32, version]);
                let kind = Defect::ALL[random.below(Defect::ALL.len() as u32) as usize];
                let donor = if kind == Defect::Paste && random.once_in(2) {
                    Some(open(&names[random.below(names.len() as u32) as usize])?)
                } else {
                    None
                };
                let (image, mask) = kind.draw(&image, donor.as_ref(), &mut random)?;
                save_defect(root, kind, &format!("{name}-{version}"), &image, &mask)
            })
        })
    }
}

/// The normal images to draw on: all in `folder` and its folders.
fn normal_images(folder: &Path) -> Result<Vec<String>, SyntheticError> {
    let names = match folder.is_dir() {
        true => images_below(folder)?,
        false => vec![],
    };
    match names.is_empty() {
        false => Ok(names),
        true => Err(SyntheticError::NoNormalImages {
            folder: folder.to_owned(),
        }),
    }
}

fn save_normal(class: &Path, split: &str, name: &str, image: &Image) -> Result<(), SyntheticError> {
    save(
        class.join(split).join(GOOD),
        &format!("{name}.png"),
        &image.to_png()?,
    )
}

fn save_defect(
    class: &Path,
    kind: Defect,
    name: &str,
    image: &Image,
    mask: &Mask,
) -> Result<(), SyntheticError> {
    let folder = |part: &str| class.join(part).join(kind.name());
    save(folder("test"), &format!("{name}.png"), &image.to_png()?)?;
    save(
        folder("ground_truth"),
        &format!("{name}_mask.png"),
        &mask.to_png()?,
    )
}

fn save(folder: PathBuf, name: &str, bytes: &[u8]) -> Result<(), SyntheticError> {
    let path = folder.join(name);
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&path, bytes))
        .map_err(|source| SyntheticError::writing(path, source))
}
