//! The bytes of a file of features, from which it can be known whether they are complete.
//!
//! ```text
//! 8 bytes   ANFEAT02
//! 4 bytes   length of the header, little-endian
//! header    JSON: what the numbers are
//! numbers   little-endian: of each map class token and tokens; then the embedding
//! 16 bytes  the first of the SHA-256 of all before
//! ```

use half::bf16;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{FeatureMap, Grid, ImageFeatures, LayerId};

/// What a file opens with; another number when the format changes.
const MAGIC: &[u8; 8] = b"ANFEAT02";

/// Bytes of the checksum.
const CHECKSUM: usize = 16;

/// How numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Numbers {
    /// As they were computed, in float32.
    F32,
    /// Rounded to bfloat16, in half the space.
    Bf16,
}

#[derive(Serialize, Deserialize)]
struct Header {
    numbers: Numbers,
    maps: Vec<Map>,
    /// Length of the embedding, if there is one.
    embedding: Option<usize>,
}

#[derive(Serialize, Deserialize)]
struct Map {
    layer: LayerId,
    grid: Grid,
    dim: usize,
    class_token: bool,
}

impl Numbers {
    pub(super) fn bytes<'a>(self, values: impl IntoIterator<Item = &'a f32>) -> Vec<u8> {
        let values = values.into_iter();
        match self {
            Self::F32 => values.flat_map(|x| x.to_le_bytes()).collect(),
            Self::Bf16 => values
                .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                .collect(),
        }
    }

    /// The first `count` numbers of `bytes`, which are taken from them.
    fn take(self, bytes: &mut &[u8], count: usize) -> Option<Vec<f32>> {
        let size = match self {
            Self::F32 => size_of::<f32>(),
            Self::Bf16 => size_of::<bf16>(),
        };
        let taken = bytes.split_off(..count.checked_mul(size)?)?;
        Some(match self {
            Self::F32 => {
                let numbers = taken.as_chunks().0.iter();
                numbers.map(|&x| f32::from_le_bytes(x)).collect()
            }
            Self::Bf16 => {
                let numbers = taken.as_chunks().0.iter();
                numbers.map(|&x| bf16::from_le_bytes(x).to_f32()).collect()
            }
        })
    }
}

/// The bytes of a file.
pub(super) fn encode(features: &ImageFeatures, numbers: Numbers) -> serde_json::Result<Vec<u8>> {
    let map = |map: &FeatureMap| Map {
        layer: map.layer,
        grid: map.grid,
        dim: map.dim,
        class_token: map.class_token.is_some(),
    };
    let header = serde_json::to_vec(&Header {
        numbers,
        maps: features.maps.iter().map(map).collect(),
        embedding: features.embedding.as_ref().map(Vec::len),
    })?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header);
    for map in &features.maps {
        bytes.extend(numbers.bytes(map.class_token.iter().flatten()));
        bytes.extend(numbers.bytes(&map.tokens));
    }
    bytes.extend(numbers.bytes(features.embedding.iter().flatten()));
    let checksum = Sha256::digest(&bytes);
    bytes.extend(&checksum[..CHECKSUM]);
    Ok(bytes)
}

/// What [`encode`] was given, rounded to what was kept; none if `bytes` are anything else.
pub(super) fn decode(bytes: &[u8]) -> Option<ImageFeatures> {
    let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if Sha256::digest(content)[..CHECKSUM] != *checksum {
        return None;
    }
    let (length, content) = content.strip_prefix(MAGIC)?.split_first_chunk()?;
    let (header, mut left) = content.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let header: Header = serde_json::from_slice(header).ok()?;
    let mut take = |count: Option<usize>| header.numbers.take(&mut left, count?);
    let map = |map: Map| {
        let class_token = map.class_token.then(|| take(Some(map.dim)));
        Some(FeatureMap {
            layer: map.layer,
            grid: map.grid,
            dim: map.dim,
            class_token: match class_token {
                Some(class_token) => Some(class_token?),
                None => None,
            },
            tokens: {
                let places = map.grid.rows.checked_mul(map.grid.columns);
                take(places.and_then(|places| places.checked_mul(map.dim)))?
            },
        })
    };
    let maps = header.maps.into_iter().map(map).collect::<Option<_>>()?;
    let embedding = match header.embedding {
        Some(length) => Some(take(Some(length))?),
        None => None,
    };
    left.is_empty().then_some(ImageFeatures {
        maps,
        embedding,
        further: vec![],
    })
}
