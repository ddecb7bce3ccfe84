//! Text files as people's tools write them: UTF-8 or UTF-16, with a byte order mark or without.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::Error;

/// Largest list of images, in bytes: COCO's own, of 118,000 images, takes 450 MB.
const MAX_BYTES: u64 = 512 << 20;

/// Reads a text file.
pub(crate) fn read_text(path: &Path) -> Result<String, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| Error::reading(path, source))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::TooLarge {
            path: path.to_owned(),
            limit: MAX_BYTES,
        });
    }
    text_of(bytes).map_err(|line| Error::NotText {
        path: path.to_owned(),
        line,
    })
}

/// Reads a JSON file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    serde_json::from_str(&read_text(path)?).map_err(|error| Error::NoJson {
        path: path.to_owned(),
        error,
    })
}

/// The text that these bytes are, without its byte order mark; or the line, from 1, that is none.
pub(crate) fn text_of(bytes: Vec<u8>) -> Result<String, usize> {
    let units = |word: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes[2..].as_chunks::<2>();
        let units: Vec<u16> = pairs.iter().map(|pair| word(*pair)).collect();
        let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty());
        text.ok_or(1)
    };
    match bytes.as_slice() {
        [0xff, 0xfe, ..] => units(u16::from_le_bytes),
        [0xfe, 0xff, ..] => units(u16::from_be_bytes),
        _ => {
            let mut text = String::from_utf8(bytes).map_err(|error| {
                let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                1 + good.iter().filter(|&&byte| byte == b'\n').count()
            })?;
            if text.starts_with('\u{feff}') {
                text.drain(..'\u{feff}'.len_utf8());
            }
            Ok(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_every_tool() {
        let utf16 = |word: fn(u16) -> [u8; 2], text: &str| {
            let units = text.encode_utf16().flat_map(word);
            units.collect::<Vec<u8>>()
        };
        // name, bytes, text or the line that is none
        let cases: [(&str, Vec<u8>, Result<&str, usize>); 8] = [
            ("UTF-8", "ä\n".into(), Ok("ä\n")),
            ("with a mark", "\u{feff}ä".into(), Ok("ä")),
            ("UTF-16", utf16(u16::to_le_bytes, "\u{feff}ä😀"), Ok("ä😀")),
            (
                "the other way",
                utf16(u16::to_be_bytes, "\u{feff}ä"),
                Ok("ä"),
            ),
            ("half a unit", b"\xff\xfea".into(), Err(1)),
            ("half a pair", b"\xff\xfe\x00\xd8".into(), Err(1)),
            ("Latin 1", b"path\na\nM\xe4dchen".into(), Err(3)),
            ("nothing", vec![], Ok("")),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(
                text_of(bytes).as_deref(),
                expected.as_ref().copied(),
                "{name}"
            );
        }
    }
}
