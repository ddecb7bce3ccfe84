//! Small data sets in a temporary folder, made file by file.

// Every test file uses its own part of this module.
#![allow(dead_code, clippy::unwrap_used)]

mod anomalyclip;

use std::fs;
use std::path::PathBuf;

use anomalens_datasets::{DataRef, DataSet, layout};
use image::{GrayImage, ImageFormat, Luma};
use tempfile::TempDir;

#[allow(unused_imports)] // As above.
pub(crate) use anomalyclip::*;

/// A folder that is removed at the end of the test.
pub(crate) struct Tree {
    folder: TempDir,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self {
            folder: TempDir::new().unwrap(),
        }
    }

    /// A data set in `name`, below the temporary folder.
    pub(crate) fn data(&self, layout_name: &str, name: &str) -> DataRef {
        DataRef::new(layout(layout_name).unwrap(), self.path(name))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn folder(&self, name: &str) {
        fs::create_dir_all(self.path(name)).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        let path = self.path(name);
        if path.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        }
        .unwrap();
    }

    pub(crate) fn copy(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
    }

    pub(crate) fn replace(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} has no {from}");
        fs::write(self.path(name), text.replace(from, to)).unwrap();
    }

    /// An image of 6x4 pixels that no other name has.
    pub(crate) fn image(&self, name: &str) {
        self.image_of(name, 6, 4);
    }

    /// An image which shows its name in grey values, so that no two have the same bytes.
    pub(crate) fn image_of(&self, name: &str, width: u32, height: u32) {
        let bytes = name.as_bytes();
        let hash = bytes.iter().fold(7u32, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(u32::from(*byte))
        });
        // Four values far apart survive JPEG.
        self.save(
            name,
            &GrayImage::from_fn(width, height, |x, y| {
                Luma([((hash >> (2 * ((x + y * width) % 16)) & 3) * 80) as u8])
            }),
        );
    }

    /// A JPEG stored with these sides whose EXIF orientation turns it by a quarter.
    pub(crate) fn turned(&self, name: &str, width: u32, height: u32) {
        // EXIF with one entry: orientation (0x0112), one 16-bit number, 6.
        const EXIF: [u8; 36] = *b"\xff\xe1\x00\x22Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\
            \x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00";
        self.image_of(name, width, height);
        let jpeg = fs::read(self.path(name)).unwrap();
        let (start, rest) = jpeg.split_at(2);
        self.file(name, [start, &EXIF, rest].concat());
    }

    /// A mask which marks the given pixels, faintly.
    pub(crate) fn mask(&self, name: &str, (width, height): (u32, u32), marked: &[(u32, u32)]) {
        let mut mask = GrayImage::new(width, height);
        for (x, y) in marked {
            mask.put_pixel(*x, *y, Luma([1]));
        }
        self.save(name, &mask);
    }

    pub(crate) fn save(&self, name: &str, image: &GrayImage) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // The bytes decide what a file is, and TIFF cannot be written here.
        let format = ImageFormat::from_path(&path).unwrap();
        let format = match format {
            ImageFormat::Tiff => ImageFormat::Png,
            other => other,
        };
        image.save_with_format(path, format).unwrap();
    }
}

/// The ids of the training and of the test samples of the only class.
pub(crate) fn ids(data: &DataSet) -> (Vec<&str>, Vec<&str>) {
    let [class] = &data.classes[..] else {
        unreachable!("one class expected: {:?}", data.classes)
    };
    (
        data.train_normals(class)
            .map(|sample| sample.id.as_str())
            .collect(),
        data.test(class).map(|sample| sample.id.as_str()).collect(),
    )
}

/// Size of [`Tree::image`].
pub(crate) const SIZE: (u32, u32) = (6, 4);

/// MVTec AD's layout: two classes, one with masks.
pub(crate) fn mvtec(tree: &Tree) {
    for name in ["000", "001"] {
        tree.image(&format!("mvtec/bottle/train/good/{name}.png"));
        tree.image(&format!("mvtec/bottle/test/good/{name}.png"));
        tree.image(&format!("mvtec/bottle/test/broken/{name}.png"));
        tree.mask(
            &format!("mvtec/bottle/ground_truth/broken/{name}_mask.png"),
            SIZE,
            &[(1, 1)],
        );
        tree.image(&format!("mvtec/cable/train/good/{name}.png"));
        tree.image(&format!("mvtec/cable/test/good/{name}.png"));
        tree.image(&format!("mvtec/cable/test/bent/{name}.png"));
    }
    tree.file("mvtec/readme.txt", "for people");
    tree.file("mvtec/bottle/.DS_Store", "");
}

/// MVTec AD's layout with a class of one's own.
pub(crate) fn own(tree: &Tree) {
    for image in ["train/good/1", "test/good/2", "test/dent/3"] {
        tree.image(&format!("own/spoon/{image}.png"));
    }
}

/// Plain folders: four normal and two anomalous images, with masks.
pub(crate) fn plain(tree: &Tree) {
    for name in ["a", "b", "c", "d"] {
        tree.image(&format!("plain/OK/{name}.png"));
    }
    for name in ["x", "y"] {
        tree.image(&format!("plain/defect/{name}.png"));
        tree.mask(
            &format!("plain/ground_truth/defect/{name}.png"),
            SIZE,
            &[(0, 0)],
        );
    }
}

/// ELPV: eight normal cells, one anomalous cell of each type, two doubtful ones.
pub(crate) fn elpv(tree: &Tree) {
    let mut labels = String::new();
    for (number, probability, kind) in [
        (1, "0.0", "mono"),
        (2, "1.0", "mono"),
        (3, "0.0", "poly"),
        (4, "0.0", "mono"),
        (5, "0.3333333333333333", "mono"),
        (6, "0.0", "mono"),
        (7, "0.0", "mono"),
        (8, "1.0", "poly"),
        (9, "0.0", "mono"),
        (10, "0.6666666666666666", "poly"),
        (11, "0.0", "mono"),
        (12, "0.0", "mono"),
    ] {
        let image = format!("images/cell{number:04}.png");
        tree.image(&format!("elpv/{image}"));
        labels += &format!("{image}  {probability}                 {kind}\n");
    }
    tree.file("elpv/labels.csv", labels);
}

/// BrainMRI: four images without and two with a tumour, with names as they are.
pub(crate) fn brainmri(tree: &Tree) {
    for name in ["1 no.jpeg", "10 no.jpg", "No11.jpg", "no 2.JPG"] {
        tree.image(&format!("brainmri/no/{name}"));
    }
    for name in ["Y1.jpg", "Y2.png"] {
        tree.image(&format!("brainmri/yes/{name}"));
    }
}

/// HeadCT: two slices with and four without a haemorrhage.
pub(crate) fn headct(tree: &Tree) {
    let mut labels = "id, hemorrhage\n".to_owned();
    for (id, label) in [(0, 1), (1, 1), (2, 0), (3, 0), (4, 0), (5, 0)] {
        tree.image(&format!("headct/head_ct/{id:03}.png"));
        labels += &format!("{id},{label}\n");
    }
    tree.file("headct/labels.csv", labels);
}

/// KolektorSDD: two commutators, two images each of 6x11 pixels; the defect of the first crosses
/// from its second third (rows 3 to 6) to its last.
pub(crate) fn sdd(tree: &Tree) {
    let size = (6, 11);
    for image in ["kos01/Part0", "kos01/Part1", "kos02/Part0", "kos02/Part1"] {
        tree.image_of(&format!("sdd/{image}.jpg"), size.0, size.1);
        let marked: &[_] = if image == "kos01/Part0" {
            &[(2, 6), (2, 7)]
        } else {
            &[]
        };
        tree.mask(&format!("sdd/{image}_label.bmp"), size, marked);
    }
}

/// Magnetic tile: four tiles without and one with each kind of defect.
pub(crate) fn magnetic_tile(tree: &Tree) {
    for name in ["exp1", "exp2", "exp3", "exp4"] {
        tree.image(&format!("magnetic-tile/MT_Free/Imgs/{name}.jpg"));
        tree.mask(&format!("magnetic-tile/MT_Free/Imgs/{name}.png"), SIZE, &[]);
    }
    for kind in ["Blowhole", "Break", "Crack", "Fray", "Uneven"] {
        tree.image(&format!("magnetic-tile/MT_{kind}/Imgs/exp1.jpg"));
        tree.mask(
            &format!("magnetic-tile/MT_{kind}/Imgs/exp1.png"),
            SIZE,
            &[(5, 3)],
        );
    }
    tree.file("magnetic-tile/README.md", "for people");
}

/// Simulated textiles: four normal and one anomalous image of each kind.
pub(crate) fn textile(tree: &Tree) {
    for name in [
        "nominal/1",
        "nominal/2",
        "nominal/3",
        "nominal/4",
        "local/1",
        "global/1",
    ] {
        tree.image(&format!("textile/{name}.jpg"));
    }
}

/// VisA: two classes, with files that the table does not name.
pub(crate) fn visa(tree: &Tree) {
    let mut table = "object,split,label,image,mask\n".to_owned();
    for class in ["candle", "pcb1"] {
        for (split, label, folder, name) in [
            ("train", "normal", "Normal", "0000"),
            ("train", "normal", "Normal", "0001"),
            ("test", "normal", "Normal", "0002"),
            ("test", "anomaly", "Anomaly", "000"),
        ] {
            let image = format!("{class}/Data/Images/{folder}/{name}.JPG");
            tree.image(&format!("visa/{image}"));
            let mask = match label {
                "anomaly" => format!("{class}/Data/Masks/Anomaly/{name}.png"),
                _ => String::new(),
            };
            if !mask.is_empty() {
                tree.mask(&format!("visa/{mask}"), SIZE, &[(1, 1)]);
            }
            table += &format!("{class},{split},{label},{image},{mask}\n");
        }
        tree.file(&format!("visa/{class}/image_anno.csv"), "image,label\n");
    }
    tree.file("visa/split_csv/1cls.csv", table);
    tree.file("visa/split_csv/2cls_fewshot.csv", "");
    tree.file("visa/LICENSE-DATASET", "for people");
}

/// AITEX: a strip without defect of 24x8 pixels, one with a broken end in its second square, one
/// whose nep is marked in two files, one without a mask.
pub(crate) fn aitex(tree: &Tree) {
    let size = (24, 8);
    tree.image_of(
        "aitex/NODefect_images/2306881-210020u/0001_000_00.png",
        24,
        8,
    );
    let defects = "aitex/Defect_images/Defect_images";
    let masks = "aitex/Mask_images/Mask_images";
    for name in ["0001_002_00", "0044_030_04", "0100_025_08"] {
        tree.image_of(&format!("{defects}/{name}.png"), 24, 8);
    }
    tree.mask(
        &format!("{masks}/0001_002_00_mask.png"),
        size,
        &[(9, 2), (10, 2)],
    );
    tree.mask(
        &format!("{masks}/0044_030_04_mask1.png"),
        size,
        &[(1, 1), (17, 1)],
    );
    tree.mask(&format!("{masks}/0044_030_04_mask2.png"), size, &[(18, 1)]);
}

/// MNIST as pictures: two training and one test image of each digit.
pub(crate) fn mnist(tree: &Tree) {
    for digit in 0..10 {
        for name in ["training/D/1.png", "training/D/2.png", "testing/D/3.png"] {
            tree.image(&format!("mnist/{}", name.replace('D', &digit.to_string())));
        }
    }
}

/// CIFAR-10 as pictures: one training and one test image of each kind.
pub(crate) fn cifar10(tree: &Tree) {
    for kind in [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ] {
        tree.image(&format!("cifar10/train/{kind}/0001.png"));
        tree.image(&format!("cifar10/test/{kind}/0001.png"));
    }
}
