//! Baseline and progressive JPEG (ITU T.81), pixel for pixel as libjpeg-turbo and so Pillow decode it.
//!
//! The crates that were tried differ from libjpeg by some levels, mix up chroma that comes in scans of
//! its own (zune-jpeg 0.5), or make up what is missing. Here a file whose data ends early is an error,
//! wherever it ends, as a detector would report the made-up part as a defect.
//!
//! `huffman` codes and bits, `scan` coefficients, `idct` samples, `colour` pixels.

mod colour;
mod huffman;
mod idct;
mod scan;

use image::metadata::Orientation;

use self::colour::Colours;
use self::huffman::Huffman;
use super::guard::{Failure, Guard, Header, damaged, unsupported};
use super::raster::{Layout, Raster, Samples};

/// What the components of a JPEG in another container are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Components {
    /// As the file says by its markers, as libjpeg guesses.
    AsMarked,
    /// Grey, RGB or CMYK as they are.
    Plain,
    /// Y, Cb, Cr.
    Ycc,
}

/// A colour component.
struct Component {
    id: u8,
    /// Sampling factors across and down.
    sampling: (usize, usize),
    /// Number of its quantisation table.
    table: usize,
    /// That table, in the order of the rows, from when its first scan began.
    quantisation: Option<[u16; 64]>,
    /// Samples that belong to the picture.
    width: usize,
    height: usize,
    /// Blocks, those included that only fill the last units.
    blocks: (usize, usize),
    /// Samples of a row, those of the filling blocks included.
    stride: usize,
    samples: Vec<u8>,
    /// Of progressive files: all blocks.
    coefficients: Vec<[i16; 64]>,
    /// Of each coefficient: the lowest bit that has come, 255 for none.
    lowest_bit: [u8; 64],
}

/// The header of the picture (annex B.2.2).
struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    /// Largest sampling factors.
    sampling: (usize, usize),
    components: Vec<Component>,
}

impl Frame {
    /// How many pixels a sample covers, across and down.
    fn expansion(&self, component: &Component) -> (usize, usize) {
        let (across, down) = component.sampling;
        (self.sampling.0 / across, self.sampling.1 / down)
    }

    /// Interleaved units, across and down.
    fn units(&self) -> (usize, usize) {
        (
            self.width.div_ceil(8 * self.sampling.0),
            self.height.div_ceil(8 * self.sampling.1),
        )
    }
}

/// Tables that hold until they are replaced.
struct Tables {
    quantisation: [Option<[u16; 64]>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    restart_interval: usize,
}

/// Row-by-row place of each coefficient in zigzag order.
const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20,
    13, 6, 7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59,
    52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// More scans than any encoder writes; each of a few bytes can cost a walk over all blocks.
const MAX_SCANS: usize = 256;

/// Decodes a JPEG. `shared` are the tables that a TIFF keeps outside its strips.
pub(super) fn decode(
    bytes: &[u8],
    shared: Option<&[u8]>,
    components: Components,
    guard: &mut Guard<'_>,
) -> Result<Raster, Failure> {
    let mut decoder = Decoder {
        tables: Tables {
            quantisation: [None; 4],
            dc: [
                Some(Huffman::standard(false, false)?),
                Some(Huffman::standard(false, true)?),
                None,
                None,
            ],
            ac: [
                Some(Huffman::standard(true, false)?),
                Some(Huffman::standard(true, true)?),
                None,
                None,
            ],
            restart_interval: 0,
        },
        frame: None,
        adobe: None,
        jfif: false,
        orientation: None,
        scans: 0,
    };
    if let Some(shared) = shared {
        decoder.read(shared, guard)?;
    }
    decoder.read(bytes, guard)?;
    decoder.finish(components)
}

struct Decoder {
    tables: Tables,
    frame: Option<Frame>,
    /// The colour transform that an Adobe segment states.
    adobe: Option<u8>,
    jfif: bool,
    orientation: Option<Orientation>,
    scans: usize,
}

impl Decoder {
    /// Follows the markers to the end of the image.
    fn read(&mut self, bytes: &[u8], guard: &mut Guard<'_>) -> Result<(), Failure> {
        const MISSING_END: &str = "the end of the image is missing";
        let mut rest = bytes;
        loop {
            let at = rest.iter().position(|&byte| byte == 0xFF);
            rest = &rest[at.ok_or_else(|| damaged(MISSING_END))?..];
            let at = rest.iter().position(|&byte| byte != 0xFF);
            let at = at.ok_or_else(|| damaged(MISSING_END))?;
            let marker = rest[at];
            rest = &rest[at + 1..];
            match marker {
                // Stuffed bytes and stray restarts, where data goes on behind its end.
                0x00 | 0x01 | 0xD0..=0xD8 => continue,
                0xD9 => return Ok(()),
                _ => {}
            }
            let length = rest.first_chunk().map(|&length| u16::from_be_bytes(length));
            let length = usize::from(length.ok_or_else(|| damaged(MISSING_END))?);
            let segment = rest.get(2..length).ok_or_else(|| damaged(MISSING_END))?;
            rest = &rest[length..];
            match marker {
                0xC0..=0xC2 => self.start_frame(segment, marker == 0xC2, guard)?,
                0xC4 => self.read_huffman(segment)?,
                0xC3 => return Err(unsupported("lossless JPEG")),
                0xC5..=0xC7 | 0xCD..=0xCF => return Err(unsupported("hierarchical JPEG")),
                0xC9..=0xCB => return Err(unsupported("arithmetic coding")),
                0xDA => {
                    let frame = self.frame.as_mut();
                    let frame = frame.ok_or_else(|| damaged("it has a scan before its size"))?;
                    self.scans += 1;
                    if self.scans > MAX_SCANS {
                        return Err(damaged("it has too many scans"));
                    }
                    let used = scan::read(frame, &self.tables, segment, rest)?;
                    rest = &rest[used..];
                }
                0xDB => self.read_quantisation(segment)?,
                0xDC => return Err(unsupported("a height behind the pixels")),
                0xDD => {
                    let interval = segment.first_chunk().map(|&i| u16::from_be_bytes(i));
                    let interval = interval.ok_or_else(|| damaged("a segment is too short"))?;
                    self.tables.restart_interval = usize::from(interval);
                }
                0xE0 => self.jfif |= segment.starts_with(b"JFIF\0"),
                0xE1 => {
                    if let (None, Some(exif)) =
                        (self.orientation, segment.strip_prefix(b"Exif\0\0"))
                    {
                        self.orientation = Orientation::from_exif_chunk(exif);
                    }
                }
                0xEE => {
                    if let (true, Some(&transform)) =
                        (segment.starts_with(b"Adobe"), segment.get(11))
                    {
                        self.adobe = Some(transform);
                    }
                }
                _ => {}
            }
        }
    }

    fn start_frame(
        &mut self,
        segment: &[u8],
        progressive: bool,
        guard: &mut Guard<'_>,
    ) -> Result<(), Failure> {
        if self.frame.is_some() {
            return Err(damaged("it has two headers"));
        }
        let [precision, h1, h0, w1, w0, count, components @ ..] = segment else {
            return Err(damaged("its header is too short"));
        };
        let (width, height) = (
            u16::from_be_bytes([*w1, *w0]),
            u16::from_be_bytes([*h1, *h0]),
        );
        if *precision != 8 {
            return Err(unsupported(format!("{precision} bits per sample")));
        }
        if !matches!(count, 1 | 3 | 4) {
            return Err(unsupported(format!("{count} components")));
        }
        let (components, _) = components.as_chunks::<3>();
        let components = components
            .get(..usize::from(*count))
            .ok_or_else(|| damaged("its header is too short"))?;
        let factors = |factors: u8| (usize::from(factors >> 4), usize::from(factors & 15));
        let all = components.iter().map(|&[_, f, _]| factors(f));
        if all
            .clone()
            .any(|(across, down)| !(1..=4).contains(&across) || !(1..=4).contains(&down))
        {
            return Err(damaged("its sampling factors are out of range"));
        }
        let sampling = all.fold((1, 1), |a, b| (a.0.max(b.0), a.1.max(b.1)));
        let mut frame = Frame {
            width: width.into(),
            height: height.into(),
            progressive,
            sampling,
            components: vec![],
        };
        let units = frame.units();
        let (mut pixels, mut blocks_in_all) = (0_u64, 0_u64);
        for &[id, f, table] in components {
            let (across, down) = factors(f);
            if sampling.0 % across != 0 || sampling.1 % down != 0 {
                return Err(unsupported("chroma at a fraction of the resolution"));
            }
            let blocks = (units.0 * across, units.1 * down);
            let size = |full: usize, part: usize, most: usize| (full * part).div_ceil(most);
            frame.components.push(Component {
                id,
                sampling: (across, down),
                table: table.into(),
                quantisation: None,
                width: size(frame.width, across, sampling.0),
                height: size(frame.height, down, sampling.1),
                blocks,
                stride: blocks.0 * 8,
                samples: vec![],
                coefficients: vec![],
                lowest_bit: [255; 64],
            });
            blocks_in_all += blocks.0 as u64 * blocks.1 as u64;
            // Interleaved, and a copy or the RGB form.
            pixels += 2 * u64::from(width) * u64::from(height);
        }
        let per_block = if progressive { 64 + 128 } else { 64 };
        guard.admit(&Header {
            width: width.into(),
            height: height.into(),
            orientation: self.orientation.unwrap_or(Orientation::NoTransforms),
            memory: pixels + blocks_in_all * per_block,
        })?;
        for component in &mut frame.components {
            let blocks = component.blocks.0 * component.blocks.1;
            component.samples = vec![0; blocks * 64];
            if progressive {
                component.coefficients = vec![[0; 64]; blocks];
            }
        }
        self.frame = Some(frame);
        Ok(())
    }

    fn read_quantisation(&mut self, mut segment: &[u8]) -> Result<(), Failure> {
        let short = || damaged("a quantisation table is too short");
        while let Some((&kind, rest)) = segment.split_first() {
            let is_wide = kind >> 4 != 0;
            let length = if is_wide { 128 } else { 64 };
            let (values, rest) = rest.split_at_checked(length).ok_or_else(short)?;
            let mut table = [0; 64];
            for (i, &place) in ZIGZAG.iter().enumerate() {
                table[usize::from(place)] = match is_wide {
                    true => u16::from_be_bytes([values[2 * i], values[2 * i + 1]]),
                    false => values[i].into(),
                };
            }
            let slot = self.tables.quantisation.get_mut(usize::from(kind & 15));
            *slot.ok_or_else(|| damaged("a table has a number above 3"))? = Some(table);
            segment = rest;
        }
        Ok(())
    }

    fn read_huffman(&mut self, mut segment: &[u8]) -> Result<(), Failure> {
        let short = || damaged("a Huffman table is too short");
        while let Some((&kind, rest)) = segment.split_first() {
            let (counts, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            let length = counts.iter().map(|&count| usize::from(count)).sum();
            let (symbols, rest) = rest.split_at_checked(length).ok_or_else(short)?;
            let tables = match kind >> 4 {
                0 => &mut self.tables.dc,
                _ => &mut self.tables.ac,
            };
            let slot = tables.get_mut(usize::from(kind & 15));
            *slot.ok_or_else(|| damaged("a table has a number above 3"))? =
                Some(Huffman::new(counts, symbols)?);
            segment = rest;
        }
        Ok(())
    }

    fn finish(self, components: Components) -> Result<Raster, Failure> {
        let colours = self.colours(components);
        let mut frame = self.frame.ok_or_else(|| damaged("it holds no picture"))?;
        for component in &mut frame.components {
            if component.lowest_bit.iter().any(|&bit| bit != 0) {
                return Err(damaged("some of its scans are missing"));
            }
            if frame.progressive {
                component.transform_all()?;
            }
        }
        let mut samples = colour::interleave(&frame, colours);
        let layout = match frame.components.len() {
            1 => Layout::Grey,
            3 => Layout::Rgb,
            _ => {
                if components == Components::AsMarked {
                    // As Adobe's programs write them, and all readers expect.
                    samples.iter_mut().for_each(|ink| *ink = 255 - *ink);
                }
                Layout::Cmyk
            }
        };
        Ok(Raster {
            orientation: self.orientation.unwrap_or(Orientation::NoTransforms),
            ..Raster::new(frame.width, frame.height, layout, Samples::Bytes(samples))
        })
    }

    /// What the components mean (jdapimin.c, `default_decompress_parms`).
    fn colours(&self, components: Components) -> Colours {
        let ids: Vec<u8> = match &self.frame {
            Some(frame) => frame.components.iter().map(|c| c.id).collect(),
            None => vec![],
        };
        match (components, ids.len()) {
            (Components::Ycc, 3) => Colours::Ycc,
            (Components::AsMarked, 3) => match (self.jfif, self.adobe) {
                (true, _) => Colours::Ycc,
                (false, Some(0)) => Colours::Plain,
                (false, None) if ids == *b"RGB" => Colours::Plain,
                _ => Colours::Ycc,
            },
            (Components::AsMarked, 4) if self.adobe.is_some_and(|transform| transform != 0) => {
                Colours::Ycck
            }
            _ => Colours::Plain,
        }
    }
}

impl Component {
    fn transform_all(&mut self) -> Result<(), Failure> {
        let coefficients = std::mem::take(&mut self.coefficients);
        for (i, block) in coefficients.iter().enumerate() {
            self.put(i % self.blocks.0, i / self.blocks.0, block)?;
        }
        Ok(())
    }

    /// Turns coefficients into the samples of the block at (`column`, `row`).
    #[inline]
    fn put(&mut self, column: usize, row: usize, block: &[i16; 64]) -> Result<(), Failure> {
        let table = self.quantisation.as_ref();
        let table = table.ok_or_else(|| damaged("a quantisation table is missing"))?;
        let start = row * 8 * self.stride + column * 8;
        idct::inverse(block, table, &mut self.samples[start..], self.stride);
        Ok(())
    }
}
