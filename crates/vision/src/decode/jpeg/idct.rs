//! The inverse cosine transform of libjpeg's "islow" method (Loeffler, Ligtenberg and Moschytz 1989),
//! integer for integer, so that pixels equal those of libjpeg-turbo.

/// Fractional bits of the constants.
const CONST_BITS: u32 = 13;
/// Fractional bits kept between the two passes.
const PASS1_BITS: u32 = 2;

/// The same operation on eight columns at once.
type Lanes = [i32; 8];

fn add(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i].wrapping_add(b[i]))
}

fn sub(a: Lanes, b: Lanes) -> Lanes {
    std::array::from_fn(|i| a[i].wrapping_sub(b[i]))
}

fn times(a: Lanes, factor: i32) -> Lanes {
    a.map(|a| a.wrapping_mul(factor))
}

/// One pass down the columns, rounded to `SHIFT` fewer bits. With `LOW` the last four rows are zero, as
/// in most blocks.
#[inline(always)]
fn pass<const SHIFT: u32, const LOW: bool>(rows: &[Lanes; 8]) -> [Lanes; 8] {
    let mut input = *rows;
    if LOW {
        input[4..].fill([0; 8]);
    }
    let even = times(add(input[2], input[6]), 4433);
    let even_2 = sub(even, times(input[6], 15137));
    let even_3 = add(even, times(input[2], 6270));
    let even_0 = times(add(input[0], input[4]), 1 << CONST_BITS);
    let even_1 = times(sub(input[0], input[4]), 1 << CONST_BITS);
    let (sum_0, sum_3) = (add(even_0, even_3), sub(even_0, even_3));
    let (sum_1, sum_2) = (add(even_1, even_2), sub(even_1, even_2));

    let z1 = times(add(input[7], input[1]), -7373);
    let z2 = times(add(input[5], input[3]), -20995);
    let (z3, z4) = (add(input[7], input[3]), add(input[5], input[1]));
    let z5 = times(add(z3, z4), 9633);
    let z3 = add(times(z3, -16069), z5);
    let z4 = add(times(z4, -3196), z5);
    let odd_0 = add(times(input[7], 2446), add(z1, z3));
    let odd_1 = add(times(input[5], 16819), add(z2, z4));
    let odd_2 = add(times(input[3], 25172), add(z2, z3));
    let odd_3 = add(times(input[1], 12299), add(z1, z4));

    let round = |lanes: Lanes| lanes.map(|v| v.wrapping_add(1 << (SHIFT - 1)) >> SHIFT);
    [
        round(add(sum_0, odd_3)),
        round(add(sum_1, odd_2)),
        round(add(sum_2, odd_1)),
        round(add(sum_3, odd_0)),
        round(sub(sum_3, odd_0)),
        round(sub(sum_2, odd_1)),
        round(sub(sum_1, odd_2)),
        round(sub(sum_0, odd_3)),
    ]
}

/// Pixels of a block from its coefficients, row by row, and the quantisation table in the same order;
/// row `y` is written to `output[y * stride..][..8]`.
pub(super) fn inverse(
    coefficients: &[i16; 64],
    table: &[u16; 64],
    output: &mut [u8],
    stride: usize,
) {
    let level = |value: i32| (value.saturating_add(128)).clamp(0, 255) as u8;
    let any = |places: &[i16]| places.iter().fold(0, |any, &c| any | c) != 0;
    if !any(&coefficients[1..]) {
        let value = i32::from(coefficients[0]).wrapping_mul(i32::from(table[0]));
        let value = level(value.wrapping_add(4) >> 3);
        for row in output.chunks_mut(stride).take(8) {
            row[..8].fill(value);
        }
        return;
    }
    let mut input = [[0; 8]; 8];
    let mut right = 0;
    for ((lanes, row), table) in input
        .iter_mut()
        .zip(coefficients.as_chunks::<8>().0)
        .zip(table.as_chunks::<8>().0)
    {
        *lanes = std::array::from_fn(|i| i32::from(row[i]).wrapping_mul(i32::from(table[i])));
        right |= row[4] | row[5] | row[6] | row[7];
    }
    const FIRST: u32 = CONST_BITS - PASS1_BITS;
    const SECOND: u32 = CONST_BITS + PASS1_BITS + 3;
    let columns = match any(&coefficients[32..]) {
        true => pass::<FIRST, false>(&input),
        false => pass::<FIRST, true>(&input),
    };
    let columns = transposed(&columns);
    let rows = match right != 0 {
        true => pass::<SECOND, false>(&columns),
        false => pass::<SECOND, true>(&columns),
    };
    let mut levels = [[0; 8]; 8];
    for (levels, lanes) in levels.iter_mut().zip(&rows) {
        *levels = std::array::from_fn(|i| level(lanes[i]));
    }
    for (y, row) in output.chunks_mut(stride).take(8).enumerate() {
        row[..8].copy_from_slice(&std::array::from_fn::<u8, 8, _>(|x| levels[x][y]));
    }
}

fn transposed(block: &[Lanes; 8]) -> [Lanes; 8] {
    std::array::from_fn(|row| std::array::from_fn(|column| block[column][row]))
}
