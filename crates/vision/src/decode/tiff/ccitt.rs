//! Facsimile coding of bilevel images: TIFF compressions 2, 3 and 4 (ITU T.4 and T.6).

use std::convert::Infallible;

use fax::BitReader;
use fax::maps::{Mode, black, mode, white};

use super::super::guard::{Failure, damaged};

/// How rows are coded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Runs, each row from a new byte (compression 2).
    Runs,
    /// Runs, with a mark at the end of each row (compression 3).
    Group3 {
        /// Rows may be coded by their differences from the row above.
        two_dimensional: bool,
    },
    /// All rows by their differences (compression 4).
    Group4,
}

/// Packed rows, black as 1.
pub(super) fn decode(
    data: &[u8],
    coding: Coding,
    width: usize,
    rows: usize,
) -> Result<Vec<u8>, Failure> {
    let row_bytes = width.div_ceil(8);
    let mut output = vec![0; row_bytes * rows];
    let mut bits = Bits { data, at: 0 };
    let mut above = vec![];
    for row in output.chunks_exact_mut(row_bytes) {
        let by_runs = match coding {
            Coding::Runs => {
                bits.at = bits.at.next_multiple_of(8);
                true
            }
            Coding::Group3 { two_dimensional } => {
                let is_marked = bits.pass_end_of_line();
                !two_dimensional || is_marked && bits.next()
            }
            Coding::Group4 => false,
        };
        let changes = match by_runs {
            true => runs(&mut bits, width)?,
            false => differences(&mut bits, &above, width)?,
        };
        if bits.at > 8 * data.len() {
            return Err(damaged("its pixels end early"));
        }
        for black in changes.chunks(2) {
            let end = black.get(1).map_or(width, |&end| end.min(width));
            for x in black[0]..end {
                row[x / 8] |= 0x80 >> (x % 8);
            }
        }
        above = changes;
    }
    Ok(output)
}

/// The places where the colour changes, the first from white to black.
type Changes = Vec<usize>;

fn runs(bits: &mut Bits<'_>, width: usize) -> Result<Changes, Failure> {
    let mut changes = vec![];
    let mut at = 0;
    while at < width {
        at += run(bits, changes.len() % 2 == 1)?;
        changes.push(at);
    }
    Ok(changes)
}

fn run(bits: &mut Bits<'_>, is_black: bool) -> Result<usize, Failure> {
    let mut length = 0;
    loop {
        let part = match is_black {
            true => black::decode(bits),
            false => white::decode(bits),
        };
        let part = part.ok_or_else(|| damaged("it holds a code that does not exist"))?;
        length += usize::from(part);
        if part < 64 {
            return Ok(length);
        }
    }
}

fn differences(bits: &mut Bits<'_>, above: &[usize], width: usize) -> Result<Changes, Failure> {
    let mut changes: Changes = vec![];
    // The last change, if there was one, and the first change above that is further right and to the
    // other colour.
    let (mut at, mut next) = (None, 0);
    while at.unwrap_or(0) < width {
        while above.get(next).is_some_and(|&place| Some(place) <= at) {
            next += 2;
        }
        let place = |index: usize| above.get(index).map_or(width, |&place| place.min(width));
        let is_black = changes.len() % 2 == 1;
        match mode::decode(bits).ok_or_else(|| damaged("it holds a code that does not exist"))? {
            Mode::Pass => at = Some(place(next + 1)),
            Mode::Horizontal => {
                let first = at.unwrap_or(0) + run(bits, is_black)?;
                let second = first + run(bits, !is_black)?;
                changes.extend([first, second]);
                at = Some(second);
            }
            Mode::Vertical(delta) => {
                let to = place(next).checked_add_signed(delta.into());
                let to = to.filter(|&to| to >= at.unwrap_or(0) && to <= width);
                let to = to.ok_or_else(|| damaged("a row goes backwards"))?;
                changes.push(to);
                at = Some(to);
                next = next.checked_sub(1).unwrap_or(1);
            }
            Mode::Extension => return Err(damaged("it is coded in an unknown way")),
            Mode::EOF => return Err(damaged("its pixels end early")),
        }
    }
    Ok(changes)
}

/// The bits of a strip, followed by zeros.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn next(&mut self) -> bool {
        let bit = self.peek(1) == Some(1);
        self.at += 1;
        bit
    }

    /// Passes the end of a row and the filling before it, if it comes next.
    fn pass_end_of_line(&mut self) -> bool {
        // No run begins with so many zeros.
        if self.peek(11) != Some(0) {
            return false;
        }
        while self.at < 8 * self.data.len() && !self.next() {}
        true
    }
}

impl BitReader for Bits<'_> {
    type Error = Infallible;

    fn peek(&self, bits: u8) -> Option<u16> {
        let byte = |i: usize| u32::from(self.data.get(self.at / 8 + i).copied().unwrap_or(0));
        let ahead = byte(0) << 16 | byte(1) << 8 | byte(2);
        let shift = 24_usize.checked_sub(self.at % 8 + usize::from(bits))?;
        Some((ahead >> shift) as u16 & u16::MAX.checked_shr(16 - u32::from(bits)).unwrap_or(0))
    }

    fn consume(&mut self, bits: u8) -> Result<(), Infallible> {
        self.at += usize::from(bits);
        Ok(())
    }

    fn bits_to_byte_boundary(&self) -> u8 {
        (self.at.next_multiple_of(8) - self.at) as u8
    }
}
