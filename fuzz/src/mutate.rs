//! An input changed by a seed: the same change for the same seed on every machine.

use rand_mt::Mt64;

/// Lengths and counts that parsers stumble over.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    1 << 24,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    1 << 62,
    u64::MAX,
];

/// The same in text.
const WORDS: [&str; 16] = [
    "0",
    "-1",
    "1e308",
    "-1e308",
    "NaN",
    "2147483648",
    "4294967295",
    "9223372036854775807",
    "18446744073709551616",
    "0.5",
    "null",
    "\"\"",
    "[]",
    "{}",
    "../../x",
    "\u{feff}\u{202e}\u{1f41e}",
];

/// No input grows beyond this, so that a mutation stays cheap.
const LARGEST: usize = 1 << 20;

/// One of `inputs`, changed as `seed` says.
///
/// # Panics
/// If there are no inputs.
pub(crate) fn mutation(inputs: &[Vec<u8>], seed: u64) -> Vec<u8> {
    let mut random = Random(Mt64::new(seed));
    let mut bytes = inputs[random.below(inputs.len())].clone();
    for _ in 0..=random.below(4) {
        random.change(&mut bytes, inputs);
    }
    bytes.truncate(LARGEST);
    bytes
}

struct Random(Mt64);

impl Random {
    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.0.next_u64() % end as u64) as usize
    }

    /// A place in `length` bytes, which are some: every other time at the start, where headers are.
    fn place(&mut self, length: usize) -> usize {
        const START: usize = 512;
        match self.below(2) {
            0 => self.below(length.min(START)),
            _ => self.below(length),
        }
    }

    /// A part of `bytes`, short more often than long.
    fn range(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.place(bytes.len() + 1);
        let most = 1 << self.below(12);
        start..(start + self.below(most + 1)).min(bytes.len())
    }

    fn change(&mut self, bytes: &mut Vec<u8>, inputs: &[Vec<u8>]) {
        match self.below(12) {
            0 | 1 => self.flip(bytes),
            2 | 3 => self.overwrite_number(bytes),
            4 | 5 => self.replace_digits(bytes),
            6 => {
                let length = self.below(bytes.len() + 1);
                bytes.truncate(length);
            }
            7 => {
                let range = self.range(bytes);
                bytes.drain(range);
            }
            8 => self.repeat(bytes),
            9 => {
                // A splice: the start of this one, the end of another.
                let other = &inputs[self.below(inputs.len())];
                let (keep, from) = (self.below(bytes.len() + 1), self.below(other.len() + 1));
                bytes.truncate(keep);
                bytes.extend_from_slice(&other[from..]);
            }
            10 => {
                // A part of another one in place of a part of this one.
                let other = &inputs[self.below(inputs.len())];
                let (here, there) = (self.range(bytes), self.range(other));
                bytes.splice(here, other[there].iter().copied());
            }
            _ => {
                let at = self.place(bytes.len() + 1);
                let random: Vec<u8> = (0..=self.below(16))
                    .map(|_| self.below(256) as u8)
                    .collect();
                bytes.splice(at..at, random);
            }
        }
    }

    fn flip(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        for _ in 0..=self.below(3) {
            let at = self.place(bytes.len());
            bytes[at] ^= 1 << self.below(8);
        }
    }

    /// A length or count of 1, 2, 4 or 8 bytes in either order.
    fn overwrite_number(&mut self, bytes: &mut [u8]) {
        let size = 1 << self.below(4);
        let Some(last) = bytes.len().checked_sub(size) else {
            return;
        };
        let at = self.place(last + 1);
        let place = &mut bytes[at..at + size];
        let mut old = [0; 8];
        old[..size].copy_from_slice(place);
        let number = match self.below(4) {
            0 => u64::from_le_bytes(old).wrapping_add(1),
            1 => u64::from_le_bytes(old).wrapping_sub(1),
            _ => NUMBERS[self.below(NUMBERS.len())],
        };
        place.copy_from_slice(&number.to_le_bytes()[..size]);
        if self.below(2) == 0 {
            place.reverse();
        }
    }

    /// Another word in place of a number in text.
    fn replace_digits(&mut self, bytes: &mut Vec<u8>) {
        let from = self.place(bytes.len() + 1);
        let Some(start) = bytes[from..].iter().position(u8::is_ascii_digit) else {
            return;
        };
        let start = from + start;
        let length = bytes[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit() || **byte == b'.')
            .count();
        let word = WORDS[self.below(WORDS.len())];
        bytes.splice(start..start + length, word.bytes());
    }

    /// A part many times over.
    fn repeat(&mut self, bytes: &mut Vec<u8>) {
        let range = self.range(bytes);
        let (end, part) = (range.end, bytes[range].to_vec());
        if part.is_empty() {
            return;
        }
        let times = (1 << self.below(14)).min(LARGEST / part.len());
        bytes.splice(end..end, part.repeat(times));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_one_input_and_seeds_make_many() {
        let inputs = [b"{\"width\": 12}".to_vec(), vec![0; 100], vec![]];
        let all: Vec<Vec<u8>> = (0..1000).map(|seed| mutation(&inputs, seed)).collect();
        assert_eq!(mutation(&inputs, 7), all[7]);
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 600, "{}", distinct.len());
        assert!(all.iter().all(|input| input.len() <= LARGEST));
    }
}
