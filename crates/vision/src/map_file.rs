//! Maps as files of floats: NumPy's `.npy`, and TIFF with one float32 channel.

use std::io::Cursor;

use tiff::encoder::{TiffEncoder, colortype};

use crate::error::ImageError;
use crate::map::Map;

/// Length of the header's magic, version and length field, in bytes; the header is a multiple of 64.
const NPY_PREFIX: usize = 10;

impl Map {
    /// The scores as a file of NumPy's format 1.0: little-endian float32, `[rows, columns]`.
    pub fn to_npy(&self) -> Vec<u8> {
        let shape = (self.rows(), self.columns());
        let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape:?}, }}");
        let length = (NPY_PREFIX + header.len() + 1).next_multiple_of(64) - NPY_PREFIX;
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        // Two numbers and a few words: far below the 65,535 bytes that the format allows.
        bytes.extend((length as u16).to_le_bytes());
        bytes.extend(format!("{header:<width$}\n", width = length - 1).bytes());
        bytes.extend(self.values().iter().flat_map(|value| value.to_le_bytes()));
        bytes
    }

    /// The scores as a TIFF file with one float32 sample for each pixel.
    ///
    /// # Errors
    /// [`ImageError::Unencodable`] for a map that is too large for the format.
    pub fn to_tiff(&self) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Cursor::new(Vec::new());
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        let write = |bytes: &mut Cursor<Vec<u8>>| {
            let (width, height) = (side(self.columns()), side(self.rows()));
            TiffEncoder::new(bytes)?.write_image::<colortype::Gray32Float>(
                width,
                height,
                self.values(),
            )
        };
        write(&mut bytes).map_err(|error| ImageError::Unencodable {
            reason: error.to_string(),
        })?;
        Ok(bytes.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use tiff::decoder::{Decoder, DecodingResult};

    use super::*;

    fn map() -> Map {
        Map::new(2, 3, vec![0.5, -1.0, f32::NAN, 3.0, 1e-30, f32::MAX]).unwrap()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn npy_is_what_numpy_writes() {
        let bytes = map().to_npy();
        let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!((length + 10) % 64, 0);
        let header = std::str::from_utf8(&bytes[10..10 + length]).unwrap();
        assert_eq!(header.trim_end(), text);
        assert!(header.ends_with('\n'));
        let values: Vec<f32> = bytes[10 + length..]
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        assert_eq!(bits(&values), bits(map().values()));
    }

    #[test]
    fn tiff_holds_the_floats() {
        let bytes = map().to_tiff().unwrap();
        let mut decoder = Decoder::new(Cursor::new(bytes)).unwrap();
        assert_eq!(decoder.dimensions().unwrap(), (3, 2));
        match decoder.read_image().unwrap() {
            DecodingResult::F32(values) => assert_eq!(bits(&values), bits(map().values())),
            _ => panic!("another type than float32"),
        }
    }
}
