//! The bytes of a file of features, which tell whether they are whole.

use sha2::{Digest, Sha256};

use crate::{BlockTokens, FeatureRequest, Grid, ImageFeatures};

/// What a file opens with; another number when the format changes.
const MAGIC: &[u8; 8] = b"ANFEAT01";

/// Bytes of a file beside its numbers: magic, four sizes, checksum.
const FRAME: usize = MAGIC.len() + 4 * size_of::<u32>() + CHECKSUM;

/// Bytes of the SHA-256 over all before it that a file ends with.
const CHECKSUM: usize = 16;

pub(super) fn le_bytes(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// The bytes of a file: magic, rows, columns, width of a token, width of the embedding, numbers,
/// checksum.
pub(super) fn encode(features: &ImageFeatures) -> Vec<u8> {
    let width = features
        .blocks
        .first()
        .map_or(0, |tokens| tokens.class_token.len());
    let embedding = features.embedding.as_deref().unwrap_or_default();
    let Grid { rows, columns } = features.grid;
    let mut bytes = MAGIC.to_vec();
    for size in [rows, columns, width, embedding.len()] {
        bytes.extend((size as u32).to_le_bytes());
    }
    for tokens in &features.blocks {
        bytes.extend(le_bytes(tokens.class_token.iter().copied()));
        bytes.extend(le_bytes(tokens.patch_tokens.iter().copied()));
    }
    bytes.extend(le_bytes(embedding.iter().copied()));
    let checksum = Sha256::digest(&bytes);
    bytes.extend(&checksum[..CHECKSUM]);
    bytes
}

/// What [`encode`] made of the features that `request` asks for; none if it is anything else.
pub(super) fn decode(bytes: &[u8], request: &FeatureRequest) -> Option<ImageFeatures> {
    let (content, checksum) = bytes.split_at_checked(bytes.len().checked_sub(CHECKSUM)?)?;
    if Sha256::digest(content)[..CHECKSUM] != *checksum {
        return None;
    }
    let content = content.strip_prefix(MAGIC.as_slice())?;
    let (sizes, numbers) = content.split_at_checked(4 * size_of::<u32>())?;
    let mut sizes = sizes.as_chunks::<4>().0.iter();
    let mut size = || Some(u32::from_le_bytes(*sizes.next()?) as usize);
    let (rows, columns, width, embedding) = (size()?, size()?, size()?, size()?);
    let (grid, blocks) = (Grid { rows, columns }, &request.blocks);
    let expected = blocks.len() * width * (1 + grid.len()) + embedding;
    if bytes.len() != FRAME + expected * size_of::<f32>()
        || (embedding > 0) != request.embedding.is_some()
    {
        return None;
    }
    let mut values = numbers
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes));
    let mut take = |count: usize| values.by_ref().take(count).collect::<Vec<f32>>();
    Some(ImageFeatures {
        grid,
        blocks: blocks
            .iter()
            .map(|&block| BlockTokens {
                block,
                class_token: take(width),
                patch_tokens: take(grid.len() * width),
            })
            .collect(),
        embedding: (embedding > 0).then(|| take(embedding)),
    })
}
