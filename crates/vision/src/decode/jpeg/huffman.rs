//! Huffman codes and the bits they are read from (ITU T.81, annexes C and F).

use super::{Failure, damaged};

/// Codes up to this length are found in one step.
const FAST_BITS: u32 = 9;

/// One table of codes.
#[derive(Clone)]
pub(super) struct Huffman {
    /// By the next [`FAST_BITS`] bits: length of the code in the high byte, symbol in the low one;
    /// 0 where the code is longer.
    fast: [u16; 1 << FAST_BITS],
    /// By length: the first code that is longer, shifted to 16 bits.
    end: [u32; 17],
    /// By length: what is added to a code to get the place of its symbol.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Huffman {
    /// From the number of codes of each length 1..=16 and their symbols.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Result<Self, Failure> {
        let mut table = Self {
            fast: [0; 1 << FAST_BITS],
            end: [0; 17],
            offset: [0; 17],
            symbols: symbols.to_vec(),
        };
        let (mut code, mut place) = (0_u32, 0_usize);
        for (length, &count) in (1_u32..).zip(counts) {
            table.offset[length as usize] = place as i32 - code as i32;
            for &symbol in symbols
                .get(place..place + usize::from(count))
                .unwrap_or(&[])
            {
                if length <= FAST_BITS {
                    let spread = 1 << (FAST_BITS - length);
                    let first = (code as usize) << (FAST_BITS - length);
                    if let Some(entries) = table.fast.get_mut(first..first + spread) {
                        entries.fill((length as u16) << 8 | u16::from(symbol));
                    }
                }
                code += 1;
            }
            place += usize::from(count);
            if code > 1 << length {
                return Err(damaged("its Huffman codes do not fit"));
            }
            table.end[length as usize] = code << (16 - length);
            code <<= 1;
        }
        if place != symbols.len() {
            return Err(damaged("a Huffman table has the wrong length"));
        }
        Ok(table)
    }

    /// The table that is meant where a file has none, as in frames of Motion JPEG (annex K.3).
    pub(super) fn standard(ac: bool, chroma: bool) -> Result<Self, Failure> {
        match (ac, chroma) {
            (false, false) => Self::new(&DC_LUMA_COUNTS, &DC_SYMBOLS),
            (false, true) => Self::new(&DC_CHROMA_COUNTS, &DC_SYMBOLS),
            (true, false) => Self::new(&AC_LUMA_COUNTS, &AC_LUMA_SYMBOLS),
            (true, true) => Self::new(&AC_CHROMA_COUNTS, &AC_CHROMA_SYMBOLS),
        }
    }
}

/// The bits of one scan, up to the next marker. Behind the end there are zeros, which
/// [`Bits::check`] reports.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    /// The next bits, from the top.
    buffer: u64,
    count: u32,
    /// How many of the last bits in the buffer were made up behind the end.
    made_up: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self {
            data,
            at: 0,
            buffer: 0,
            count: 0,
            made_up: 0,
        }
    }

    /// Makes sure that at least 32 bits are in the buffer.
    #[inline]
    fn refill(&mut self) {
        if self.count >= 32 {
            return;
        }
        if let Some(&bytes) = self.data.get(self.at..).and_then(<[u8]>::first_chunk::<4>) {
            let word = u32::from_be_bytes(bytes);
            // No byte is 0xFF: none of the complement is zero.
            let inverse = !word;
            if inverse.wrapping_sub(0x0101_0101) & word & 0x8080_8080 == 0 {
                self.buffer |= u64::from(word) << (32 - self.count);
                self.count += 32;
                self.at += 4;
                return;
            }
        }
        while self.count <= 56 {
            let byte = match self.data.get(self.at..) {
                Some([0xFF, 0, ..]) => {
                    self.at += 2;
                    0xFF
                }
                // A filler in front of a marker or of a stuffed zero.
                Some([0xFF, 0xFF, ..]) => {
                    self.at += 1;
                    continue;
                }
                Some([0xFF, ..]) | Some([]) | None => {
                    self.made_up += 8;
                    0
                }
                Some(&[byte, ..]) => {
                    self.at += 1;
                    byte
                }
            };
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    #[inline]
    fn skip(&mut self, bits: u32) {
        self.buffer <<= bits;
        self.count -= bits;
    }

    /// The next symbol of a table.
    #[inline]
    pub(super) fn symbol(&mut self, table: &Huffman) -> Result<u8, Failure> {
        self.refill();
        let entry = table.fast[(self.buffer >> (64 - FAST_BITS)) as usize];
        if entry != 0 {
            self.skip(u32::from(entry >> 8));
            return Ok(entry as u8);
        }
        let code = (self.buffer >> 48) as u32;
        for length in FAST_BITS + 1..=16 {
            if code < table.end[length as usize] {
                self.skip(length);
                let place = (code >> (16 - length)) as i32 + table.offset[length as usize];
                return table
                    .symbols
                    .get(place as usize)
                    .copied()
                    .ok_or_else(|| damaged("it holds a code that is in no table"));
            }
        }
        self.check()?;
        Err(damaged("it holds a code that is in no table"))
    }

    /// The next 0..=16 bits as a number.
    #[inline]
    pub(super) fn take(&mut self, bits: u32) -> u32 {
        self.refill();
        // In two steps, as a shift by 64 is none.
        let value = (self.buffer >> 1 >> (63 - bits)) as u32;
        self.skip(bits);
        value
    }

    /// The next 0..=15 bits as a signed number (figure F.12).
    #[inline]
    pub(super) fn take_signed(&mut self, bits: u32) -> i32 {
        let value = self.take(bits) as i32;
        let is_negative = bits > 0 && value < 1 << (bits - 1);
        if is_negative {
            value - (1 << bits) + 1
        } else {
            value
        }
    }

    /// Whether all bits taken so far were in the file.
    #[inline]
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.count < self.made_up {
            return Err(damaged("its pixels end early"));
        }
        Ok(())
    }

    /// Drops what is left before the next marker; the place of that marker in the data.
    pub(super) fn next_marker(&mut self) -> usize {
        while let Some([first, second, ..]) = self.data.get(self.at..) {
            if *first == 0xFF && *second != 0 && *second != 0xFF {
                return self.at;
            }
            self.at += 1;
        }
        self.data.len()
    }

    /// Passes restart marker `number`.
    pub(super) fn restart(&mut self, number: u8) -> Result<(), Failure> {
        let at = self.next_marker();
        match self.data.get(at + 1) {
            Some(&marker) if marker == 0xD0 + number => {}
            _ => return Err(damaged("a part between restart markers is missing")),
        }
        *self = Self {
            at: at + 2,
            ..Self::new(self.data)
        };
        Ok(())
    }
}

const DC_LUMA_COUNTS: [u8; 16] = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
const DC_CHROMA_COUNTS: [u8; 16] = [0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0];
const DC_SYMBOLS: [u8; 12] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
const AC_LUMA_COUNTS: [u8; 16] = [0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 0x7d];
const AC_CHROMA_COUNTS: [u8; 16] = [0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 0x77];
const AC_LUMA_SYMBOLS: [u8; 162] = [
    0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61, 0x07,
    0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1, 0xf0,
    0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27, 0x28,
    0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48, 0x49,
    0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69,
    0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89,
    0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7,
    0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5,
    0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2,
    0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];
const AC_CHROMA_SYMBOLS: [u8; 162] = [
    0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61, 0x71,
    0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33, 0x52, 0xf0,
    0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a, 0x26,
    0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87,
    0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5,
    0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3,
    0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda,
    0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8,
    0xf9, 0xfa,
];
