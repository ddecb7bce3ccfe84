//! Networks as bytes, for the same processor and for others.

use anomalens_kernels::{
    Embedding, Engine, FeatureMap, FeatureRequest, Precision, SharedBytes, TokenStage, Vit,
    VitSizes,
};

use crate::network::{
    BLOCKS, EMBEDDING, Network, Rows, SIZE, WIDTH, compare, config, images_of, numbers,
};

#[test]
fn saved_networks_encode_as_those_they_were_saved_from() {
    let network = Network::new();
    let images = numbers(3 * SIZE.0 * SIZE.1, 92, 1.0);
    let request = FeatureRequest {
        embedding: Some(Embedding::Normed),
        ..FeatureRequest::blocks([2, BLOCKS]).at(TokenStage::Projected)
    };
    let sizes = VitSizes {
        width: WIDTH,
        blocks: BLOCKS,
        norm: true,
        projection: true,
    };
    for (from, precision) in engines_and_precisions() {
        let vit = network.packed(from, precision);
        let expected = vit.encode(&images_of(&images), &network.positions, &request);
        let expected = expected.unwrap();
        let mut bytes = vec![];
        vit.write(&mut bytes).unwrap();
        let aligned = SharedBytes::read(&bytes[..], bytes.len()).unwrap();
        // Somewhere in the program, on no cache line.
        let mut odd = vec![0; 4];
        odd.extend_from_slice(&bytes);
        let odd = SharedBytes::from_static(odd.leak());
        for (to, at, bytes) in Engine::all()
            .into_iter()
            .flat_map(|to| [(to, 0, &aligned), (to, 4, &odd)])
        {
            let name = format!("{precision} from {from:?} to {to:?}");
            let read = Vit::read(to, precision, config(), sizes, bytes, at).unwrap();
            let found = read.encode(&images_of(&images), &network.positions, &request);
            let found = found.unwrap();
            if from == to {
                assert_eq!(found, expected, "{name}");
            }
            let pairs = found[0].maps.iter().zip(&expected[0].maps);
            for (found, expected) in pairs {
                let rows = |map: &FeatureMap| -> Rows {
                    let rows = map.tokens.chunks(EMBEDDING);
                    rows.map(|row| row.iter().map(|&x| f64::from(x)).collect())
                        .collect()
                };
                let (cosine, _) = compare(&found.tokens, &rows(expected));
                assert!(cosine > 0.995, "{name}: {cosine}");
            }
        }
        // A part of the file is no network, nor is another network's.
        let cut = SharedBytes::read(&bytes[..], bytes.len() / 2).unwrap();
        let other = VitSizes {
            width: 2 * WIDTH,
            ..sizes
        };
        for (bytes, sizes) in [(&cut, sizes), (&aligned, other)] {
            assert!(Vit::read(from, precision, config(), sizes, bytes, 0).is_err());
        }
    }
}

fn engines_and_precisions() -> impl Iterator<Item = (Engine, Precision)> {
    let engines = Engine::all().into_iter();
    engines.flat_map(|engine| Precision::ALL.map(|precision| (engine, precision)))
}

#[test]
fn bytes_that_are_not_there_are_an_error() {
    for (there, length) in [(3, 4), (0, 1), (5, usize::MAX), (5, usize::MAX / 2)] {
        let bytes = vec![7; there];
        assert!(SharedBytes::read(&bytes[..], length).is_err(), "{length}");
    }
    for length in [0, 1, 64, 1000] {
        let bytes = vec![7; 1000];
        let shared = SharedBytes::read(&bytes[..], length).unwrap();
        assert_eq!(shared[..], bytes[..length]);
        assert!(shared.as_ptr().addr().is_multiple_of(64) || length == 0);
    }
}
