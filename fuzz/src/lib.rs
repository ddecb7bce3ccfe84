//! Every parser of outside input as one function of bytes, for cargo-fuzz and for the seeded
//! mutations of `tests/mutations.rs`.
//!
//! ```text
//! images.rs     images and masks
//! weights.rs    weight files of all formats, packed networks, the feature cache
//! detectors.rs  detector files, published checkpoints, settings
//! lists.rs      manifests, COCO, meta.json, lists of shots, results
//! encoder.rs    an encoder without weights
//! mutate.rs     an input changed by a seed
//! repair.rs     checksums and lengths put right, so that a change gets past them
//! ```
//!
//! A function returns whether the bytes were accepted. It must neither panic nor take more memory or
//! time than its input justifies, whatever the bytes are.
#![allow(clippy::expect_used, clippy::unwrap_used)] // What fails here is the harness itself.

mod detectors;
mod encoder;
mod images;
mod lists;
mod mutate;
mod repair;
mod weights;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// A parser of outside input.
pub struct Target {
    /// Its name: that of its file in `fuzz_targets/` and of its folder in `corpus/`.
    pub name: &'static str,
    /// Parses the bytes; whether they were accepted.
    pub parse: fn(&[u8]) -> bool,
    /// Inputs that are accepted.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Puts checksums and lengths right after a change.
    pub repair: fn(&mut [u8]),
}

/// Every target.
pub const TARGETS: [Target; 25] = [
    Target {
        name: "image",
        parse: images::image,
        seeds: images::seeds,
        repair: repair::png,
    },
    Target {
        name: "mask",
        parse: images::mask,
        seeds: images::seeds,
        repair: repair::png,
    },
    Target {
        name: "safetensors",
        parse: weights::checkpoint,
        seeds: weights::safetensors,
        repair: repair::safetensors,
    },
    Target {
        name: "archive",
        parse: weights::checkpoint,
        seeds: weights::archives,
        repair: repair::zip,
    },
    Target {
        name: "pickle",
        parse: weights::pickle,
        seeds: weights::pickles,
        repair: repair::nothing,
    },
    Target {
        name: "onnx",
        parse: weights::checkpoint,
        seeds: weights::onnx,
        repair: repair::nothing,
    },
    Target {
        name: "packed",
        parse: weights::packed,
        seeds: weights::packed_files,
        repair: repair::packed,
    },
    Target {
        name: "feature_cache",
        parse: weights::cached_features,
        seeds: weights::cache_files,
        repair: repair::cached_features,
    },
    Target {
        name: "detector",
        parse: detectors::detector,
        seeds: detectors::files,
        repair: repair::detector,
    },
    Target {
        name: "anomalyclip",
        parse: detectors::anomalyclip,
        seeds: detectors::prompts,
        repair: repair::zip,
    },
    Target {
        name: "inctrl",
        parse: detectors::inctrl,
        seeds: detectors::heads,
        repair: repair::zip,
    },
    Target {
        name: "acr",
        parse: detectors::acr,
        seeds: detectors::networks,
        repair: repair::zip,
    },
    Target {
        name: "regad",
        parse: detectors::regad,
        seeds: detectors::registrations,
        repair: repair::zip,
    },
    Target {
        name: "april_gan",
        parse: detectors::april_gan,
        seeds: detectors::linear_layers,
        repair: repair::zip,
    },
    Target {
        name: "zoc",
        parse: detectors::zoc,
        seeds: detectors::decoders,
        repair: repair::zip,
    },
    Target {
        name: "vocabulary",
        parse: detectors::vocabulary,
        seeds: detectors::vocabularies,
        repair: repair::nothing,
    },
    Target {
        name: "coop",
        parse: detectors::coop,
        seeds: detectors::contexts,
        repair: repair::zip,
    },
    Target {
        name: "denseclip",
        parse: detectors::denseclip,
        seeds: detectors::context_decoders,
        repair: repair::zip,
    },
    Target {
        name: "method_settings",
        parse: detectors::settings,
        seeds: detectors::some_settings,
        repair: repair::nothing,
    },
    Target {
        name: "data_ref",
        parse: lists::data_ref,
        seeds: lists::data_refs,
        repair: repair::nothing,
    },
    Target {
        name: "manifest",
        parse: lists::manifest,
        seeds: lists::manifests,
        repair: repair::nothing,
    },
    Target {
        name: "coco",
        parse: lists::coco,
        seeds: lists::coco_files,
        repair: repair::nothing,
    },
    Target {
        name: "meta",
        parse: lists::meta,
        seeds: lists::meta_files,
        repair: repair::nothing,
    },
    Target {
        name: "shots",
        parse: lists::shots,
        seeds: lists::shot_lists,
        repair: repair::nothing,
    },
    Target {
        name: "results",
        parse: lists::results,
        seeds: lists::result_lists,
        repair: repair::nothing,
    },
];

/// The target `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// What a target starts from.
pub struct Inputs {
    all: Vec<Vec<u8>>,
    /// Those that are cheap enough to be changed thousands of times.
    small: Vec<Vec<u8>>,
}

impl Target {
    /// Its seeds and its corpus: everything that ever failed, by the name of the file. Files that end
    /// in `.gz` are compressed.
    pub fn inputs(&self) -> Inputs {
        const SMALL: usize = 1 << 18;
        let all: Vec<Vec<u8>> = (self.seeds)().into_iter().chain(self.corpus()).collect();
        let small = all.iter().filter(|input| input.len() <= SMALL);
        Inputs {
            small: small.cloned().collect(),
            all,
        }
    }

    fn corpus(&self) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let entries = fs::read_dir(folder.join(self.name)).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let read = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap();
            if path.extension().is_none_or(|ending| ending != "gz") {
                return bytes;
            }
            let mut content = Vec::new();
            GzDecoder::new(&bytes[..])
                .read_to_end(&mut content)
                .unwrap();
            content
        };
        paths.iter().map(read).collect()
    }

    /// Input number `seed`: one of `inputs` while they last, then mutations of them. Of every four
    /// of these, one is not repaired.
    pub fn input(&self, inputs: &Inputs, seed: u64) -> Vec<u8> {
        let as_it_is = usize::try_from(seed).ok();
        if let Some(input) = as_it_is.and_then(|seed| inputs.all.get(seed)) {
            return input.clone();
        }
        let mut bytes = mutate::mutation(&inputs.small, seed);
        if !seed.is_multiple_of(4) {
            (self.repair)(&mut bytes);
        }
        bytes
    }
}

impl Inputs {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.all.len() as u64
    }
}

/// Gives `read` a file called `name` with this content.
fn in_file<T>(name: &str, bytes: &[u8], read: impl FnOnce(&Path) -> T) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    read(&path)
}

/// The entry point of a program of cargo-fuzz for the target of this name.
#[cfg(feature = "libfuzzer")]
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        ::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
            let target = $crate::target($name).expect("a known target");
            (target.parse)(bytes);
            // And with the checksums that libFuzzer cannot guess.
            let mut repaired = bytes.to_vec();
            (target.repair)(&mut repaired);
            (target.parse)(&repaired);
        });
    };
}
