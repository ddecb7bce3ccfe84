//! Every stage against the steps of the re-implementation on random maps.

use std::sync::LazyLock;

use super::*;
use crate::Choice;
use crate::testing::{Goldens, NoNetwork, flat, near, stages};

static GOLDENS: LazyLock<Goldens> = LazyLock::new(|| Goldens::load("spade_small.safetensors"));

const LAYERS: [&str; 3] = ["layer1", "layer2", "layer3"];

fn features(part: &str) -> Vec<ImageFeatures> {
    let names = [1, 2, 3].map(|stage| (format!("{part}.layer{stage}"), stage));
    let names: Vec<(&str, usize)> = names.iter().map(|(name, i)| (name.as_str(), *i)).collect();
    stages(&GOLDENS, &names)
}

fn detector(literal_chunks: bool) -> SpadeDetector {
    let settings = Settings {
        stages: vec![1, 2, 3],
        image_size: 56,
        crop: Choice::Given(0),
        neighbours: 3,
        literal_chunks,
        ..Settings::defaults(&NoNetwork)
    };
    let images = features("train");
    let mut galleries: Vec<Gallery> = images[0].maps.iter().map(Gallery::new).collect();
    for image in &images {
        let both = galleries.iter_mut().zip(&image.maps);
        both.for_each(|(gallery, map)| gallery.values.extend(&map.tokens));
    }
    SpadeDetector {
        pooled: Vectors::new(GOLDENS.values("train.avgpool"), 24, settings.search).unwrap(),
        checked: Checked::new(settings).unwrap(),
        galleries,
        range: NormalRange::default(),
    }
}

#[test]
fn neighbours_distances_scores_and_maps_are_the_references() {
    let pooled = GOLDENS.values("test.avgpool");
    for (literal_chunks, prefix) in [(false, ""), (true, "literal_chunks.")] {
        let detector = detector(literal_chunks);
        let found = detector.pooled.nearest(&pooled, 3);
        let indices: Vec<usize> = found.iter().map(|near| near.index).collect();
        assert_eq!(indices, GOLDENS.indices("image_topk"));
        let all = detector.pooled.nearest(&pooled, 8);
        let mut distances = vec![0.0; all.len()];
        for (query, nearest) in all.chunks(8).enumerate() {
            for near in nearest {
                distances[8 * query + near.index] = near.squared.sqrt();
            }
        }
        near(
            "image distances",
            &distances,
            &GOLDENS.values("image_distances"),
            1e-5,
        );
        let scores: Vec<f32> = found.chunks(3).map(mean_distance).collect();
        near("image score", &scores, &GOLDENS.values("image_score"), 1e-5);

        for (i, image) in features("test").iter().enumerate() {
            let nearest = &indices[3 * i..][..3];
            let of_image =
                |name: &str| flat(&GOLDENS.get(&format!("{prefix}{name}")).get(i).unwrap());
            for ((gallery, map), layer) in detector.galleries.iter().zip(&image.maps).zip(LAYERS) {
                let found = detector.distances(gallery, &map.tokens, nearest).unwrap();
                let name = format!("pixel_distance.{layer}");
                near(&name, &found, &of_image(&name), 1e-5);
            }
            let layers = image
                .maps
                .iter()
                .map(|map| (map.tokens.as_slice(), map.grid));
            let map = detector.map(&layers.collect::<Vec<_>>(), nearest).unwrap();
            let map = map.smooth(settings::SIGMA).unwrap();
            near("map", map.values(), &of_image("score_map"), 1e-5);
        }
    }
}

#[test]
fn too_much_memory_is_refused() {
    let message = check_memory(1000, 1_404_928, 4096).unwrap_err().to_string();
    assert!(message.contains("need 5620 MB"), "{message}");
    assert!(check_memory(209, 1_404_928, 4096).is_ok());
}
