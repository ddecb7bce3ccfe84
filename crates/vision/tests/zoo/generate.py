"""Makes a folder of image files of every kind, and what they must decode to.

    python generate.py FOLDER

FOLDER/index.tsv has a line for each file: name, largest difference allowed, and what is expected: `pillow`
or `source` (FOLDER/NAME.rgb: width and height as 32-bit numbers, then RGB), or `refused`. `pillow` is what
Pillow decodes, turned upright and made RGB; `source` are the pixels that went into the file, where Pillow
does not read it, or brings more than 8 bits to 8 otherwise.
"""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps

import jpeg

warnings.simplefilter("ignore")
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
index = []


def put(name, data, expected=None, tolerance=0, refused=False):
    """`expected`: the RGB pixels; Pillow's if None."""
    (folder / name).write_bytes(data)
    if refused:
        index.append((name, 0, "refused"))
        return
    kind = "source"
    if expected is None:
        kind = "pillow"
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        expected = np.array(image.convert("RGB"))
    rgb = np.ascontiguousarray(expected, dtype=np.uint8)
    if rgb.ndim == 2:
        rgb = np.repeat(rgb[:, :, None], 3, axis=2)
    header = struct.pack("<II", rgb.shape[1], rgb.shape[0])
    (folder / f"{name}.rgb").write_bytes(header + rgb.tobytes())
    index.append((name, tolerance, kind))


def scene(width, height, channels, seed=0):
    """Something like a photo: slopes, an edge, noise. Floats in 0..=1."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for channel in range(channels):
        plane = 0.5 + 0.4 * np.sin(x / (5 + channel) + channel) * np.cos(y / (7 - channel))
        plane[(x + 2 * y) % 23 < 6] *= 0.3 + 0.2 * channel
        planes.append(plane + rng.normal(0, 0.03, plane.shape))
    return np.clip(np.stack(planes, -1), 0, 1)


def bytes_of(width, height, channels, seed=0):
    pixels = (scene(width, height, channels, seed) * 255).round().astype(np.uint8)
    return pixels[:, :, 0] if channels == 1 else pixels


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


SIZES = [(1, 1), (1, 9), (9, 1), (2, 2), (3, 3), (16, 16), (17, 33), (61, 43)]
SIZE = (61, 43)


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


# JPEG as Pillow writes it.
for width, height in SIZES:
    for mode, channels in [("L", 1), ("RGB", 3), ("CMYK", 4)]:
        image = Image.fromarray(bytes_of(width, height, channels), mode)
        for progressive in (False, True):
            for subsampling in (0, 1, 2) if mode == "RGB" else (0,):
                for quality in (40, 95):
                    kind = "progressive" if progressive else "baseline"
                    name = f"jpeg_{mode}_{width}x{height}_{kind}_{subsampling}_{quality}.jpg"
                    options = dict(quality=quality, progressive=progressive, subsampling=subsampling)
                    put(name, saved(image, "JPEG", **options))
colour = Image.fromarray(bytes_of(*SIZE, 3))
for orientation in range(1, 9):
    put(f"jpeg_exif_{orientation}.jpg", saved(colour, "JPEG", exif=exif(orientation)))
    put(f"png_exif_{orientation}.png", saved(colour, "PNG", exif=exif(orientation)))
    put(f"webp_exif_{orientation}.webp", saved(colour, "WEBP", lossless=True, exif=exif(orientation)))
    put(f"tiff_orientation_{orientation}.tif", saved(colour, "TIFF", tiffinfo={274: orientation}))
for rows in (1, 2):
    data = saved(colour, "JPEG", restart_marker_rows=rows, progressive=rows == 2)
    put(f"jpeg_restart_rows_{rows}.jpg", data)
put("jpeg_optimised.jpg", saved(colour, "JPEG", optimize=True))
put("jpeg_keep_rgb.jpg", saved(colour, "JPEG", keep_rgb=True))
put("jpeg_trailing_data.jpg", saved(colour, "JPEG") + b"maker notes")

# JPEG as Pillow does not write it.
JFIF = jpeg.segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0")


def adobe(transform):
    return jpeg.segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


FACTORS = {
    "444": [(1, 1)] * 3,
    "422": [(2, 1), (1, 1), (1, 1)],
    "420": [(2, 2), (1, 1), (1, 1)],
    "440": [(1, 2), (1, 1), (1, 1)],
    "411": [(4, 1), (1, 1), (1, 1)],
    "410": [(4, 2), (1, 1), (1, 1)],
    "441": [(1, 4), (1, 1), (1, 1)],
    "uneven": [(2, 2), (2, 1), (1, 2)],
    "small_luma": [(1, 1), (2, 2), (1, 1)],
}
for width, height in [(1, 1), (5, 3), (17, 33), (61, 43)]:
    ycc = np.moveaxis(scene(width, height, 3) * 255, -1, 0)
    for name, factors in FACTORS.items():
        for separate in (False, True):
            for restart in (0, 3):
                kind = ("separate" if separate else "together") + f"_{restart}"
                data = jpeg.encode(ycc, factors, separate, restart, markers=JFIF)
                put(f"jpeg_{name}_{width}x{height}_{kind}.jpg", data)
ycc = np.moveaxis(scene(*SIZE, 3) * 255, -1, 0)
four = np.moveaxis(scene(*SIZE, 4) * 255, -1, 0)
put("jpeg_no_marker.jpg", jpeg.encode(ycc, FACTORS["420"]))
put("jpeg_ids_rgb.jpg", jpeg.encode(ycc, FACTORS["444"], ids=list(b"RGB")))
put("jpeg_ids_other.jpg", jpeg.encode(ycc, FACTORS["444"], ids=[0, 7, 9]))
put("jpeg_adobe_rgb.jpg", jpeg.encode(ycc, FACTORS["444"], markers=adobe(0)))
put("jpeg_adobe_ycc.jpg", jpeg.encode(ycc, FACTORS["422"], markers=adobe(1)))
put("jpeg_wide_tables.jpg", jpeg.encode(ycc, FACTORS["422"], wide_tables=True))
put("jpeg_grey_2x2.jpg", jpeg.encode(ycc[:1], [(2, 2)], restart=2))
for transform in (0, 2):
    for name, factors in [("444", [(1, 1)] * 4), ("420", [(2, 2), (1, 1), (1, 1), (2, 2)])]:
        for separate in (False, True):
            data = jpeg.encode(four, factors, separate, markers=adobe(transform))
            put(f"jpeg_cmyk_{transform}_{name}_{separate}.jpg", data)
for keep in (0.0, 0.3, 0.9):
    for separate in (False, True):
        data = jpeg.encode(ycc, FACTORS["420"], separate, keep=keep)
        put(f"jpeg_ends_early_{keep}_{separate}.jpg", data, refused=True)
        data = jpeg.encode(ycc, FACTORS["420"], separate, restart=2, keep=keep)
        put(f"jpeg_restarts_end_early_{keep}_{separate}.jpg", data, refused=True)
progressive = saved(colour, "JPEG", progressive=True)
scans = [i for i in range(len(progressive) - 1) if progressive[i : i + 2] == b"\xff\xda"]
for scan in scans[1:]:
    put(f"jpeg_scans_missing_{scan}.jpg", progressive[:scan] + b"\xff\xd9", refused=True)


# PNG, written here: Pillow does not interlace.
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples, depth, colour_type, interlaced=False, chunks=b""):
    height, width = samples.shape[:2]
    samples = samples.reshape(height, width, -1).astype(int)

    def rows(part):
        out = b""
        for number, row in enumerate(part):
            if depth == 16:
                packed = row.astype(">u2").tobytes()
            elif depth == 8:
                packed = row.astype(np.uint8).tobytes()
            else:
                bits = (row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1
                packed = np.packbits(bits.astype(np.uint8)).tobytes()
            out += b"\0" + packed if number % 2 else b"\x01" + sub(packed, row.shape[-1])
        return out

    def sub(packed, channels):
        step = max(1, channels * depth // 8)
        data = np.frombuffer(packed, np.uint8).astype(int)
        data[step:] -= np.frombuffer(packed, np.uint8).astype(int)[:-step]
        return (data % 256).astype(np.uint8).tobytes()

    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        parts = [samples[y::dy, x::dx] for x, y, dx, dy in passes]
        data = b"".join(rows(part) for part in parts if part.shape[0] and part.shape[1])
    else:
        data = rows(samples)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, int(interlaced))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


def levels(width, height, channels, most):
    return (scene(width, height, channels) * most).round().astype(int)


def to_bytes(values, most):
    return np.floor(values.astype(float) * 255 / most + 0.5)


for width, height in SIZES:
    for interlaced in (False, True):
        place = f"{width}x{height}_{'interlaced' if interlaced else 'rows'}"
        for depth in (1, 2, 4, 8):
            values = levels(width, height, 1, 2**depth - 1)
            put(f"png_grey{depth}_{place}.png", png(values, depth, 0, interlaced))
            palette = np.random.default_rng(1).integers(0, 256, (2**depth, 3)).astype(np.uint8)
            clear = chunk(b"tRNS", bytes([0, 128][: 2**depth]))
            for name, extra in [("", b""), ("_clear", clear)]:
                chunks = chunk(b"PLTE", palette.tobytes()) + extra
                put(f"png_palette{depth}{name}_{place}.png", png(values, depth, 3, interlaced, chunks))
        for kind, channels in [(4, 2), (2, 3), (6, 4)]:
            values = levels(width, height, channels, 255)
            put(f"png_type{kind}_8_{place}.png", png(values, 8, kind, interlaced))
        for kind, channels in [(0, 1), (4, 2), (2, 3), (6, 4)]:
            values = levels(width, height, channels, 65535)
            shown = values[:, :, : {1: 1, 2: 1, 3: 3, 4: 3}[channels]]
            expected = np.broadcast_to(to_bytes(shown, 65535), (height, width, 3))
            put(f"png_type{kind}_16_{place}.png", png(values, 16, kind, interlaced), expected)
values = levels(*SIZE, 3, 255)
put("png_clear_colour.png", png(values, 8, 2, chunks=chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))))
for bits in (10, 12, 14):
    values = levels(*SIZE, 1, 2**bits - 1)
    told = chunk(b"sBIT", bytes([bits]))
    expected = to_bytes(np.repeat(values, 3, 2), 2**bits - 1)
    put(f"png_sbit_low_{bits}.png", png(values, 16, 0, chunks=told), expected)
    high = values << (16 - bits)
    put(f"png_sbit_high_{bits}.png", png(high, 16, 0, chunks=told), to_bytes(np.repeat(high, 3, 2), 65535))
whole = png(levels(*SIZE, 3, 255), 8, 2)
put("png_ends_early.png", whole[: len(whole) // 2], refused=True)
body = zlib.compress(b"\0" * 100)
header = struct.pack(">IIBBBBB", *SIZE, 8, 2, 0, 0, 0)
early = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
put("png_pixels_missing.png", early, refused=True)


# TIFF.
def tiff(array, **options):
    out = io.BytesIO()
    options.setdefault("metadata", None)
    tifffile.imwrite(out, array, **options)
    return out.getvalue()


def grey(values):
    return np.repeat(values.reshape(*values.shape[:2], 1), 3, 2)


COMPRESSIONS = {
    "none": {},
    "lzw": dict(compression="lzw"),
    "lzw_differences": dict(compression="lzw", predictor=2),
    "deflate": dict(compression="zlib"),
    "deflate_differences": dict(compression="zlib", predictor=2),
    "packbits": dict(compression="packbits"),
}
LAYOUTS = {
    "strips": dict(rowsperstrip=7),
    "one_strip": {},
    "tiles": dict(tile=(16, 32)),
}
for width, height in [(1, 1), (9, 1), (61, 43)]:
    for order in "<>":
        for layout, where in LAYOUTS.items():
            for compression, how in COMPRESSIONS.items():
                options = dict(byteorder=order, **where, **how)
                place = f"{width}x{height}_{'little' if order == '<' else 'big'}_{layout}_{compression}"
                one, three = bytes_of(width, height, 1), bytes_of(width, height, 3)
                put(f"tiff_grey8_{place}.tif", tiff(one, photometric="minisblack", **options), grey(one))
                put(f"tiff_rgb8_{place}.tif", tiff(three, photometric="rgb", **options), three)
                deep = (scene(width, height, 3) * 65535).round().astype(np.uint16)
                put(f"tiff_rgb16_{place}.tif", tiff(deep, photometric="rgb", **options), to_bytes(deep, 65535))
                planes = np.ascontiguousarray(np.moveaxis(three, -1, 0))
                planar = dict(photometric="rgb", planarconfig="separate", **options)
                put(f"tiff_planar8_{place}.tif", tiff(planes, **planar), three)
                planes = np.ascontiguousarray(np.moveaxis(deep, -1, 0))
                put(f"tiff_planar16_{place}.tif", tiff(planes, **planar), to_bytes(deep, 65535))
one, three, four = (bytes_of(*SIZE, n) for n in (1, 3, 4))
deep = (scene(*SIZE, 1)[:, :, 0] * 65535).round().astype(np.uint16)
put("tiff_white_is_zero8.tif", tiff(one, photometric="miniswhite"), grey(255 - one))
put("tiff_white_is_zero16.tif", tiff(deep, photometric="miniswhite"), grey(to_bytes(65535 - deep, 65535)))
put("tiff_big.tif", tiff(three, photometric="rgb", bigtiff=True), three)
put("tiff_big_endian_big.tif", tiff(three, photometric="rgb", bigtiff=True, byteorder=">", tile=(16, 16)), three)
for extra in ("unassalpha", "unspecified"):
    for planar in (False, True):
        array = np.ascontiguousarray(np.moveaxis(four, -1, 0)) if planar else four
        options = dict(photometric="rgb", extrasamples=[extra], planarconfig="separate" if planar else "contig")
        put(f"tiff_rgba_{extra}_{planar}.tif", tiff(array, **options), four[:, :, :3])
put("tiff_rgba_premultiplied.tif", tiff(four, photometric="rgb", extrasamples=["assocalpha"]))
two = bytes_of(*SIZE, 2)
put("tiff_grey_alpha.tif", tiff(two, photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig"))
put("tiff_cmyk.tif", tiff(four, photometric="separated"))
map16 = np.random.default_rng(2).integers(0, 256, (3, 256)).astype(np.uint16) * 257
put("tiff_palette8.tif", tiff(one, photometric="palette", colormap=map16), map16[:, one].transpose(1, 2, 0) >> 8)
for kind, most in [("int8", 127), ("int16", 32767)]:
    shifted = (scene(*SIZE, 1)[:, :, 0] * (2 * most + 1)).round().astype(int)
    signed = (shifted - most - 1).astype(kind)
    expected = grey(to_bytes(shifted, 2 * most + 1))
    put(f"tiff_{kind}.tif", tiff(signed, photometric="minisblack"), expected)
    put(f"tiff_{kind}_big.tif", tiff(signed, photometric="minisblack", byteorder=">"), expected)
for bits in (2, 4, 10, 12, 14):
    for width, height in [(1, 1), (61, 43)]:
        values = levels(width, height, 1, 2**bits - 1)[:, :, 0]
        bit_rows = (values[:, :, None] >> np.arange(bits - 1, -1, -1) & 1).reshape(height, -1).astype(np.uint8)
        packed = np.packbits(bit_rows, axis=1)
        # Written as bytes; then the header is changed to what they are.
        for order in "<>":
            data = bytearray(tiff(packed, photometric="minisblack", byteorder=order))
            with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
                tags = file.pages[0].tags
                for tag, value in [("ImageWidth", width), ("BitsPerSample", bits)]:
                    at = tags[tag].valueoffset
                    wide = tags[tag].dtype.name == "LONG"
                    data[at : at + (4 if wide else 2)] = struct.pack(order + ("I" if wide else "H"), value)
            expected = grey(to_bytes(values, 2**bits - 1))
            put(f"tiff_packed{bits}_{width}x{height}_{'little' if order == '<' else 'big'}.tif", bytes(data), expected)
for bits in (10, 12):
    low = levels(*SIZE, 1, 2**bits - 1)[:, :, 0].astype(np.uint16)
    told = [(281, "H", 1, 2**bits - 1, True)]
    data = tiff(low, photometric="minisblack", extratags=told)
    put(f"tiff_max_sample_{bits}.tif", data, grey(to_bytes(low, 2**bits - 1)))
for quality in (60, 95):
    for sampling in ((1, 1), (2, 1), (2, 2)):
        for layout, where in LAYOUTS.items():
            if layout == "strips":
                where = dict(rowsperstrip=16)
            options = dict(compression="jpeg", compressionargs=dict(level=quality), subsampling=sampling, **where)
            name = f"tiff_jpeg_{quality}_{sampling[0]}{sampling[1]}_{layout}.tif"
            put(name, tiff(three, photometric="ycbcr", **options))
put("tiff_jpeg_grey.tif", tiff(one, photometric="minisblack", compression="jpeg"))
put("tiff_jpeg_rgb.tif", saved(colour, "TIFF", compression="jpeg"))
put("tiff_jpeg_rgb_tiles.tif", tiff(three, photometric="rgb", compression="jpeg", tile=(16, 32)))
bilevel = Image.fromarray((one > 100).astype(np.uint8) * 255).convert("1")
for width in (1, 7, 61):
    part = bilevel.crop((0, 0, width, 43))
    for compression in ("raw", "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw", "tiff_adobe_deflate"):
        put(f"tiff_bilevel_{compression}_{width}.tif", saved(part, "TIFF", compression=compression))
    put(f"tiff_group3_two_dimensional_{width}.tif", saved(part, "TIFF", compression="group3", tiffinfo={292: 1}))
    put(f"tiff_group3_filled_{width}.tif", saved(part, "TIFF", compression="group3", tiffinfo={292: 5}))
blank = Image.new("1", SIZE, 1)
put("tiff_group4_white.tif", saved(blank, "TIFF", compression="group4"))
put("tiff_group4_black.tif", saved(Image.new("1", SIZE, 0), "TIFF", compression="group4"))


def with_reversed_bits(data):
    """The same file with FillOrder 2; its tag takes the place of Software (305), which is read by no one."""
    data = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        page = file.pages[0]
        order = file.byteorder
        fields = [(tag.code, tag.offset) for tag in page.tags]
        for start, length in zip(page.dataoffsets, page.databytecounts):
            part = np.frombuffer(bytes(data[start : start + length]), np.uint8)
            bits = np.unpackbits(part).reshape(-1, 8)[:, ::-1]
            data[start : start + length] = np.packbits(bits).tobytes()
    at = dict(fields)[305]
    data[at : at + 12] = struct.pack(order + "HHIHH", 266, 3, 1, 2, 0)
    return bytes(data)


for compression, how in COMPRESSIONS.items():
    data = tiff(three, photometric="rgb", software="x", **how)
    put(f"tiff_reversed_{compression}.tif", with_reversed_bits(data), three)
for compression in ("raw", "group3", "group4", "tiff_ccitt", "packbits"):
    data = saved(bilevel, "TIFF", compression=compression, tiffinfo={305: "x"})
    put(f"tiff_reversed_bilevel_{compression}.tif", with_reversed_bits(data), np.array(bilevel.convert("RGB")))
deep_planes = dict(photometric="minisblack", software="x")
put("tiff_reversed_16.tif", with_reversed_bits(tiff(deep, **deep_planes)), grey(to_bytes(deep, 65535)))


def pages(*arrays):
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        for array, kind in arrays:
            writer.write(array, photometric="rgb", subfiletype=kind, metadata=None)
    return out.getvalue()


other = bytes_of(40, 30, 3, 5)
put("tiff_thumbnail_first.tif", pages((three[::3, ::3], 1), (three, 0)), three)
put("tiff_thumbnail_last.tif", pages((three, 0), (three[::3, ::3], 1)), three)
put("tiff_pages.tif", pages((three, 2), (other, 2)), three)
for compression in ("zstd", "lzma", "webp", "jpeg2000"):
    try:
        data = tiff(three, photometric="rgb", compression=compression)
    except Exception:
        continue
    put(f"tiff_{compression}.tif", data, refused=True)
put("tiff_float32.tif", tiff(scene(*SIZE, 3).astype(np.float32), photometric="rgb"), refused=True)
put("tiff_uint32.tif", tiff(deep.astype(np.uint32), photometric="minisblack"), refused=True)
for compression, how in COMPRESSIONS.items():
    data = tiff(three, photometric="rgb", **how)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        start, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
        tag = file.pages[0].tags["StripByteCounts"]
        at, wide = tag.valueoffset, tag.dtype.name == "LONG"
    cut = bytearray(data)
    cut[at : at + (4 if wide else 2)] = struct.pack("<I" if wide else "<H", length // 2)
    put(f"tiff_ends_early_{compression}.tif", bytes(cut), refused=True)

# BMP.
for width, height in SIZES:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        array = bytes_of(width, height, {"RGB": 3, "RGBA": 4}.get(mode, 1))
        image = Image.fromarray(array)
        if mode in ("1", "P"):
            image = image.convert(mode) if mode == "1" else image.convert("RGB").quantize(200)
        put(f"bmp_{mode}_{width}x{height}.bmp", saved(image, "BMP"))


def bmp(width, height, bits, rows, compression=0, palette=b"", masks=b"", kind=40, colours=0):
    if kind == 12:
        header = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        size = len(rows)
        header = struct.pack("<IiiHHIIiiII", kind, width, height, 1, bits, compression, size, 0, 0, colours, 0)
        header += b"\0" * (kind - 40)
        if masks and kind > 40:
            header = header[:40] + masks + header[40 + len(masks) :]
            masks = b""
    start = 14 + len(header) + len(masks) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + masks + palette + rows


def padded(rows):
    return b"".join(row + b"\0" * (-len(row) % 4) for row in rows)


for width, height in [(1, 1), (7, 5), (61, 43)]:
    three = bytes_of(width, height, 3)
    flipped = three[::-1]
    bgr = padded(row[:, ::-1].tobytes() for row in flipped)
    put(f"bmp_24_{width}x{height}.bmp", bmp(width, height, 24, bgr))
    put(f"bmp_24_top_down_{width}x{height}.bmp", bmp(width, -height, 24, padded(r[:, ::-1].tobytes() for r in three)))
    put(f"bmp_24_core_{width}x{height}.bmp", bmp(width, height, 24, bgr, kind=12))
    put(f"bmp_24_v5_{width}x{height}.bmp", bmp(width, height, 24, bgr, kind=124))
    bgrx = b"".join(np.dstack([row[None, :, ::-1], np.full((1, width), 9, np.uint8)]).tobytes() for row in flipped)
    put(f"bmp_32_{width}x{height}.bmp", bmp(width, height, 32, bgrx))
    masks = struct.pack("<III", 0xFF0000, 0xFF00, 0xFF)
    put(f"bmp_32_fields_{width}x{height}.bmp", bmp(width, height, 32, bgrx, 3, masks=masks))
    put(f"bmp_32_v4_{width}x{height}.bmp", bmp(width, height, 32, bgrx, 3, masks=masks + b"\0\0\0\xff", kind=108))
    five = (flipped.astype(int) >> 3).astype(int)
    words = (five[:, :, 0] << 10 | five[:, :, 1] << 5 | five[:, :, 2]).astype("<u2")
    # Pillow truncates where 5 or 6 bits become 8; here they are rounded.
    put(f"bmp_16_{width}x{height}.bmp", bmp(width, height, 16, padded(r.tobytes() for r in words)), tolerance=1)
    six = flipped.astype(int) >> 2
    words = (five[:, :, 0] << 11 | six[:, :, 1] << 5 | five[:, :, 2]).astype("<u2")
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    data = bmp(width, height, 16, padded(r.tobytes() for r in words), 3, masks=masks)
    put(f"bmp_16_565_{width}x{height}.bmp", data, tolerance=1)
    palette = np.random.default_rng(3).integers(0, 256, (256, 4)).astype(np.uint8)
    palette[:, 3] = 0
    for bits in (1, 4, 8):
        values = levels(width, height, 1, 2**bits - 1)[::-1, :, 0]
        expanded = (values[:, :, None] >> np.arange(bits - 1, -1, -1) & 1).reshape(height, -1).astype(np.uint8)
        rows = padded(np.packbits(row).tobytes() for row in expanded)
        put(f"bmp_palette{bits}_{width}x{height}.bmp", bmp(width, height, bits, rows, palette=palette[: 2**bits].tobytes()))
        few = max(2, 2**bits - 3)
        short = values % few
        expanded = (short[:, :, None] >> np.arange(bits - 1, -1, -1) & 1).reshape(height, -1).astype(np.uint8)
        rows = padded(np.packbits(row).tobytes() for row in expanded)
        name = f"bmp_short_palette{bits}_{width}x{height}.bmp"
        put(name, bmp(width, height, bits, rows, palette=palette[:few].tobytes(), colours=few))
    values = levels(width, height, 1, 255)[::-1, :, 0]
    rle = b""
    for row in values:
        x = 0
        while x < width:
            if x + 3 <= width and x % 2:
                part = row[x : x + 3]
                rle += bytes([0, 3, *(int(v) for v in part), 0])
                x += 3
            else:
                rle += bytes([1, int(row[x])])
                x += 1
        rle += b"\0\0"
    rle = rle[:-2] + b"\0\x01"
    put(f"bmp_rle8_{width}x{height}.bmp", bmp(width, height, 8, rle, 1, palette=palette.tobytes()))
    values = levels(width, height, 1, 15)[::-1, :, 0]
    rle = b""
    for row in values:
        for x in range(0, width, 2):
            pair = int(row[x]) << 4 | (int(row[x + 1]) if x + 1 < width else 0)
            rle += bytes([min(2, width - x), pair])
        rle += b"\0\0"
    rle = rle[:-2] + b"\0\x01"
    put(f"bmp_rle4_{width}x{height}.bmp", bmp(width, height, 4, rle, 2, palette=palette[:16].tobytes()))
    if height > 1:
        put(f"bmp_ends_early_{width}x{height}.bmp", bmp(width, height, 24, bgr)[:-5], refused=True)

# WebP.
for width, height in SIZES:
    for channels, mode in [(3, "RGB"), (4, "RGBA")]:
        image = Image.fromarray(bytes_of(width, height, channels))
        put(f"webp_lossless_{mode}_{width}x{height}.webp", saved(image, "WEBP", lossless=True, exact=True))
        for quality in (20, 90):
            put(f"webp_lossy_{mode}_{quality}_{width}x{height}.webp", saved(image, "WEBP", quality=quality, exact=True))
image = Image.fromarray(bytes_of(*SIZE, 3))
data = saved(image, "WEBP", quality=80)
put("webp_ends_early.webp", data[: len(data) // 2], refused=True)
size = struct.unpack("<I", data[4:8])[0] // 2
short = data[:4] + struct.pack("<I", size) + data[8 : 8 + size]
put("webp_chunk_ends_early.webp", short, refused=True)
put("webp_chunk_is_short.webp", short[:16] + struct.pack("<I", size - 12) + short[20:], refused=True)

with open(folder / "index.tsv", "w") as out:
    for name, tolerance, kind in index:
        out.write(f"{name}\t{tolerance}\t{kind}\n")
print(len(index), "files")
