//! Score maps against PyTorch and SciPy, their statistics, regions and pictures.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use anomalens_vision::{
    Alignment, ColourMap, GeometryError, Image, Map, Mask, draw_contours, heat_map, overlay, sheet,
};
use common::{Goldens, largest_difference};

fn golden_map(goldens: &Goldens, name: &str) -> Map {
    let shape = goldens.shape(name);
    Map::new(shape[0], shape[1], goldens.floats(name)).unwrap()
}

#[test]
fn resizing_equals_pytorch() {
    let goldens = Goldens::open("maps.safetensors");
    let edges = golden_map(&goldens, "edges.in")
        .resize(48, 40, Alignment::Edges)
        .unwrap();
    let expected = goldens.floats("edges.out");
    let largest = expected.iter().copied().fold(0.0, f32::max);
    let difference = largest_difference(edges.values(), &expected);
    assert!(difference < 1e-6 * largest, "{difference} of {largest}");

    // APRIL-GAN's map is the sum of four.
    let mut sum = vec![0.0; 70 * 70];
    for grid in goldens.floats("corners.in").as_chunks::<25>().0 {
        let grid = Map::new(5, 5, grid.to_vec()).unwrap();
        let map = grid.resize(70, 70, Alignment::Corners).unwrap();
        sum.iter_mut()
            .zip(map.values())
            .for_each(|(sum, score)| *sum += score);
    }
    let difference = largest_difference(&sum, &goldens.floats("corners.out"));
    assert!(difference < 2e-6, "{difference}");
}

#[test]
fn smoothing_equals_scipy() {
    let goldens = Goldens::open("maps.safetensors");
    let noise = golden_map(&goldens, "smooth.in");
    for sigma in [1.0, 2.5, 4.0] {
        let smooth = noise.smooth(sigma).unwrap();
        let difference =
            largest_difference(smooth.values(), &goldens.floats(&format!("smooth.{sigma}")));
        assert!(difference < 1e-7, "{sigma}: {difference}");
    }

    let distances = golden_map(&goldens, "edges_smooth.in");
    let map = distances
        .resize(48, 40, Alignment::Edges)
        .unwrap()
        .smooth(4.0)
        .unwrap();
    let expected = goldens.floats("edges_smooth.out");
    let largest = expected.iter().copied().fold(0.0, f32::max);
    let difference = largest_difference(map.values(), &expected);
    assert!(difference < 1e-6 * largest, "{difference} of {largest}");
}

#[test]
fn useless_smoothing_widths_are_errors() {
    let map = Map::new(1, 2, vec![1.0, 2.0]).unwrap();
    assert_eq!(map.smooth(0.0).unwrap(), map);
    for sigma in [-1.0, f64::NAN, f64::INFINITY, 1e9] {
        assert!(
            matches!(map.smooth(sigma), Err(GeometryError::Sigma { .. })),
            "{sigma}"
        );
    }
}

#[test]
fn statistics_skip_nan() {
    let map = |values: &[f32]| Map::new(1, values.len(), values.to_vec()).unwrap();
    let hundred = map(&(0..100).map(|score| score as f32).collect::<Vec<_>>());
    let cases = [
        ("one per cent", &hundred, 0.01, 99.0),
        ("truncated count", &hundred, 0.029, 98.5),
        ("never fewer than one", &hundred, 0.0, 99.0),
        ("negative", &hundred, -1.0, 99.0),
        ("all", &hundred, 1.0, 49.5),
        ("more than all", &hundred, 9.0, 49.5),
        ("with NaN", &map(&[f32::NAN, 1.0, 3.0, f32::NAN]), 1.0, 2.0),
    ];
    for (name, map, fraction, expected) in cases {
        assert_eq!(map.top_mean(fraction), expected, "{name}");
    }
    assert_eq!(map(&[f32::NAN, 2.0, -1.0]).range(), Some((-1.0, 2.0)));
    let unusable = map(&[f32::NAN, f32::NAN]);
    assert_eq!(unusable.range(), None);
    assert!(unusable.top_mean(0.5).is_nan());
}

#[test]
fn nan_does_not_spread_to_values_it_has_no_part_in() {
    let map = Map::new(1, 3, vec![1.0, f32::NAN, 3.0]).unwrap();
    for alignment in [Alignment::Edges, Alignment::Corners] {
        let same = map.resize(1, 3, alignment).unwrap();
        assert_eq!(same.values()[0], 1.0);
        assert!(same.values()[1].is_nan());
        assert_eq!(same.values()[2], 3.0);
    }
}

#[test]
fn impossible_maps_are_errors() {
    let map = Map::new(2, 2, vec![0.0; 4]).unwrap();
    assert!(matches!(
        Map::new(2, 0, vec![]),
        Err(GeometryError::Empty { .. })
    ));
    assert!(matches!(
        Map::new(2, 2, vec![0.0; 3]),
        Err(GeometryError::WrongLength { .. })
    ));
    assert!(matches!(
        map.resize(0, 5, Alignment::Edges),
        Err(GeometryError::Empty { .. })
    ));
    let huge = map.resize(usize::MAX, 5, Alignment::Edges);
    assert!(matches!(huge, Err(GeometryError::TooLarge { .. })));
}

#[test]
fn colours_of_scores() {
    let cases = [
        (ColourMap::Inferno, 0.0, [0, 0, 4]),
        (ColourMap::Inferno, 1.0, [252, 255, 164]),
        (ColourMap::Jet, 0.0, [0, 0, 128]),
        (ColourMap::Jet, 0.5, [128, 255, 128]),
        (ColourMap::Jet, 1.0, [128, 0, 0]),
        (ColourMap::Jet, 7.0, [128, 0, 0]),
        (ColourMap::Jet, f32::NEG_INFINITY, [0, 0, 128]),
        (ColourMap::Inferno, f32::NAN, [128, 128, 128]),
    ];
    for (colours, value, expected) in cases {
        assert_eq!(colours.colour(value), expected, "{colours:?} {value}");
    }
}

#[test]
fn heat_maps_use_the_given_range() {
    let map = Map::new(1, 3, vec![2.0, 3.0, 4.0]).unwrap();
    let picture = |range| heat_map(&map, range, ColourMap::Jet).unwrap();
    let [low, middle, high] = [0.0, 0.5, 1.0].map(|value| ColourMap::Jet.colour(value));
    assert_eq!(picture((2.0, 4.0)).as_bytes(), [low, middle, high].concat());
    assert_eq!(picture((4.0, 6.0)).as_bytes(), [low, low, low].concat());
    assert_eq!(picture((3.0, 3.0)).as_bytes(), [low, low, high].concat());
}

#[test]
fn overlays_blend_at_the_image_size() {
    let image = Image::new(2, 1, vec![100; 6]).unwrap();
    let two = |a: [u8; 3], b: [u8; 3]| [a, b].concat();
    let (grey, red) = ([100; 3], [128, 0, 0]);
    // (name, map, share of the heat map, pixels)
    for (name, map, alpha, expected) in [
        ("image only", vec![1.0], 0.0, two(grey, grey)),
        ("half", vec![1.0], 0.5, two([114, 50, 50], [114, 50, 50])),
        ("heat map only", vec![1.0], 1.0, two(red, red)),
        (
            "nothing is wrong at the left",
            vec![0.0, 1.0],
            1.0,
            two(grey, red),
        ),
        ("far below and above", vec![-9.0, 9.0], 1.0, two(grey, red)),
        ("not seen", vec![f32::NAN, 1.0], 1.0, two(grey, red)),
    ] {
        let map = Map::new(1, map.len(), map).unwrap();
        let blended = overlay(&image, &map, (0.0, 1.0), (0.0, 1.0), ColourMap::Jet, alpha).unwrap();
        assert_eq!(blended.into_bytes(), expected, "{name}");
    }
}

#[test]
fn contours_follow_the_inner_edge() {
    let drawn = |mask: &Mask, thickness| {
        let mut image = Image::new(5, 5, vec![0; 75]).unwrap();
        draw_contours(&mut image, mask, [255, 0, 9], thickness).unwrap();
        let painted = |x, y| {
            if image.pixel(x, y) == Some([255, 0, 9]) {
                '#'
            } else {
                '.'
            }
        };
        (0..5)
            .map(|y| (0..5).map(|x| painted(x, y)).collect::<String>())
            .collect::<Vec<_>>()
    };
    let square = (0..25).map(|at| (1..4).contains(&(at % 5)) && (1..4).contains(&(at / 5)));
    let square = Mask::new(5, 5, square.collect()).unwrap();
    let all = Mask::new(5, 5, vec![true; 25]).unwrap();
    let corner = Mask::new(5, 5, (0..25).map(|at| at == 0).collect()).unwrap();
    assert_eq!(
        drawn(&square, 1),
        [".....", ".###.", ".#.#.", ".###.", "....."]
    );
    assert_eq!(
        drawn(&all, 1),
        ["#####", "#...#", "#...#", "#...#", "#####"]
    );
    assert_eq!(
        drawn(&corner, 2),
        ["##...", "##...", ".....", ".....", "....."]
    );
    assert_eq!(
        drawn(&corner, 3),
        ["##...", "##...", ".....", ".....", "....."]
    );
    assert_eq!(drawn(&corner, u32::MAX), ["#####"; 5]);

    let mut other = Image::new(4, 5, vec![0; 60]).unwrap();
    let error = draw_contours(&mut other, &square, [0; 3], 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the mask is 5 x 5 but must be 4 x 5; resize it first"
    );
}

#[test]
fn sheets_have_one_height() {
    let red = Image::new(2, 4, [200, 0, 0].repeat(8)).unwrap();
    let blue = Image::new(6, 2, [0, 0, 200].repeat(12)).unwrap();
    let both = sheet(&[&red, &blue]).unwrap();
    assert_eq!((both.width(), both.height()), (2 + 4 + 12, 4));
    let row: Vec<_> = (0..18).filter_map(|x| both.pixel(x, 3)).collect();
    assert_eq!(row[..2], [[200, 0, 0]; 2]);
    assert_eq!(row[2..6], [[255; 3]; 4]);
    assert_eq!(row[6..], [[0, 0, 200]; 12]);
    assert!(matches!(sheet(&[]), Err(GeometryError::Empty { .. })));
}
