//! The fields of protobuf messages, without reading what is not asked for: the few that ONNX files
//! keep weights in lie between gigabytes of others.

use std::ops::Range;

use super::data::Data;

/// More fields than any network's file has before its weights are found.
const MOST_FIELDS: usize = 1 << 20;

/// Longer than any name.
const LONGEST_TEXT: usize = 1 << 12;

/// A key and a number or length behind it, each of at most ten bytes.
const LONGEST_START: usize = 20;

/// A field's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    /// A message, text or array, and where it is.
    Bytes(Range<usize>),
    /// Four or eight bytes of other kinds.
    Fixed,
}

/// Reads messages out of a file, as many fields as one may have.
pub(super) struct Messages<'a> {
    data: &'a Data,
    left: usize,
}

impl<'a> Messages<'a> {
    pub(super) fn new(data: &'a Data) -> Self {
        Self {
            data,
            left: MOST_FIELDS,
        }
    }

    /// The fields, by number, of the message at `range`.
    ///
    /// Says what is wrong if there are too many, or they do not fit where they are.
    pub(super) fn fields(&mut self, range: Range<usize>) -> Result<Vec<(u64, Value)>, String> {
        let (mut at, mut fields) = (range.start, vec![]);
        while at < range.end {
            self.left = self.left.checked_sub(1).ok_or("it has too many fields")?;
            let (number, value, next) = self.field(at, range.end)?;
            fields.push((number, value));
            at = next;
        }
        Ok(fields)
    }

    /// The field at `at`, and where the next one starts.
    fn field(&self, at: usize, end: usize) -> Result<(u64, Value, usize), String> {
        let start = self.read(at..end.min(at.saturating_add(LONGEST_START)))?;
        let mut rest = &start[..];
        let key = varint(&mut rest)?;
        let (value, length) = match key & 7 {
            0 => (Value::Number(varint(&mut rest)?), 0),
            1 => (Value::Fixed, 8),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).map_err(|e| e.to_string())?;
                (Value::Bytes(0..0), length)
            }
            5 => (Value::Fixed, 4),
            other => return Err(format!("a field of the unknown kind {other}")),
        };
        let first = at + (start.len() - rest.len());
        let next = first.checked_add(length).filter(|&next| next <= end);
        let next = next.ok_or_else(cut)?;
        let value = match value {
            Value::Bytes(_) => Value::Bytes(first..next),
            other => other,
        };
        Ok((key >> 3, value, next))
    }

    /// The text at `range`.
    pub(super) fn text(&self, range: &Range<usize>) -> Result<String, String> {
        if range.len() > LONGEST_TEXT {
            return Err(format!("a name of {} bytes", range.len()));
        }
        String::from_utf8(self.read(range.clone())?).map_err(|error| error.to_string())
    }

    /// The whole numbers of a field that may occur often, one by one or packed; at most `most`.
    pub(super) fn numbers(&self, value: &Value, most: usize) -> Result<Vec<u64>, String> {
        match value {
            Value::Number(number) => Ok(vec![*number]),
            Value::Fixed => Err("a number of another kind".to_owned()),
            Value::Bytes(range) => {
                let bytes = self.read(range.start..range.end.min(range.start + 10 * most))?;
                let (mut rest, mut numbers) = (&bytes[..], vec![]);
                while !rest.is_empty() && numbers.len() < most {
                    numbers.push(varint(&mut rest)?);
                }
                match rest.is_empty() && bytes.len() == range.len() {
                    true => Ok(numbers),
                    false => Err(format!("more than {most} numbers")),
                }
            }
        }
    }

    fn read(&self, range: Range<usize>) -> Result<Vec<u8>, String> {
        let bytes = self.data.read(range).map_err(|error| error.to_string())?;
        Ok(bytes.into_owned())
    }
}

/// A number of up to 64 bits, seven in each byte, the lowest first.
fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0;
    for i in 0..10 {
        let (&byte, rest) = bytes.split_first().ok_or_else(cut)?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err("a number of more than 64 bits".to_owned())
}

fn cut() -> String {
    "a field is cut off".to_owned()
}
