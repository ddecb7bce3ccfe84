//! Checksums and lengths put right after a change, as far as the bytes still have a structure: else
//! almost every mutation would be refused at the door.

use flate2::Crc;
use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde::de::IgnoredAny;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// For formats without checksums.
pub(crate) fn nothing(_: &mut [u8]) {}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The checksum of every chunk of a PNG.
pub(crate) fn png(bytes: &mut [u8]) {
    const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
    if !bytes.starts_with(SIGNATURE) {
        return;
    }
    let mut at = SIGNATURE.len();
    while let Some(&length) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        // Length, name, content, checksum.
        let content = at + 4..(at + 8).saturating_add(u32::from_be_bytes(length) as usize);
        let end = content.end;
        let Some(sum) = bytes.get(content).map(crc) else {
            return;
        };
        let Some(place) = bytes.get_mut(end..end + 4) else {
            return;
        };
        place.copy_from_slice(&sum.to_be_bytes());
        at = end + 4;
    }
}

/// The checksums of the members of a zip archive that are stored as they are.
pub(crate) fn zip(bytes: &mut [u8]) {
    let u16_at = |bytes: &[u8], at: usize| {
        let chunk = bytes.get(at..).and_then(<[u8]>::first_chunk);
        chunk.map(|&chunk| usize::from(u16::from_le_bytes(chunk)))
    };
    let u32_at = |bytes: &[u8], at: usize| {
        let chunk = bytes.get(at..).and_then(<[u8]>::first_chunk);
        chunk.map(|&chunk| u32::from_le_bytes(chunk) as usize)
    };
    let entries: Vec<usize> = bytes
        .windows(4)
        .enumerate()
        .filter(|(_, window)| *window == b"PK\x01\x02")
        .map(|(at, _)| at)
        .collect();
    for entry in entries {
        let place = || {
            let is_stored = u16_at(bytes, entry + 10)? == 0;
            let (size, local) = (u32_at(bytes, entry + 20)?, u32_at(bytes, entry + 42)?);
            let (name, extra) = (u16_at(bytes, local + 26)?, u16_at(bytes, local + 28)?);
            let start = local + 30 + name + extra;
            let sum = crc(bytes.get(start..start.checked_add(size)?)?);
            // With a descriptor behind the content the local header has no checksum.
            let has_descriptor = u16_at(bytes, local + 6)? & 8 != 0;
            let first = if has_descriptor {
                entry + 16
            } else {
                local + 14
            };
            is_stored.then_some((first, sum))
        };
        let Some((local, sum)) = place() else {
            continue;
        };
        for at in [local, entry + 16] {
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&sum.to_le_bytes());
            }
        }
    }
}

/// The length of the header.
pub(crate) fn safetensors(bytes: &mut [u8]) {
    let Some(rest) = bytes.get(8..) else {
        return;
    };
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
    if let Some(Ok(_)) = values.next() {
        let end = values.byte_offset();
        let spaces = rest[end..].iter().take_while(|byte| **byte == b' ').count();
        let length = ((end + spaces) as u64).to_le_bytes();
        bytes[..8].copy_from_slice(&length);
    }
}

/// The length of the header and the fingerprint of the tensors in it.
pub(crate) fn detector(bytes: &mut [u8]) {
    safetensors(bytes);
    const KEY: &[u8] = br#"tensors_sha256\":\""#;
    let Some(fingerprint) = fingerprint(bytes) else {
        return;
    };
    let place = bytes.windows(KEY.len()).position(|window| window == KEY);
    let place = place.map(|at| at + KEY.len());
    if let Some(place) = place.and_then(|at| bytes.get_mut(at..at + fingerprint.len())) {
        place.copy_from_slice(fingerprint.as_bytes());
    }
}

/// SHA-256 over names, shapes and values, as `DetectorFile` makes it.
fn fingerprint(bytes: &[u8]) -> Option<String> {
    let file = SafeTensors::deserialize(bytes).ok()?;
    let mut tensors: Vec<_> = file.iter().collect();
    tensors.sort_by_key(|(name, _)| *name);
    let mut hash = Sha256::new();
    for (name, view) in tensors {
        hash.update(format!("{name} {:?}\n", view.shape()));
        match view.dtype() {
            Dtype::F16 => {
                let (halves, _) = view.data().as_chunks::<2>();
                let values = halves.iter().map(|&half| f16::from_le_bytes(half).to_f32());
                values.for_each(|value| hash.update(value.to_le_bytes()));
            }
            _ => hash.update(view.data()),
        }
    }
    Some(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The length of the header of packed weights and the digest of what follows: the SHA-256 of the
/// SHA-256s of chunks of 4 MiB, larger than any input here.
pub(crate) fn packed(bytes: &mut [u8]) {
    const START: usize = 48;
    let Some(rest) = bytes.get(START..) else {
        return;
    };
    let digest = Sha256::digest(Sha256::digest(rest));
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
    let header = match values.next() {
        Some(Ok(_)) => Some(values.byte_offset() as u32),
        _ => None,
    };
    if let Some(length) = header {
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
    }
    bytes[16..START].copy_from_slice(&digest);
}

/// The length of the header of a file of features, and the checksum at its end.
pub(crate) fn cached_features(bytes: &mut [u8]) {
    const CHECKSUM: usize = 16;
    const HEADER: usize = 12;
    if let Some(rest) = bytes.get(HEADER..) {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        if let Some(Ok(_)) = values.next() {
            let length = (values.byte_offset() as u32).to_le_bytes();
            bytes[8..HEADER].copy_from_slice(&length);
        }
    }
    let Some(end) = bytes.len().checked_sub(CHECKSUM) else {
        return;
    };
    let (content, checksum) = bytes.split_at_mut(end);
    checksum.copy_from_slice(&Sha256::digest(content)[..CHECKSUM]);
}
