//! TIFF 6.0 and BigTIFF: strips and tiles, chunky and planar, 1 to 32 bits, with the usual compressions.
//!
//! Several pages can be in a file. Reduced versions (thumbnails, pyramids) and transparency masks are
//! passed over, so that page 0 is the first picture in full resolution.

mod ccitt;
mod directory;

use std::io::Read;

use image::metadata::Orientation;

use self::ccitt::Coding;
use self::directory::{Directory, File};
use super::guard::{Failure, Guard, Header, damaged, unsupported};
use super::jpeg;
use super::options::Limits;
use super::raster::{Layout, Raster, Samples, bits_for, stretched, unpack};

/// The fields that are read (TIFF 6.0, section 8 and following; technical note 2 for JPEG).
mod tag {
    pub(super) const NEW_SUBFILE_TYPE: u16 = 254;
    pub(super) const SUBFILE_TYPE: u16 = 255;
    pub(super) const WIDTH: u16 = 256;
    pub(super) const HEIGHT: u16 = 257;
    pub(super) const BITS: u16 = 258;
    pub(super) const COMPRESSION: u16 = 259;
    pub(super) const PHOTOMETRIC: u16 = 262;
    pub(super) const FILL_ORDER: u16 = 266;
    pub(super) const STRIP_OFFSETS: u16 = 273;
    pub(super) const ORIENTATION: u16 = 274;
    pub(super) const SAMPLES_PER_PIXEL: u16 = 277;
    pub(super) const ROWS_PER_STRIP: u16 = 278;
    pub(super) const STRIP_LENGTHS: u16 = 279;
    pub(super) const MAX_SAMPLE: u16 = 281;
    pub(super) const PLANAR: u16 = 284;
    pub(super) const GROUP3_OPTIONS: u16 = 292;
    pub(super) const PREDICTOR: u16 = 317;
    pub(super) const COLOURS: u16 = 320;
    pub(super) const TILE_WIDTH: u16 = 322;
    pub(super) const TILE_HEIGHT: u16 = 323;
    pub(super) const TILE_OFFSETS: u16 = 324;
    pub(super) const TILE_LENGTHS: u16 = 325;
    pub(super) const EXTRA_SAMPLES: u16 = 338;
    pub(super) const SAMPLE_FORMAT: u16 = 339;
    pub(super) const JPEG_TABLES: u16 = 347;
}

/// What the bits of a sample are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Unsigned,
    Signed,
    Float,
}

/// How pixels are packed in a strip or tile.
enum Compression<'a> {
    None,
    Ccitt(Coding),
    Lzw,
    Deflate,
    PackBits,
    Jpeg {
        tables: Option<&'a [u8]>,
        components: jpeg::Components,
    },
}

/// All that is needed to decode the pixels of one page.
struct Page<'a> {
    file: File<'a>,
    width: usize,
    height: usize,
    bits: u32,
    format: Format,
    /// Samples of a pixel in the file.
    samples: usize,
    layout: Layout,
    white_is_zero: bool,
    /// Colours are multiplied by the last sample, the transparency.
    premultiplied: bool,
    compression: Compression<'a>,
    reversed_bits: bool,
    differences: bool,
    planar: bool,
    /// Size of a strip or tile.
    chunk: (usize, usize),
    /// Whether the last chunks of a column are as high as all others.
    tiled: bool,
    offsets: Vec<u64>,
    lengths: Vec<u64>,
    orientation: Orientation,
}

/// Pixels of tiles that may lie outside of a small picture.
const MAX_PADDING: u64 = 1 << 22;

/// Decodes page `number` of a TIFF file.
pub(super) fn decode(bytes: &[u8], number: u32, guard: &mut Guard<'_>) -> Result<Raster, Failure> {
    let mut pages = vec![];
    let mut others = vec![];
    for directory in File::directories(bytes)? {
        let new_kind = directory.number(tag::NEW_SUBFILE_TYPE)?.unwrap_or(0);
        let kind = directory.number(tag::SUBFILE_TYPE)?.unwrap_or(1);
        match new_kind & 0b101 == 0 && kind != 2 {
            true => pages.push(directory),
            false => others.push(directory),
        }
    }
    if pages.is_empty() {
        pages = others;
    }
    let count = pages.len() as u32;
    let directory = pages
        .get(number as usize)
        .ok_or(Failure::NoSuchPage(count))?;
    let page = Page::new(directory)?;
    let mut raster = page.read(guard)?;
    raster.pages = count;
    if page.bits > 8 && page.format == Format::Unsigned {
        let told = directory.number(tag::MAX_SAMPLE)?.map(bits_for);
        raster.bits = match &raster.samples {
            Samples::Words(words) => {
                let used = bits_for(words.iter().copied().max().unwrap_or(0).into());
                Some(
                    told.filter(|&told| told >= used.max(8))
                        .unwrap_or(page.bits),
                )
            }
            _ => told,
        };
    }
    Ok(raster)
}

impl<'a> Page<'a> {
    fn new(directory: &Directory<'a>) -> Result<Self, Failure> {
        let side = |tag: u16| -> Result<usize, Failure> {
            let side = directory.number(tag)?;
            let side = side.ok_or_else(|| damaged("its size is missing"))?;
            match u32::try_from(side) {
                Ok(side) => Ok(side as usize),
                Err(_) => Err(damaged("its size makes no sense")),
            }
        };
        let or = |tag: u16, default: u64| -> Result<u64, Failure> {
            Ok(directory.number(tag)?.unwrap_or(default))
        };
        let (width, height) = (side(tag::WIDTH)?, side(tag::HEIGHT)?);
        let samples = or(tag::SAMPLES_PER_PIXEL, 1)? as usize;
        if !(1..=64).contains(&samples) {
            return Err(unsupported(format!("{samples} samples per pixel")));
        }
        let bits = directory.numbers(tag::BITS, samples)?;
        let bits = match bits.first() {
            Some(&first) if bits.iter().all(|&bits| bits == first) => first as u32,
            Some(_) => return Err(unsupported("samples of different numbers of bits")),
            None => 1,
        };
        let format = match or(tag::SAMPLE_FORMAT, 1)? {
            1 | 4 => Format::Unsigned,
            2 => Format::Signed,
            3 => Format::Float,
            _ => return Err(unsupported("complex numbers")),
        };
        match (format, bits) {
            (Format::Unsigned | Format::Signed, 1..=16 | 32) | (Format::Float, 32 | 64) => {}
            _ => return Err(unsupported(format!("samples of {bits} bits"))),
        }
        let photometric = match directory.number(tag::PHOTOMETRIC)? {
            Some(photometric) => photometric,
            None if samples < 3 => 1,
            None => 2,
        };
        let compression_number = or(tag::COMPRESSION, 1)?;
        let is_jpeg = compression_number == 7;
        // The first extra sample decides; others are not looked at.
        let colours = match photometric {
            2 | 6 | 8 => 3,
            5 => 4,
            _ => 1,
        };
        let extra = directory.numbers(tag::EXTRA_SAMPLES, 1)?;
        let alpha = samples > colours && matches!(extra.first(), Some(1 | 2));
        let layout = match (photometric, alpha) {
            (0 | 1, false) => Layout::Grey,
            (0 | 1, true) => Layout::GreyAlpha,
            (2, false) => Layout::Rgb,
            (2, true) => Layout::Rgba,
            (3, _) => palette(directory, bits)?,
            (5, _) => Layout::Cmyk,
            (6, _) if is_jpeg => Layout::Rgb,
            (6, _) => return Err(unsupported("YCbCr colours without JPEG")),
            (8..=10, _) => return Err(unsupported("CIE L*a*b* colours")),
            (other, _) => return Err(unsupported(format!("photometric interpretation {other}"))),
        };
        if samples < colours {
            return Err(damaged("it has fewer samples than colours"));
        }
        let planar = or(tag::PLANAR, 1)? == 2 && samples > 1;
        let compression = match compression_number {
            1 => Compression::None,
            2 => Compression::Ccitt(Coding::Runs),
            3 => Compression::Ccitt(Coding::Group3 {
                two_dimensional: or(tag::GROUP3_OPTIONS, 0)? & 1 == 1,
            }),
            4 => Compression::Ccitt(Coding::Group4),
            5 => Compression::Lzw,
            8 | 32946 => Compression::Deflate,
            32773 => Compression::PackBits,
            7 => Compression::Jpeg {
                tables: directory.bytes(tag::JPEG_TABLES)?,
                components: match (photometric, planar) {
                    (6, false) => jpeg::Components::Ycc,
                    (6, true) => return Err(unsupported("YCbCr colours in planes")),
                    _ => jpeg::Components::Plain,
                },
            },
            other => return Err(unsupported(compression_name(other))),
        };
        match compression {
            Compression::Ccitt(_) if bits != 1 || samples != 1 => {
                return Err(damaged("facsimile coding is for one bit per pixel"));
            }
            Compression::Jpeg { .. } if bits != 8 || format != Format::Unsigned => {
                return Err(unsupported(format!("JPEG with {bits} bits")));
            }
            _ => {}
        }
        let differences = match or(tag::PREDICTOR, 1)? {
            _ if !matches!(compression, Compression::Lzw | Compression::Deflate) => false,
            1 => false,
            2 if matches!(bits, 8 | 16 | 32 | 64) => true,
            other => return Err(unsupported(format!("predictor {other} for {bits} bits"))),
        };
        let tiled = directory.number(tag::TILE_WIDTH)?.is_some();
        let chunk = match tiled {
            true => (side(tag::TILE_WIDTH)?, side(tag::TILE_HEIGHT)?),
            false => {
                let rows = or(tag::ROWS_PER_STRIP, u64::from(u32::MAX))?;
                let rows = usize::try_from(rows).unwrap_or(usize::MAX);
                (width, rows.min(height))
            }
        };
        let (offsets, lengths) = match tiled {
            true => (tag::TILE_OFFSETS, tag::TILE_LENGTHS),
            false => (tag::STRIP_OFFSETS, tag::STRIP_LENGTHS),
        };
        let count = |size: usize, part: usize| size.checked_div(part).map(|n| n + 1).unwrap_or(0);
        let most = count(width, chunk.0)
            .saturating_mul(count(height, chunk.1))
            .saturating_mul(samples);
        Ok(Self {
            file: directory.file(),
            width,
            height,
            bits,
            format,
            samples,
            premultiplied: alpha && extra.first() == Some(&1),
            layout,
            white_is_zero: photometric == 0,
            reversed_bits: or(tag::FILL_ORDER, 1)? == 2
                && !matches!(compression, Compression::Jpeg { .. }),
            compression,
            differences,
            planar,
            chunk,
            tiled,
            orientation: u8::try_from(or(tag::ORIENTATION, 1)?)
                .ok()
                .and_then(Orientation::from_exif)
                .unwrap_or(Orientation::NoTransforms),
            offsets: directory.numbers(offsets, most)?,
            lengths: directory.numbers(lengths, most)?,
        })
    }

    /// Samples of a pixel in one strip or tile.
    fn samples_in_chunk(&self) -> usize {
        if self.planar { 1 } else { self.samples }
    }

    fn read(&self, guard: &mut Guard<'_>) -> Result<Raster, Failure> {
        let (width, height) = (self.width, self.height);
        let (chunk_width, chunk_height) = self.chunk;
        if width == 0 || height == 0 || chunk_width == 0 || chunk_height == 0 {
            return Err(damaged(format!(
                "its header says {width} x {height} pixels"
            )));
        }
        // Tiles may reach beyond the picture, but not so far that decoding them takes for ever.
        let padded = |side: usize, chunk: usize| side.div_ceil(chunk).saturating_mul(chunk) as u64;
        let all = padded(width, chunk_width).saturating_mul(padded(height, chunk_height));
        if all > 4 * (width as u64 * height as u64) + MAX_PADDING {
            return Err(damaged("its tiles are far larger than the picture"));
        }
        let channels = self.layout.channels();
        let sample_bytes = match (self.bits, self.format) {
            (32.., _) => 4,
            (..=8, Format::Unsigned) => 1,
            _ => 2,
        };
        let pixels = width as u64 * height as u64;
        let chunk_pixels = (chunk_width as u64).saturating_mul(chunk_height as u64);
        // Samples, a copy in the mode of the file, their RGB form, and two forms of a chunk.
        let memory = pixels.saturating_mul(channels as u64 * (sample_bytes + 1) + 3);
        let in_chunk = (self.samples_in_chunk() as u64 * u64::from(self.bits)).div_ceil(4) + 4;
        let memory = memory.saturating_add(chunk_pixels.saturating_mul(in_chunk));
        guard.admit(&Header {
            width: width as u32,
            height: height as u32,
            orientation: self.orientation,
            memory,
        })?;

        let mut samples = match sample_bytes {
            1 => Samples::Bytes(vec![0; width * height * channels]),
            2 => Samples::Words(vec![0; width * height * channels]),
            _ => Samples::Floats(vec![0.0; width * height * channels]),
        };
        let columns = width.div_ceil(chunk_width);
        let rows = height.div_ceil(chunk_height);
        let planes = if self.planar { channels } else { 1 };
        for index in 0..planes * columns * rows {
            let plane = index / (columns * rows);
            let left = index % columns * chunk_width;
            let top = index / columns % rows * chunk_height;
            let stored_rows = match self.tiled {
                true => chunk_height,
                false => chunk_height.min(height - top),
            };
            let data = self.chunk(index, stored_rows)?;
            let row_bytes = self.row_bytes();
            let shown = (
                chunk_width.min(width - left),
                chunk_height.min(height - top),
            );
            for (y, row) in data.chunks_exact(row_bytes).take(shown.1).enumerate() {
                let start = ((top + y) * width + left) * channels;
                let range = start..start + shown.0 * channels;
                match &mut samples {
                    Samples::Bytes(samples) => self.bytes(row, plane, &mut samples[range]),
                    Samples::Words(samples) => self.words(row, plane, &mut samples[range]),
                    Samples::Floats(samples) => self.floats(row, plane, &mut samples[range]),
                }
            }
        }
        if self.premultiplied {
            divide_by_alpha(&mut samples, channels, self.bits);
        }
        let mut raster = Raster::new(width, height, self.layout.clone(), samples);
        raster.orientation = self.orientation;
        raster.bilevel = self.bits == 1 && self.samples == 1 && self.layout == Layout::Grey;
        if self.format == Format::Signed && self.bits <= 16 {
            raster.zero = 1 << (self.bits - 1);
            raster.bits = Some(self.bits);
        }
        Ok(raster)
    }

    /// Bytes of a row of a strip or tile.
    fn row_bytes(&self) -> usize {
        (self.chunk.0 * self.samples_in_chunk() * self.bits as usize).div_ceil(8)
    }

    /// The unpacked bytes of a strip or tile, `rows` rows.
    fn chunk(&self, index: usize, rows: usize) -> Result<Vec<u8>, Failure> {
        let early = || damaged("its pixels end early");
        let row_bytes = self.row_bytes();
        let size = row_bytes.checked_mul(rows).ok_or_else(early)?;
        let start = *self.offsets.get(index).ok_or_else(early)?;
        let start = usize::try_from(start).map_err(|_| early())?;
        let rest = self.file.bytes.get(start..).ok_or_else(early)?;
        let packed = match self.lengths.get(index) {
            Some(&length) => {
                let length = usize::try_from(length).map_err(|_| early())?;
                rest.get(..length).ok_or_else(early)?
            }
            // The lengths of some old writers are missing; what follows does no harm.
            None if self.lengths.is_empty() => rest,
            None => return Err(early()),
        };
        let reversed: Vec<u8>;
        let packed = match self.reversed_bits {
            true => {
                reversed = packed.iter().map(|byte| byte.reverse_bits()).collect();
                &reversed[..]
            }
            false => packed,
        };
        let mut data = match &self.compression {
            Compression::None => packed.get(..size).ok_or_else(early)?.to_vec(),
            Compression::Ccitt(coding) => ccitt::decode(packed, *coding, self.chunk.0, rows)?,
            Compression::Lzw => lzw(packed, size)?,
            Compression::Deflate => {
                let mut data = Vec::with_capacity(size);
                flate2::read::ZlibDecoder::new(packed)
                    .take(size as u64)
                    .read_to_end(&mut data)
                    .map_err(|error| damaged(error.to_string()))?;
                data
            }
            Compression::PackBits => pack_bits(packed, size)?,
            Compression::Jpeg { tables, components } => {
                self.jpeg(packed, *tables, *components, rows)?
            }
        };
        if data.len() < size {
            return Err(early());
        }
        data.truncate(size);
        if self.differences {
            for row in data.chunks_exact_mut(row_bytes) {
                self.add_differences(row);
            }
        }
        Ok(data)
    }

    fn jpeg(
        &self,
        packed: &[u8],
        tables: Option<&[u8]>,
        components: jpeg::Components,
        rows: usize,
    ) -> Result<Vec<u8>, Failure> {
        // What it costs was asked for with the page.
        let limits = Limits {
            max_pixels: self.chunk.0 as u64 * self.chunk.1 as u64,
            ..Limits::default()
        };
        let raster = jpeg::decode(packed, tables, components, &mut Guard::within(&limits))?;
        let fits = raster.width == self.chunk.0
            && raster.height >= rows
            && raster.layout.channels() == self.samples_in_chunk();
        match raster.samples {
            Samples::Bytes(bytes) if fits => Ok(bytes),
            _ => Err(damaged("a part of it has the wrong size")),
        }
    }

    /// Undoes predictor 2: each sample was stored as its difference from the one to its left.
    fn add_differences(&self, row: &mut [u8]) {
        let size = self.bits as usize / 8;
        let step = size * self.samples_in_chunk();
        for i in (step..row.len()).step_by(size) {
            let sum = self
                .number(&row[i - step..i - step + size])
                .wrapping_add(self.number(&row[i..i + size]));
            match self.file.big_endian {
                true => row[i..i + size].copy_from_slice(&sum.to_be_bytes()[8 - size..]),
                false => row[i..i + size].copy_from_slice(&sum.to_le_bytes()[..size]),
            }
        }
    }

    fn number(&self, bytes: &[u8]) -> u64 {
        let add = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
        match self.file.big_endian {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        }
    }

    /// Puts the samples of a row in their places; of planar pictures those of one channel.
    fn place<T: Copy>(&self, plane: usize, row: impl Iterator<Item = T>, output: &mut [T]) {
        let channels = self.layout.channels();
        if self.planar {
            for (pixel, value) in output.chunks_exact_mut(channels).zip(row) {
                pixel[plane] = value;
            }
            return;
        }
        let mut row = row;
        let surplus = self.samples - channels;
        for pixel in output.chunks_exact_mut(channels) {
            for (sample, value) in pixel.iter_mut().zip(&mut row) {
                *sample = value;
            }
            if surplus > 0 {
                row.nth(surplus - 1);
            }
        }
    }

    /// A row of samples of up to 8 bits.
    fn bytes(&self, row: &[u8], plane: usize, output: &mut [u8]) {
        let invert = if self.white_is_zero { 255 } else { 0 };
        if self.bits == 8 {
            return self.place(plane, row.iter().map(|&byte| byte ^ invert), output);
        }
        let values = self.unpacked(row);
        match self.layout {
            Layout::Palette(_) => self.place(plane, values.iter().map(|&v| v as u8), output),
            _ => {
                let values = values.iter().map(|&v| stretched(v, self.bits) ^ invert);
                self.place(plane, values, output);
            }
        }
    }

    /// A row of samples of 9 to 16 bits, or of signed ones.
    fn words(&self, row: &[u8], plane: usize, output: &mut [u16]) {
        let most = u16::MAX >> (16 - self.bits);
        let invert = if self.white_is_zero { most } else { 0 };
        // Turns two's complement into the distance from the lowest value.
        let sign = match self.format {
            Format::Signed => 1 << (self.bits - 1),
            _ => 0,
        };
        if self.bits == 16 {
            let values = row.chunks_exact(2).map(|bytes| self.number(bytes) as u16);
            return self.place(plane, values.map(|v| v ^ sign ^ invert), output);
        }
        let values = self.unpacked(row);
        self.place(plane, values.iter().map(|&v| v ^ sign ^ invert), output);
    }

    /// A row of samples of 32 or 64 bits.
    fn floats(&self, row: &[u8], plane: usize, output: &mut [f32]) {
        let value = |bytes: &[u8]| {
            let number = self.number(bytes);
            match (self.format, self.bits) {
                (Format::Unsigned, _) => number as f32,
                (Format::Signed, _) => number as u32 as i32 as f32,
                (Format::Float, 32) => f32::from_bits(number as u32),
                (Format::Float, _) => f64::from_bits(number) as f32,
            }
        };
        self.place(
            plane,
            row.chunks_exact(self.bits as usize / 8).map(value),
            output,
        );
    }

    fn unpacked(&self, row: &[u8]) -> Vec<u16> {
        let mut values = vec![0; self.chunk.0 * self.samples_in_chunk()];
        unpack(row, self.bits, &mut values);
        values
    }
}

/// The colours of a palette: 16 bits each, all of red first.
fn palette(directory: &Directory<'_>, bits: u32) -> Result<Layout, Failure> {
    if bits > 8 {
        return Err(unsupported(format!("a palette for {bits} bits")));
    }
    let count = 1 << bits;
    let values = directory.numbers(tag::COLOURS, 3 * count)?;
    if values.len() < 3 * count {
        return Err(damaged("its palette is too short"));
    }
    let level = |channel: usize, i: usize| (values[channel * count + i] >> 8) as u8;
    let colours = (0..count).map(|i| [level(0, i), level(1, i), level(2, i)]);
    Ok(Layout::Palette(colours.collect()))
}

/// Undoes the multiplication by transparency, as Pillow does.
fn divide_by_alpha(samples: &mut Samples, channels: usize, bits: u32) {
    fn divide<T: Copy + Into<u64>>(
        samples: &mut [T],
        channels: usize,
        most: u64,
        from: impl Fn(u64) -> T,
    ) {
        for pixel in samples.chunks_exact_mut(channels) {
            if let Some((alpha, colours)) = pixel.split_last_mut() {
                let alpha: u64 = (*alpha).into();
                if alpha != 0 && alpha != most {
                    for colour in colours {
                        *colour = from(((*colour).into() * most / alpha).min(most));
                    }
                }
            }
        }
    }
    let most = (1_u64 << bits.min(16)) - 1;
    match samples {
        // Those of fewer bits are stretched.
        Samples::Bytes(samples) => divide(samples, channels, 255, |v| v as u8),
        Samples::Words(samples) => divide(samples, channels, most, |v| v as u16),
        Samples::Floats(_) => {}
    }
}

fn lzw(packed: &[u8], size: usize) -> Result<Vec<u8>, Failure> {
    use weezl::{BitOrder, LzwStatus, decode::Configuration};
    let mut decoder = Configuration::with_tiff_size_switch(BitOrder::Msb, 8)
        .with_yield_on_full_buffer(true)
        .build();
    let mut data = vec![0; size];
    let (mut read, mut written) = (0, 0);
    while written < size {
        let result = decoder.decode_bytes(&packed[read..], &mut data[written..]);
        read += result.consumed_in;
        written += result.consumed_out;
        match result.status.map_err(|error| damaged(error.to_string()))? {
            LzwStatus::Ok if result.consumed_in + result.consumed_out > 0 => {}
            _ => break,
        }
    }
    data.truncate(written);
    Ok(data)
}

fn pack_bits(packed: &[u8], size: usize) -> Result<Vec<u8>, Failure> {
    let mut data = Vec::with_capacity(size);
    let mut rest = packed;
    while data.len() < size {
        let early = || damaged("its pixels end early");
        let (&control, after) = rest.split_first().ok_or_else(early)?;
        rest = match control as i8 {
            -128 => after,
            count @ 0.. => {
                let (bytes, after) = after
                    .split_at_checked(count as usize + 1)
                    .ok_or_else(early)?;
                data.extend_from_slice(bytes);
                after
            }
            count => {
                let (&byte, after) = after.split_first().ok_or_else(early)?;
                let count = 1 + usize::from(count.unsigned_abs());
                data.extend(std::iter::repeat_n(byte, count));
                after
            }
        };
    }
    Ok(data)
}

fn compression_name(number: u64) -> String {
    let name = match number {
        6 => "old-style JPEG",
        34712 => "JPEG 2000",
        34887 => "LERC",
        34925 => "LZMA",
        50000 => "Zstandard",
        50001 => "WebP",
        50002 => "JPEG XL",
        _ => return format!("compression {number}"),
    };
    format!("{name} compression")
}
