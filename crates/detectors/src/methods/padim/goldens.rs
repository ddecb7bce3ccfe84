//! Every stage against anomalib's code and the repository that most papers use, on random maps. Channels of
//! the golden were drawn by PyTorch and are given here.

use std::sync::LazyLock;

use super::*;
use crate::components::layers::layers;
use crate::testing::{Goldens, NoNetwork, flat, near, stages};

static GOLDENS: LazyLock<Goldens> = LazyLock::new(|| Goldens::load("padim_small.safetensors"));

const WIDTH: usize = 20;
const PLACES: usize = 120;

fn channels() -> Channels {
    Channels {
        taken: GOLDENS.indices("idx"),
        total: 36,
    }
}

/// The tokens of each image, `[images, places, channels]`.
fn tokens(part: &str) -> Vec<Vec<f32>> {
    let names = [1, 2, 3].map(|stage| (format!("{part}.layer{stage}"), stage));
    let names: Vec<(&str, usize)> = names.iter().map(|(name, i)| (name.as_str(), *i)).collect();
    let layers = layers(NAME, &[], &[1, 2, 3]).unwrap();
    let images = stages(&GOLDENS, &names).into_iter();
    let tokens = images.map(|image| channels().take(&cells(&image, &layers).unwrap()).unwrap().0);
    tokens.collect()
}

/// A golden `[images, channels, rows, columns]` or `[channels, places]`, channels last.
fn channels_last(name: &str) -> Vec<f32> {
    let golden = GOLDENS.get(name);
    let moved = match golden.dims().len() {
        4 => golden.permute((0, 2, 3, 1)),
        _ => golden.t(),
    };
    flat(&moved.unwrap().contiguous().unwrap())
}

fn moments() -> Moments {
    let mut moments = Moments::new(PLACES, WIDTH);
    tokens("train").iter().for_each(|image| moments.add(image));
    moments
}

fn regularisation(variant: Variant) -> f64 {
    Settings::defaults(&NoNetwork, variant).regularisation
}

#[test]
fn features_and_distributions_are_anomalibs() {
    for part in ["train", "test"] {
        let name = format!("{part}_embedding");
        near(&name, &tokens(part).concat(), &channels_last(&name), 0.0);
    }
    let (means, covariances) = moments().covariances();
    near("mean", &means, &channels_last("mean"), 1e-5);
    near(
        "covariance",
        &covariances,
        &GOLDENS.values("covariance"),
        1e-5,
    );
    let gaussians = moments()
        .factorised(regularisation(Variant::Anomalib))
        .unwrap();
    // Entries of the inverse from distances of the axes: (a + b)^2 = a^2 + 2ab + b^2.
    let squared = |axes: &[usize]| {
        let moved = gaussians.means.chunks(WIDTH).flat_map(|mean| {
            let mut mean = mean.to_vec();
            axes.iter().for_each(|&axis| mean[axis] += 1.0);
            mean
        });
        gaussians.squared_distances(&moved.collect::<Vec<f32>>())
    };
    let expected = GOLDENS.values("inv_covariance");
    for (row, column) in [(0, 0), (7, 7), (19, 19), (3, 11), (18, 2)] {
        let found: Vec<f32> = match row == column {
            true => squared(&[row]),
            false => {
                let (both, a, b) = (squared(&[row, column]), squared(&[row]), squared(&[column]));
                (0..PLACES).map(|i| (both[i] - a[i] - b[i]) / 2.0).collect()
            }
        };
        let entries = expected
            .chunks(WIDTH * WIDTH)
            .map(|all| all[row * WIDTH + column]);
        let expected: Vec<f32> = entries.collect();
        near("inverse", &found, &expected, 3e-3);
    }
}

#[test]
fn distances_maps_and_scores_are_the_references() {
    for (variant, distance, map, score) in [
        (
            Variant::Anomalib,
            "distance",
            "anomaly_map",
            Some("pred_score"),
        ),
        (Variant::Original, "orig.distance", "orig.score_map", None),
    ] {
        let gaussians = moments().factorised(regularisation(variant)).unwrap();
        let (mut distances, mut maps, mut scores) = (vec![], vec![], vec![]);
        for image in tokens("test") {
            let squared = gaussians.squared_distances(&image);
            let found: Vec<f32> = squared.into_iter().map(f32::sqrt).collect();
            let small = Map::new(12, 10, found.clone()).unwrap();
            let large = smoothed(&small, 48, 40, variant).unwrap();
            scores.push(large.range().unwrap().1);
            maps.extend(large.into_values());
            distances.extend(found);
        }
        near(distance, &distances, &GOLDENS.values(distance), 1e-3);
        near(map, &maps, &GOLDENS.values(map), 1e-3);
        if let Some(score) = score {
            near(score, &scores, &GOLDENS.values(score), 1e-3);
            continue;
        }
        // The original scales maps by the lowest and highest value of all.
        let (lowest, highest) = Map::new(1, maps.len(), maps.clone())
            .unwrap()
            .range()
            .unwrap();
        let scaled = |x: &f32| (x - lowest) / (highest - lowest);
        let maps: Vec<f32> = maps.iter().map(scaled).collect();
        let scores: Vec<f32> = scores.iter().map(scaled).collect();
        near("scaled", &maps, &GOLDENS.values("orig.normalised"), 1e-4);
        near("scores", &scores, &GOLDENS.values("orig.image_score"), 1e-4);
    }
}

#[test]
fn an_image_left_out_is_as_far_as_from_the_others() {
    let all = tokens("train");
    let mut others = Moments::new(PLACES, WIDTH);
    all[1..].iter().for_each(|image| others.add(image));
    let expected = others.factorised(0.01).unwrap().squared_distances(&all[0]);
    let found = moments()
        .factorised(0.01)
        .unwrap()
        .squared_distances(&all[0]);
    for (found, expected) in found.into_iter().zip(expected) {
        let ratio = left_out(found, all.len()) / expected.sqrt();
        assert!((0.9..1.1).contains(&ratio), "{ratio}"); // 1 / 11 and 1 / 10 are taken for equal
    }
}

#[test]
fn too_much_memory_is_refused() {
    let message = check_memory(3136, 550, 1000).unwrap_err().to_string();
    assert!(message.contains("need 1901 MB"), "{message}");
    assert!(check_memory(3136, 550, 2048).is_ok());
}
