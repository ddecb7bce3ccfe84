//! Drawn images: the same for the same seed, and masks that are exact.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anomalens_datasets::{DataRef, DataSet, Label, MaskSource, Split, check};
use anomalens_synthetic::{Defect, Pattern, Random, Spec, Texture};
use anomalens_vision::{Image, Limits, Mask};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// A folder that is removed at the end of the test.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn texture(pattern: Pattern, seed: u32, side: u32) -> Image {
    let texture = Texture::new(pattern, &mut Random::new(&[seed]));
    texture.image(side, &mut Random::new(&[seed, 1])).unwrap()
}

/// The first bytes of the hash of an image.
fn hash(image: &Image) -> String {
    let digest = Sha256::digest(image.as_bytes());
    digest[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Panics unless every pixel outside the mask is as it was, and half of those inside have changed.
fn require_exact(before: &Image, after: &Image, mask: &Mask, name: &str) {
    let pixels = |image: &Image| {
        image
            .as_bytes()
            .chunks(3)
            .map(<[u8]>::to_vec)
            .collect::<Vec<_>>()
    };
    let (before, after) = (pixels(before), pixels(after));
    assert_eq!(before.len(), after.len(), "{name}");
    assert_eq!(before.len(), mask.values().len(), "{name}");
    let mut changed = 0;
    for ((before, after), &inside) in before.iter().zip(&after).zip(mask.values()) {
        assert!(
            inside || before == after,
            "{name}: changed outside the mask"
        );
        changed += usize::from(before != after);
    }
    assert!(mask.any(), "{name}: nothing is drawn");
    assert!(
        2 * changed > mask.count(),
        "{name}: {changed} of {} changed",
        mask.count()
    );
}

#[test]
fn the_same_on_every_machine() {
    let textures: Vec<String> = Pattern::ALL
        .iter()
        .map(|&pattern| format!("{} {}", pattern.name(), hash(&texture(pattern, 5, 64))))
        .collect();
    assert_eq!(textures, TEXTURES);
    let image = texture(Pattern::Weave, 5, 96);
    let defects: Vec<String> = Defect::ALL
        .iter()
        .map(|&defect| {
            let drawn = defect.draw(&image, None, &mut Random::new(&[5])).unwrap();
            format!("{} {} {}", defect.name(), hash(&drawn.0), drawn.1.count())
        })
        .collect();
    assert_eq!(defects, DEFECTS);
}

const TEXTURES: [&str; 13] = [
    "weave 85d422fc",
    "grain 389600a5",
    "wood 84265a8a",
    "brushed 2c6edcb8",
    "plain 680955fc",
    "tiles bac7217c",
    "speckle 197e93db",
    "pebbles 5b0c0caf",
    "print b96d531f",
    "ribs 2207719c",
    "mesh 1521424a",
    "part c2a49fb9",
    "scan b7c977a2",
];
const DEFECTS: [&str; 12] = [
    "scratch d0154b74 150",
    "crack f29d8e39 157",
    "contamination aec982bb 77",
    "stain 2b6fd357 474",
    "discolouration 3692529b 194",
    "paste 37de3185 134",
    "smudge 74e8f4c2 304",
    "hole 2d8f9d75 30",
    "missing c90fe2c6 181",
    "dent 854dc0ae 307",
    "specks 2dde59f4 54",
    "roughness 6a58845e 187",
];

#[test]
fn masks_are_exact_and_of_many_sizes() {
    let donor = texture(Pattern::Speckle, 8, 50);
    for defect in Defect::ALL {
        let mut sizes = Vec::new();
        for seed in 0..26 {
            let pattern = Pattern::ALL[seed as usize % Pattern::ALL.len()];
            let image = texture(pattern, seed, 96);
            let donor = (seed % 2 == 1).then_some(&donor);
            let (after, mask) = defect
                .draw(&image, donor, &mut Random::new(&[seed]))
                .unwrap();
            require_exact(&image, &after, &mask, &format!("{} {seed}", defect.name()));
            sizes.push(mask.count());
        }
        sizes.sort_unstable();
        let (small, large) = (sizes[2], sizes[23]);
        assert!(
            large > 3 * small,
            "{}: {small} to {large} pixels",
            defect.name()
        );
        assert!(large <= 96 * 96 / 3, "{}: {large} pixels", defect.name());
    }
}

#[test]
fn defects_show_on_images_without_structure() {
    for level in [0, 1, 128, 255] {
        for (width, height) in [(1, 1), (1, 40), (3, 2), (64, 48)] {
            let size = width as usize * height as usize;
            let image = Image::new(width, height, vec![level; 3 * size]).unwrap();
            for defect in Defect::ALL {
                let name = format!("{} on {width} x {height} of {level}", defect.name());
                let (after, mask) = defect.draw(&image, None, &mut Random::new(&[3])).unwrap();
                require_exact(&image, &after, &mask, &name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn masks_are_exact_at_any_size(
        width in 1_u32..70, height in 1_u32..70, kind in 0..Defect::ALL.len(), seed: u32,
    ) {
        let bytes = (0..width * height * 3).map(|i| (i.wrapping_mul(seed | 1) >> 7) as u8);
        let image = Image::new(width, height, bytes.collect()).unwrap();
        let defect = Defect::ALL[kind];
        let (after, mask) = defect.draw(&image, None, &mut Random::new(&[seed])).unwrap();
        require_exact(&image, &after, &mask, defect.name());
        let again = defect.draw(&image, None, &mut Random::new(&[seed])).unwrap();
        prop_assert_eq!(again, (after, mask));
    }

    #[test]
    fn specs_never_panic_and_are_read_back(text in "[a-z]{1,9}(,(seed|images|side|train|versions)=[0-9]{1,4}){0,3}") {
        if let Ok(spec) = text.parse::<Spec>() {
            prop_assert_eq!(spec.to_string().parse::<Spec>().unwrap(), spec);
        }
    }
}

#[test]
fn specs_that_are_refused() {
    let cases = [
        ("", "write textures or a folder of normal images"),
        ("textures,seed=x", "seed is a number from 0 to 4294967295"),
        ("textures,side=4", "side is a number from 8 to 4096"),
        (
            "textures,versions=2",
            "there is no setting versions; there are seed, materials, images and side",
        ),
        (
            "good,sed=1",
            "there is no setting sed; there are seed, versions and train",
        ),
    ];
    for (text, reason) in cases {
        let error = text.parse::<Spec>().unwrap_err().to_string();
        assert_eq!(
            error,
            format!("`{text}` describes no synthetic set: {reason}")
        );
    }
    let spec: Spec = "a,b/good,seed=3".parse().unwrap();
    assert_eq!(spec.to_string(), "a,b/good,seed=3,versions=2");
}

/// Opens a folder that was written, which must be without any finding.
fn opened(tree: &Tree, name: &str) -> DataSet {
    let data: DataRef = format!("folder:{}", tree.path(name).display())
        .parse()
        .unwrap();
    let report = check(&data).unwrap();
    assert_eq!(report.findings, [], "{name}");
    DataSet::open(&data).unwrap()
}

#[test]
fn textures_are_written_as_a_data_set() {
    let tree = Tree::new();
    let spec: Spec = "textures,seed=2,materials=4,images=3,side=32"
        .parse()
        .unwrap();
    spec.write(&tree.path("drawn")).unwrap();
    spec.write(&tree.path("again")).unwrap();
    let data = opened(&tree, "drawn");
    assert_eq!(
        data.classes,
        ["brushed-004", "grain-002", "weave-001", "wood-003"]
    );
    let count = |split, label| {
        let samples = data.samples.iter();
        samples
            .filter(|s| s.split == split && s.label == label)
            .count()
    };
    assert_eq!(count(Split::Train, Label::Normal), 12);
    assert_eq!(count(Split::Test, Label::Normal), 12);
    assert_eq!(count(Split::Test, Label::Anomalous), 12);
    let kinds: BTreeSet<&str> = data
        .samples
        .iter()
        .map(|s| s.defect_type.as_str())
        .collect();
    assert_eq!(kinds.len(), 1 + Defect::ALL.len());
    for sample in &data.samples {
        let limits = Limits::default();
        let image = Image::open(&sample.image).unwrap();
        assert_eq!((image.width(), image.height()), (32, 32));
        let again = Image::open(tree.path("again").join(&sample.id)).unwrap();
        assert_eq!(image, again, "{}", sample.id);
        if let MaskSource::File(mask) = &sample.mask {
            assert!(Mask::open(mask, &limits).unwrap().any(), "{}", sample.id);
        }
    }
    let error = spec.write(&tree.path("drawn")).unwrap_err().to_string();
    assert!(
        error.ends_with("exists and is not empty: name a new folder"),
        "{error}"
    );
}

#[test]
fn a_folder_of_normal_images_gets_defects() {
    let tree = Tree::new();
    for i in 0..8 {
        let image = texture(Pattern::ALL[i], 1, 40);
        let name = if i < 2 {
            format!("good/inner/{i}.png")
        } else {
            format!("good/{i}.png")
        };
        tree.file(&name, "");
        image.save_png(tree.path(&name)).unwrap();
    }
    let good = tree.path("good");
    let spec: Spec = format!("{},seed=1,versions=3", good.display())
        .parse()
        .unwrap();
    let fingerprint = spec.fingerprint().unwrap();
    spec.write(&tree.path("drawn")).unwrap();
    let data = opened(&tree, "drawn");
    assert_eq!(data.train_normals("drawn").count(), 2);
    let (good, bad): (Vec<_>, Vec<_>) = data
        .test("drawn")
        .partition(|sample| sample.label == Label::Normal);
    assert_eq!((good.len(), bad.len()), (6, 18));
    for sample in bad {
        // `00003-3-1.png` is a version of `00003-3.png`.
        let name = sample.image.file_stem().unwrap().to_str().unwrap();
        let origin = name.rsplit_once('-').unwrap().0;
        let before = tree.path(&format!("drawn/test/good/{origin}.png"));
        let open = |path| Image::open(path).unwrap();
        let MaskSource::File(mask) = &sample.mask else {
            panic!("{name} has no mask")
        };
        let mask = Mask::open(mask, &Limits::default()).unwrap();
        require_exact(&open(&before), &open(&sample.image), &mask, name);
    }
    // The images count, not only their names.
    texture(Pattern::Scan, 1, 40)
        .save_png(tree.path("good/7.png"))
        .unwrap();
    assert_ne!(spec.fingerprint().unwrap(), fingerprint);

    fs::create_dir(tree.path("none")).unwrap();
    let spec: Spec = tree.path("none").to_str().unwrap().parse().unwrap();
    let error = spec.write(&tree.path("other")).unwrap_err().to_string();
    assert!(error.starts_with("there are no images in "), "{error}");
    assert!(!tree.path("other").exists());
}
