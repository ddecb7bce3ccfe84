"""Makes crates/vision/tests/fixtures/mode_* and file_modes.safetensors: small files in the modes that Pillow does
not resize as RGB, and what `resize` followed by `convert("RGB")` makes of them. Pillow 13.0.

    python tests/goldens/file_modes.py
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

here = Path(__file__).parent
fixtures = here.parents[1] / "crates/vision/tests/fixtures"
WIDTH, HEIGHT = 24, 20
rng = np.random.default_rng(11)
y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
base = np.stack([x * 10, y * 12, (x + y) * 5 % 256], -1)
colours = np.clip(base + rng.integers(-20, 20, base.shape), 0, 255).astype(np.uint8)
alpha = ((x * 37 + y * 11) % 256).astype(np.uint8)
alpha[:6, :6], alpha[:6, 6:12] = 0, 255
rgb = Image.fromarray(colours)
grey = np.array(rgb.convert("L"))


def png16(samples):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


Image.fromarray(np.dstack([colours, alpha])).save(fixtures / "mode_rgba.png")
Image.fromarray(np.dstack([grey, alpha])).save(fixtures / "mode_la.png")
palette = rgb.quantize(60)
palette.save(fixtures / "mode_palette.png")
palette.save(fixtures / "mode_palette_alpha.png", transparency=bytes(range(0, 240, 4)))
Image.fromarray((grey > 110).astype(np.uint8) * 255).convert("1").save(fixtures / "mode_bilevel.png")
Image.fromarray(np.dstack([colours, alpha]), "CMYK").save(fixtures / "mode_cmyk.jpg", quality=95)
Image.fromarray(np.dstack([colours, alpha])).save(fixtures / "mode_rgba.webp", lossless=True, exact=True)
deep = colours.astype(np.uint16) * 257 + rng.integers(-90, 90, colours.shape).astype(np.int16)
(fixtures / "mode_rgb16.png").write_bytes(png16(deep))
grey_file = Image.fromarray(grey)
grey_file.save(fixtures / "mode_grey.png")

FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC, "lanczos": Image.LANCZOS}
tensors = {}
for path in sorted(fixtures.glob("mode_*")):
    for name, resample in FILTERS.items():
        for size in [(9, 7), (31, 27), (WIDTH, 11), (WIDTH, HEIGHT)]:
            resized = Image.open(path).resize(size, resample).convert("RGB")
            tensors[f"{path.name}.{name}.{size[0]}x{size[1]}"] = np.array(resized)
save_file(tensors, here / "file_modes.safetensors")
