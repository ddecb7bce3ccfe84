//! One scan: the coefficients of one or more components, whole or in part (annexes F and G).

use super::huffman::{Bits, Huffman};
use super::{Component, Failure, Frame, Tables, ZIGZAG, damaged};

/// A component as a scan codes it.
struct Coded<'a> {
    index: usize,
    dc: Option<&'a Huffman>,
    ac: Option<&'a Huffman>,
}

/// The part of each coefficient that a scan holds (figure B.4).
#[derive(Clone, Copy)]
struct Part {
    /// First and last coefficient in zigzag order.
    start: usize,
    end: usize,
    /// The bit position before and with this scan; `high` is 0 in the first scan of a coefficient.
    high: u8,
    low: u8,
}

/// Reads the scan of the header `segment` whose data is at the start of `data`; how much of it was used.
pub(super) fn read(
    frame: &mut Frame,
    tables: &Tables,
    segment: &[u8],
    data: &[u8],
) -> Result<usize, Failure> {
    let short = || damaged("the header of a scan is too short");
    let (&count, segment) = segment.split_first().ok_or_else(short)?;
    let (components, parameters) = segment
        .split_at_checked(2 * usize::from(count))
        .ok_or_else(short)?;
    let &[start, end, bits, ..] = parameters else {
        return Err(short());
    };
    let part = match frame.progressive {
        true => Part {
            start: start.into(),
            end: end.into(),
            high: bits >> 4,
            low: bits & 15,
        },
        false => Part {
            start: 0,
            end: 63,
            high: 0,
            low: 0,
        },
    };
    let is_sound = match part.start {
        0 => part.end == 0 || !frame.progressive,
        start => count == 1 && start <= part.end && part.end < 64,
    };
    if !is_sound || part.low > 13 || part.high > 0 && part.high != part.low + 1 {
        return Err(damaged("the header of a scan makes no sense"));
    }
    let mut coded: Vec<Coded<'_>> = vec![];
    for &[id, numbers] in components.as_chunks::<2>().0 {
        let index = frame.components.iter().position(|c| c.id == id);
        let index = index.filter(|&i| coded.iter().all(|c| c.index != i));
        let index = index.ok_or_else(|| damaged("a scan names a wrong component"))?;
        begin(&mut frame.components[index], tables, part)?;
        coded.push(Coded {
            index,
            dc: tables
                .dc
                .get(usize::from(numbers >> 4))
                .and_then(Option::as_ref),
            ac: tables
                .ac
                .get(usize::from(numbers & 15))
                .and_then(Option::as_ref),
        });
    }
    if coded.is_empty() {
        return Err(damaged("a scan has no components"));
    }
    walk(frame, tables.restart_interval, &coded, part, data)
}

/// Notes what the component gets by this scan, and takes its quantisation table.
fn begin(component: &mut Component, tables: &Tables, part: Part) -> Result<(), Failure> {
    let expected = if part.high == 0 { 255 } else { part.high };
    for bit in &mut component.lowest_bit[part.start..=part.end] {
        if *bit != expected {
            return Err(damaged("its scans do not follow each other"));
        }
        *bit = part.low;
    }
    if part.start > 0 && component.lowest_bit[0] == 255 {
        return Err(damaged("its scans do not follow each other"));
    }
    if component.quantisation.is_none() {
        component.quantisation = tables.quantisation.get(component.table).copied().flatten();
    }
    Ok(())
}

/// Visits the blocks of a scan in their order.
fn walk(
    frame: &mut Frame,
    restart_interval: usize,
    coded: &[Coded<'_>],
    part: Part,
    data: &[u8],
) -> Result<usize, Failure> {
    let progressive = frame.progressive;
    // A component alone comes block by block, without those that only fill the last unit.
    let alone = coded.len() == 1;
    let (columns, rows) = match (alone, &coded[0]) {
        (true, coded) => {
            let component = &frame.components[coded.index];
            (component.width.div_ceil(8), component.height.div_ceil(8))
        }
        (false, _) => frame.units(),
    };
    let mut bits = Bits::new(data);
    let mut predictions = [0_i32; 4];
    let mut end_of_band = 0_u32;
    for unit in 0..columns * rows {
        if restart_interval > 0 && unit > 0 && unit % restart_interval == 0 {
            bits.restart(((unit / restart_interval - 1) % 8) as u8)?;
            predictions = [0; 4];
            end_of_band = 0;
        }
        let (column, row) = (unit % columns, unit / columns);
        for (coded, prediction) in coded.iter().zip(&mut predictions) {
            let component = &mut frame.components[coded.index];
            let (across, down) = if alone { (1, 1) } else { component.sampling };
            for (y, x) in (0..down).flat_map(|y| (0..across).map(move |x| (y, x))) {
                let (x, y) = (column * across + x, row * down + y);
                if progressive {
                    let block = &mut component.coefficients[y * component.blocks.0 + x];
                    match (part.start, part.high) {
                        (0, 0) => {
                            *prediction = next_dc(&mut bits, coded, *prediction)?;
                            block[0] = (*prediction << part.low) as i16;
                        }
                        (0, _) => block[0] |= (bits.take(1) << part.low) as i16,
                        (_, 0) => first_ac(&mut bits, coded, part, &mut end_of_band, block)?,
                        _ => refine_ac(&mut bits, coded, part, &mut end_of_band, block)?,
                    }
                } else {
                    let mut block = [0; 64];
                    *prediction = next_dc(&mut bits, coded, *prediction)?;
                    block[0] = *prediction as i16;
                    sequential_ac(&mut bits, coded, &mut block)?;
                    component.put(x, y, &block)?;
                }
            }
        }
        bits.check()?;
    }
    Ok(bits.next_marker())
}

fn table(table: Option<&Huffman>) -> Result<&Huffman, Failure> {
    table.ok_or_else(|| damaged("a Huffman table is missing"))
}

fn next_dc(bits: &mut Bits<'_>, coded: &Coded<'_>, prediction: i32) -> Result<i32, Failure> {
    let size = bits.symbol(table(coded.dc)?)?;
    if size > 15 {
        return Err(damaged("it holds a coefficient out of range"));
    }
    Ok(prediction.wrapping_add(bits.take_signed(size.into())))
}

/// All other coefficients of a block (F.2.2.2).
#[inline]
fn sequential_ac(
    bits: &mut Bits<'_>,
    coded: &Coded<'_>,
    block: &mut [i16; 64],
) -> Result<(), Failure> {
    let codes = table(coded.ac)?;
    let mut k = 1;
    while k < 64 {
        let symbol = bits.symbol(codes)?;
        let (zeros, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (size, zeros) {
            (0, 15) => k += 16,
            (0, _) => break,
            _ => {
                k += zeros;
                let place = ZIGZAG.get(k).ok_or_else(beyond)?;
                block[usize::from(*place)] = bits.take_signed(size) as i16;
                k += 1;
            }
        }
    }
    Ok(())
}

fn beyond() -> Failure {
    damaged("a block has too many coefficients")
}

/// The first bits of a band of coefficients (G.1.2.2).
fn first_ac(
    bits: &mut Bits<'_>,
    coded: &Coded<'_>,
    part: Part,
    end_of_band: &mut u32,
    block: &mut [i16; 64],
) -> Result<(), Failure> {
    if *end_of_band > 0 {
        *end_of_band -= 1;
        return Ok(());
    }
    let codes = table(coded.ac)?;
    let mut k = part.start;
    while k <= part.end {
        let symbol = bits.symbol(codes)?;
        let (zeros, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        match (size, zeros) {
            (0, 15) => k += 16,
            (0, _) => {
                *end_of_band = (1 << zeros) - 1 + bits.take(zeros as u32);
                break;
            }
            _ => {
                k += zeros;
                if k > part.end {
                    return Err(beyond());
                }
                block[usize::from(ZIGZAG[k])] = (bits.take_signed(size) << part.low) as i16;
                k += 1;
            }
        }
    }
    Ok(())
}

/// One more bit of a band of coefficients (G.1.2.3).
fn refine_ac(
    bits: &mut Bits<'_>,
    coded: &Coded<'_>,
    part: Part,
    end_of_band: &mut u32,
    block: &mut [i16; 64],
) -> Result<(), Failure> {
    let bit = 1_i16 << part.low;
    let refine = |bits: &mut Bits<'_>, coefficient: &mut i16| {
        if bits.take(1) == 1 && *coefficient & bit == 0 {
            *coefficient = coefficient.wrapping_add(if *coefficient < 0 { -bit } else { bit });
        }
    };
    let mut k = part.start;
    while *end_of_band == 0 && k <= part.end {
        let symbol = bits.symbol(table(coded.ac)?)?;
        let (mut zeros, size) = (u32::from(symbol >> 4), symbol & 15);
        let mut new = 0;
        if size > 0 {
            new = if bits.take(1) == 1 { bit } else { -bit };
        } else if zeros < 15 {
            *end_of_band = (1 << zeros) + bits.take(zeros);
            break;
        }
        loop {
            let Some(&place) = ZIGZAG[..=part.end].get(k) else {
                if new != 0 {
                    return Err(beyond());
                }
                break;
            };
            let coefficient = &mut block[usize::from(place)];
            k += 1;
            if *coefficient != 0 {
                refine(bits, coefficient);
            } else if zeros > 0 {
                zeros -= 1;
            } else {
                *coefficient = new;
                break;
            }
        }
    }
    if *end_of_band > 0 {
        for &place in &ZIGZAG[k..=part.end] {
            let coefficient = &mut block[usize::from(place)];
            if *coefficient != 0 {
                refine(bits, coefficient);
            }
        }
        *end_of_band -= 1;
    }
    Ok(())
}
