//! Every stage against anomalib's and the authors' code on random maps. The random parts of the references
//! are stored: a projection, and the first row of each coreset.

use std::sync::LazyLock;

use anomalens_vision::{Alignment, Map};

use super::*;
use crate::Choice;
use crate::testing::{Goldens, NoNetwork, near, stages};

static GOLDENS: LazyLock<Goldens> = LazyLock::new(|| Goldens::load("patchcore_small.safetensors"));

const WIDTH: usize = 40;
const GRID: Grid = Grid {
    rows: 10,
    columns: 8,
};
const PATCHES: usize = 80;

fn anomalib() -> Settings {
    Settings {
        stages: vec![2, 3],
        crop: Choice::Given(0),
        ..Settings::defaults(&NoNetwork, Variant::Anomalib)
    }
}

/// A detector whose bank is the coreset that begins with the first row.
fn detector(settings: Settings) -> PatchCoreDetector {
    let rows = GOLDENS.values("train_embedding");
    let taken = GOLDENS.indices("coreset.start0.indices").into_iter();
    let bank = taken.flat_map(|row| rows[row * WIDTH..][..WIDTH].to_vec());
    PatchCoreDetector {
        bank: Vectors::new(bank.collect(), WIDTH, settings.search).unwrap(),
        widths: widths(),
        checked: Checked::new(settings).unwrap(),
        range: NormalRange::default(),
    }
}

/// Channels of both layers.
fn widths() -> Vec<usize> {
    let layers = ["train.layer2", "train.layer3"];
    layers.map(|layer| GOLDENS.get(layer).dims()[1]).to_vec()
}

#[test]
fn patches_are_anomalibs() {
    for part in ["train", "test"] {
        let names = [2, 3].map(|stage| (format!("{part}.layer{stage}"), stage));
        let names: Vec<(&str, usize)> = names.iter().map(|(name, i)| (name.as_str(), *i)).collect();
        let layers = anomalib().profile().unwrap().input.request.layers;
        let found = stages(&GOLDENS, &names).into_iter().flat_map(|image| {
            let (patches, grid) = embedding(&cells(&image, &layers).unwrap(), &anomalib());
            assert_eq!(grid, GRID);
            patches
        });
        let name = format!("{part}_embedding");
        let found: Vec<f32> = found.collect();
        near(&name, &found, &GOLDENS.values(&name), 2e-6);
    }
}

#[test]
fn coresets_are_the_references() {
    let rows = GOLDENS.values("train_embedding");
    let projected = GOLDENS.values("coreset.projected.features");
    for (name, rows, width, start) in [
        ("projected", &projected, 152, Start::Row(398)),
        ("plain", &rows, WIDTH, Start::Row(250)),
        ("start0", &rows, WIDTH, Start::Row(0)),
        ("amazon", &rows, WIDTH, Start::Norms),
    ] {
        let expected = GOLDENS.indices(&format!("coreset.{name}.indices"));
        let found = greedy(rows, width, expected.len(), &start);
        assert_eq!(found, expected, "{name}");
    }
    let projection = GOLDENS.get("coreset.projected.matrix").t().unwrap();
    let numbers = crate::testing::flat(&projection.contiguous().unwrap());
    let projection = Projection::given(numbers, 152).unwrap();
    let found = projection.apply(&rows).unwrap();
    near("projected rows", &found, &projected, 1e-5);
    assert_eq!(enough_numbers(rows.len() / WIDTH), 152);
}

#[test]
fn distances_scores_and_maps_are_the_references() {
    let patches = GOLDENS.values("test_embedding");
    let detector = detector(anomalib());
    let nine = detector.bank.nearest(&patches, 9);
    let found: Vec<usize> = nine.iter().map(|near| near.index).collect();
    assert_eq!(found, GOLDENS.indices("knn9_locations"));
    let found = scores(&nine, Variant::Anomalib);
    near("distances", &found, &GOLDENS.values("knn9_distances"), 1e-5);

    let nearest = detector.bank.nearest(&patches, 1);
    let found: Vec<usize> = nearest.iter().map(|near| near.index).collect();
    assert_eq!(found, GOLDENS.indices("locations"));
    let expected = GOLDENS.values("patch_scores");
    near(
        "patch scores",
        &scores(&nearest, Variant::Anomalib),
        &expected,
        1e-5,
    );
    let squares: Vec<f32> = expected.iter().map(|x| x * x).collect();
    let found = scores(&nearest, Variant::Original);
    near("squares", &found, &squares, 3e-4); // of up to 200

    let one = |setting: usize| PatchCoreDetector {
        widths: widths(),
        bank: Vectors::new(
            detector.bank.array().values,
            WIDTH,
            detector.checked.settings.search,
        )
        .unwrap(),
        checked: Checked::new(Settings {
            neighbours: setting,
            ..anomalib()
        })
        .unwrap(),
        range: NormalRange::default(),
    };
    let images = || patches.chunks(PATCHES * WIDTH).zip(nearest.chunks(PATCHES));
    for (neighbours, name) in [(9, "pred_score"), (1, "pred_score_k1")] {
        let detector = one(neighbours);
        let found = images().map(|(patches, nearest)| detector.image_score(patches, nearest));
        near(
            name,
            &found.collect::<Vec<_>>(),
            &GOLDENS.values(name),
            1e-5,
        );
    }
    let highest = GOLDENS.indices("max_patch");
    let weights = images()
        .zip(&highest)
        .map(|((patches, nearest), &highest)| {
            let patch = &patches[highest * WIDTH..][..WIDTH];
            detector.weight(patch, nearest[highest].index, 9)
        });
    let (weights, support): (Vec<f32>, Vec<Vec<usize>>) = weights.unzip();
    near("weights", &weights, &GOLDENS.values("weights"), 1e-5);
    assert_eq!(support.concat(), GOLDENS.indices("support"));

    for (i, (_, nearest)) in images().enumerate() {
        let map = Map::new(GRID.rows, GRID.columns, scores(nearest, Variant::Anomalib)).unwrap();
        let of_image = |name: &str| crate::testing::flat(&GOLDENS.get(name).get(i).unwrap());
        let large = map.resize_nearest(40, 32).unwrap();
        near("enlarged", large.values(), &of_image("upsampled"), 1e-5);
        let found = enlarged(&map, 40, 32).unwrap();
        near(
            "anomalib's map",
            found.values(),
            &of_image("anomaly_map"),
            5e-5,
        );
        let found = map.resize(40, 32, Alignment::Edges).unwrap();
        let found = found.smooth(settings::SIGMA).unwrap();
        near(
            "the original's map",
            found.values(),
            &of_image("amazon.score_map"),
            5e-5,
        );
    }
}
