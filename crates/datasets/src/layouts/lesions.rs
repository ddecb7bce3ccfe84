//! Medical data sets in which every image shows a lesion, so that only pixels can be judged:
//! images in one folder, masks in another, all of them for the test. Those that are published
//! with a training part (ISIC, TN3K) count with their test part.

use std::path::Path;

use anomalens_vision::MaskSource;

use crate::error::Error;
use crate::layouts::folder::is_normal;
use crate::layouts::{ALL_TEST, About, Layout, Published};
use crate::listing::below;
use crate::pairing::{Files, MASK, pair_masks};
use crate::sample::{GOOD, Split};
use crate::scan::{Item, Scan};

/// Folders of images and of their masks.
type Folders = (&'static str, &'static str);

/// How most sets are handed on, AnomalyCLIP's among them.
const IMAGES_AND_MASKS: Folders = ("images", "masks");

const CLINIC: Set = Set {
    class: "colon",
    kind: "polyp",
    folders: &[
        IMAGES_AND_MASKS,
        ("PNG/Original", "PNG/Ground Truth"),
        ("Original", "Ground Truth"),
    ],
    endings: &MASK,
};

const COLON: Set = Set {
    class: "colon",
    kind: "polyp",
    folders: &[IMAGES_AND_MASKS],
    endings: &MASK,
};

const SKIN: Set = Set {
    class: "skin",
    kind: "lesion",
    folders: &[
        ("skin/test", "skin/ISBI2016_ISIC_Part1_Test_GroundTruth"),
        (
            "ISBI2016_ISIC_Part1_Test_Data",
            "ISBI2016_ISIC_Part1_Test_GroundTruth",
        ),
    ],
    endings: &["_Segmentation"],
};

const THYROID: Set = Set {
    class: "thyroid",
    kind: "nodule",
    folders: &[("test-image", "test-mask")],
    endings: &MASK,
};

const THYROID_TRAINING: Set = Set {
    folders: &[("trainval-image", "trainval-mask")],
    ..THYROID
};

pub(super) const CVC_CLINICDB: Layout = Layout {
    name: "cvc-clinicdb",
    summary: "CVC-ClinicDB, polyps in colonoscopies",
    expects: "images/* and masks/* of the same names; or PNG/Original and PNG/Ground Truth; or \
        Original and Ground Truth",
    split: ALL_TEST,
    about: Some(About {
        title: "CVC-ClinicDB",
        licence: "stated on the owners' page; none comes with the files",
        citation: "J. Bernal et al., WM-DOVA Maps for Accurate Polyp Highlighting in \
            Colonoscopy, Computerized Medical Imaging and Graphics, 2015",
        obtain: "polyp.grand-challenge.org/CVCClinicDB",
        published: Published::Test([0, 612]),
        published_in: "the owners' page",
    }),
    missing: |root| Ok(CLINIC.missing(root)),
    scan: |scan| CLINIC.scan(scan),
};

pub(super) const CVC_COLONDB: Layout = Layout {
    name: "cvc-colondb",
    summary: "CVC-ColonDB, polyps in colonoscopies",
    expects: "images/* and masks/* of the same names",
    split: ALL_TEST,
    about: Some(About {
        title: "CVC-ColonDB",
        licence: "stated on the owners' page; none comes with the files",
        citation: "N. Tajbakhsh, S. R. Gurudu, J. Liang, Automated Polyp Detection in \
            Colonoscopy Videos Using Shape and Context Information, IEEE TMI, 2016",
        obtain: "figshare.com/articles/figure/Polyp_DataSet_zip/21221579",
        published: Published::Test([0, 380]),
        published_in: "the paper",
    }),
    missing: |root| Ok(COLON.missing(root)),
    scan: |scan| COLON.scan(scan),
};

pub(super) const KVASIR: Layout = Layout {
    name: "kvasir",
    summary: "Kvasir-SEG, polyps in colonoscopies",
    expects: "images/* and masks/* of the same names",
    split: ALL_TEST,
    about: Some(About {
        title: "Kvasir-SEG",
        licence: "stated on the owners' page; none comes with the files",
        citation: "D. Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MMM 2020",
        obtain: "datasets.simula.no/kvasir-seg",
        published: Published::Test([0, 1000]),
        published_in: "the paper",
    }),
    missing: |root| Ok(COLON.missing(root)),
    scan: |scan| COLON.scan(scan),
};

pub(super) const ENDO: Layout = Layout {
    name: "endo",
    summary: "EndoTect 2020, polyps in endoscopies, the test part",
    expects: "images/* and masks/* of the same names",
    split: ALL_TEST,
    about: Some(About {
        title: "EndoTect 2020",
        licence: "stated on the owners' page; none comes with the files",
        citation: "S. A. Hicks et al., The EndoTect 2020 Challenge: Evaluation and Comparison of \
            Classification, Segmentation and Inference Time for Endoscopy, ICPR 2021",
        obtain: "endotect.com; the drive that the README of zqhang/AnomalyCLIP on GitHub names",
        published: Published::Test([0, 200]),
        published_in: "the paper",
    }),
    missing: |root| Ok(COLON.missing(root)),
    scan: |scan| COLON.scan(scan),
};

pub(super) const ISIC: Layout = Layout {
    name: "isic",
    summary: "ISIC 2016 (ISBI), lesions of the skin, the test part",
    expects: "ISBI2016_ISIC_Part1_Test_Data/NAME.jpg and \
        ISBI2016_ISIC_Part1_Test_GroundTruth/NAME_Segmentation.png; or skin/test/KIND/NAME.jpg and \
        the masks in skin/",
    split: ALL_TEST,
    about: Some(About {
        title: "ISIC 2016",
        licence: "stated on the owners' page; none comes with the files",
        citation: "D. Gutman et al., Skin Lesion Analysis toward Melanoma Detection: A Challenge \
            at the International Symposium on Biomedical Imaging (ISBI) 2016, arXiv:1605.01397",
        obtain: "challenge.isic-archive.com/data/#2016",
        published: Published::Test([0, 379]),
        published_in: "the paper, part 1",
    }),
    missing: |root| Ok(SKIN.missing(root)),
    scan: |scan| SKIN.scan(scan),
};

pub(super) const TN3K: Layout = Layout {
    name: "tn3k",
    summary: "TN3K, nodules of the thyroid in ultrasound, the test part",
    expects: "test-image/* and test-mask/* of the same names",
    split: ALL_TEST,
    about: Some(ABOUT_TN3K),
    missing: |root| Ok(THYROID.missing(root)),
    scan: |scan| THYROID.scan(scan),
};

pub(super) const TN3K_TRAINING: Layout = Layout {
    name: "tn3k-training",
    summary: "TN3K, the training part, to learn from",
    expects: "trainval-image/* and trainval-mask/* of the same names",
    split: "all images are to be learned from, and count as test images",
    about: Some(About {
        title: "TN3K, training part",
        published: Published::Test([0, 2879]),
        ..ABOUT_TN3K
    }),
    missing: |root| Ok(THYROID_TRAINING.missing(root)),
    scan: |scan| THYROID_TRAINING.scan(scan),
};

const ABOUT_TN3K: About = About {
    title: "TN3K",
    licence: "stated on the owners' page; none comes with the files",
    citation: "H. Gong et al., Thyroid Region Prior Guided Attention for Ultrasound Segmentation \
        of Thyroid Nodules, Computers in Biology and Medicine, 2023",
    obtain: "repository haifangong/TRFE-Net-for-thyroid-nodule-segmentation on GitHub",
    published: Published::Test([0, 614]),
    published_in: "the owners' repository",
};

/// What distinguishes one set from another.
struct Set {
    class: &'static str,
    kind: &'static str,
    /// The first that is there counts.
    folders: &'static [Folders],
    /// What the masks' names end in.
    endings: &'static [&'static str],
}

impl Set {
    fn folders(&self, root: &Path) -> Option<Folders> {
        let there =
            |(images, masks): &&Folders| root.join(images).is_dir() && root.join(masks).is_dir();
        self.folders.iter().find(there).copied()
    }

    fn missing(&self, root: &Path) -> Option<String> {
        let all = self.folders.iter();
        let all: Vec<String> = all
            .map(|(images, masks)| format!("{images} and {masks}"))
            .collect();
        let any = self.folders(root).is_some();
        (!any).then(|| format!("{} are missing", all.join(", or ")))
    }

    fn scan(&self, scan: &mut Scan) -> Result<(), Error> {
        let Some((images, masks)) = self.folders(&scan.root) else {
            return Ok(());
        };
        let top = |folder: &'static str| folder.split('/').next().unwrap_or(folder);
        scan.tell_all_but(&[top(images), top(masks)])?;
        // The images, or folders of them called after what they show.
        let kinds = scan.list(images)?.folders;
        if kinds.is_empty() {
            return self.scan_images(scan, images, Some(masks));
        }
        for kind in scan.folders_in(images)? {
            let masks = (!is_normal(&kind)).then_some(masks);
            self.scan_images(scan, &below(images, &kind), masks)?;
        }
        Ok(())
    }

    /// Takes the images of a folder, with their masks unless they are normal.
    fn scan_images(&self, scan: &mut Scan, folder: &str, masks: Option<&str>) -> Result<(), Error> {
        let images = scan.images_in(folder)?;
        let (kind, sources) = match masks {
            None => (GOOD, vec![MaskSource::Empty; images.len()]),
            Some(masks) => {
                let names = scan.images_in(masks)?;
                let files = |folder, names| Files { folder, names };
                let (images, masks) = (files(folder, &images), files(masks, &names));
                let sources = pair_masks(scan, &images, &masks, self.endings, false);
                (self.kind, sources)
            }
        };
        for (image, mask) in images.iter().zip(sources) {
            scan.add(Item {
                image: below(folder, image),
                crop: None,
                class: self.class,
                defect_type: kind,
                split: Split::Test,
                mask,
            });
        }
        Ok(())
    }
}
