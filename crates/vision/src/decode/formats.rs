//! Which format bytes or a file name are of.

use std::path::Path;

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Bmp,
    Jpeg,
    Png,
    Tiff,
    WebP,
}

impl Format {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bmp => "BMP",
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::Tiff => "TIFF",
            Self::WebP => "WebP",
        }
    }
}

/// What a file is, as far as images go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An image in a format that is read.
    Image,
    /// An image or video in a format that exists, and is not read: its name.
    UnreadImage(&'static str),
    /// Anything else.
    Other,
}

impl FileKind {
    /// By the ending of a file's name alone, in any case. Programs that search folders leave out what
    /// is not [`FileKind::Image`], and name what is [`FileKind::UnreadImage`].
    pub fn of_name(path: &Path) -> Self {
        let Some(ending) = path
            .extension()
            .map(|ending| ending.to_string_lossy().to_lowercase())
        else {
            return Self::Other;
        };
        if IMAGE_ENDINGS.contains(&ending.as_str()) {
            return Self::Image;
        }
        // Such as volume.nii.gz.
        let inner = path.file_stem().map(Path::new).and_then(Path::extension);
        let is_nifti = ending == "gz" && inner.is_some_and(|ending| ending == "nii");
        UNREAD_ENDINGS
            .iter()
            .find(|(endings, _)| endings.contains(&ending.as_str()))
            .map(|(_, name)| *name)
            .or(is_nifti.then_some("NIfTI"))
            .map_or(Self::Other, Self::UnreadImage)
    }

    /// By the first bytes of a file; 352 are enough.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        match recognise(bytes) {
            Content::Readable(_) => Self::Image,
            Content::OtherImage(name) => Self::UnreadImage(name),
            Content::NoImage(_) => Self::Other,
        }
    }
}

/// Endings of the formats that are read.
pub const IMAGE_ENDINGS: [&str; 10] = [
    "png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "jpe", "jfif", "dib",
];

/// Endings of formats that are not read, and their names.
const UNREAD_ENDINGS: &[(&[&str], &str)] = &[
    (&["gif"], "GIF"),
    (&["heic", "heif", "hif"], "HEIC"),
    (&["avif"], "AVIF"),
    (&["jp2", "j2k", "j2c", "jpf", "jpx", "jpm"], "JPEG 2000"),
    (&["jxl"], "JPEG XL"),
    (&["jxr", "wdp", "hdp"], "JPEG XR"),
    (&["pbm", "pgm", "ppm", "pnm", "pam", "pfm"], "Netpbm"),
    (&["dcm", "dicom"], "DICOM"),
    (&["nii"], "NIfTI"),
    (&["mha", "mhd"], "MetaImage"),
    (&["nrrd"], "NRRD"),
    (&["exr"], "OpenEXR"),
    (&["hdr"], "Radiance HDR"),
    (&["fits", "fit", "fts"], "FITS"),
    (&["psd", "psb"], "Photoshop"),
    (&["xcf"], "GIMP"),
    (&["svg", "svgz"], "SVG"),
    (&["ico", "cur"], "ICO"),
    (&["tga"], "TGA"),
    (&["dds"], "DDS"),
    (&["qoi"], "QOI"),
    (&["pcx"], "PCX"),
    (
        &[
            "dng", "cr2", "cr3", "nef", "arw", "raf", "orf", "rw2", "raw",
        ],
        "camera raw",
    ),
    (&["czi", "lif", "nd2", "svs", "ndpi", "mrxs"], "microscope"),
    (
        &[
            "avi", "mp4", "m4v", "mov", "mkv", "webm", "mpg", "mpeg", "wmv",
        ],
        "video",
    ),
];

/// What the first bytes say.
pub(super) enum Content {
    Readable(Format),
    OtherImage(&'static str),
    NoImage(String),
}

/// Formats that are read: signatures.
const IMAGES: &[(&[u8], Format)] = &[
    (b"\x89PNG\r\n\x1a\n", Format::Png),
    (b"\xff\xd8\xff", Format::Jpeg),
    (b"BM", Format::Bmp),
    (b"II*\0", Format::Tiff),
    (b"MM\0*", Format::Tiff),
    (b"II+\0\x08\0\0\0", Format::Tiff),
    (b"MM\0+\0\x08\0\0", Format::Tiff),
];

/// Image formats that users have, and that are not decoded here: offset, signature, name.
const OTHER_IMAGES: &[(usize, &[u8], &str)] = &[
    (0, b"GIF8", "GIF"),
    (128, b"DICM", "DICOM"),
    (344, b"n+1\0", "NIfTI"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\x01\0", "ICO"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"P1\n", "PBM"),
    (0, b"P2\n", "PGM"),
    (0, b"P3\n", "PPM"),
    (0, b"P4\n", "PBM"),
    (0, b"P5\n", "PGM"),
    (0, b"P6\n", "PPM"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"II\xbc", "JPEG XR"),
    (0, b"gimp xcf", "GIMP"),
    (0, b"NRRD", "NRRD"),
];

/// Files that are given by mistake: offset, signature, what to call it.
const NO_IMAGES: &[(usize, &[u8], &str)] = &[
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (4, b"ftyp", "a video"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x7fELF", "a program"),
    (0, b"MZ", "a program"),
];

pub(super) fn recognise(bytes: &[u8]) -> Content {
    let readable = IMAGES
        .iter()
        .find(|(signature, _)| bytes.starts_with(signature));
    if let Some((_, format)) = readable {
        return Content::Readable(*format);
    }
    if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        return Content::Readable(Format::WebP);
    }
    let known = |table: &[(usize, &[u8], &'static str)]| {
        table
            .iter()
            .find(|(at, signature, _)| bytes.get(*at..).is_some_and(|b| b.starts_with(signature)))
            .map(|(_, _, name)| *name)
    };
    if let Some(name) = known(OTHER_IMAGES) {
        return Content::OtherImage(name);
    }
    if let Some(name) = known(NO_IMAGES) {
        return Content::NoImage(name.into());
    }
    Content::NoImage(describe_start(bytes))
}

/// Describes bytes of no known kind by how they start.
fn describe_start(bytes: &[u8]) -> String {
    const TEXT_SAMPLE: usize = 256;
    const SHOWN_CHARS: usize = 24;
    const SHOWN_BYTES: usize = 8;

    let sample = &bytes[..bytes.len().min(TEXT_SAMPLE)];
    let text = match std::str::from_utf8(sample) {
        Ok(text) => Some(text),
        // The sample may end inside a character.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&sample[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    if let Some(text) =
        text.filter(|text| text.chars().all(|c| !c.is_control() || c.is_whitespace()))
    {
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let start: String = words.chars().take(SHOWN_CHARS).collect();
        return format!("text (\"{start}\")");
    }
    if sample.iter().all(|&byte| byte == 0) {
        return "zeros only, as an interrupted copy leaves them".into();
    }
    let start: Vec<_> = sample
        .iter()
        .take(SHOWN_BYTES)
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("unknown binary data (first bytes {})", start.join(" "))
}
