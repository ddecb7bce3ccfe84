"""A JPEG encoder that can write what Pillow cannot: any sampling factors, one scan for each component,
restart intervals, any component numbers and markers, damaged ends. ITU T.81 with its own tables."""

import struct

import numpy as np

ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, (i // 8 if (i // 8 + i % 8) % 2 else i % 8)))
DC = (
    [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],
    list(range(12)),
)


def ac_table():
    """A flat code: every symbol in 8 bits or 9, so that no table has to be typed in."""
    symbols = [run << 4 | size for run in range(16) for size in range(1, 11)] + [0x00, 0xF0]
    # 128 codes of 8 bits leave 256 places of 9 bits.
    return [0] * 7 + [128, len(symbols) - 128] + [0] * 7, symbols


AC = ac_table()


def codes(table):
    counts, symbols = table
    code, place, result = 0, 0, {}
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            result[symbols[place]] = (code, length)
            code, place = code + 1, place + 1
        code <<= 1
    return result


class Bits:
    def __init__(self):
        self.text = []

    def put(self, value, length):
        if length:
            self.text.append(format(value, f"0{length}b"))

    def number(self, value):
        size = abs(value).bit_length()
        return size, value if value >= 0 else value + (1 << size) - 1

    def bytes(self):
        text = "".join(self.text)
        text += "1" * (-len(text) % 8)
        data = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
        return data.replace(b"\xff", b"\xff\x00")


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


BASIS = np.array(
    [
        [np.cos((2 * x + 1) * u * np.pi / 16) * (np.sqrt(0.125) if u == 0 else 0.5) for x in range(8)]
        for u in range(8)
    ]
)


def encode(
    planes,
    factors,
    separate=False,
    restart=0,
    quality=8,
    markers=b"",
    ids=None,
    wide_tables=False,
    end=True,
    keep=1.0,
):
    """`planes` are full-resolution components (float arrays), `factors` their (h, v). `keep` is the part of
    the last scan's bytes that is written."""
    height, width = planes[0].shape
    most = max(h for h, _ in factors), max(v for _, v in factors)
    ids = ids or range(1, len(planes) + 1)
    units = -(-width // (8 * most[0])), -(-height // (8 * most[1]))
    quantisation = np.minimum(quality + np.add.outer(np.arange(8), np.arange(8)), 255)
    blocks = []
    for plane, (h, v) in zip(planes, factors):
        across, down = most[0] // h, most[1] // v
        full = np.pad(
            plane,
            ((0, units[1] * 8 * most[1] - height), (0, units[0] * 8 * most[0] - width)),
            mode="edge",
        )
        small = full.reshape(full.shape[0] // down, down, full.shape[1] // across, across).mean((1, 3))
        cut = (small - 128).reshape(small.shape[0] // 8, 8, small.shape[1] // 8, 8).transpose(0, 2, 1, 3)
        frequencies = BASIS @ cut @ BASIS.T
        blocks.append(np.rint(frequencies / quantisation).astype(int).reshape(*cut.shape[:2], 64)[:, :, ZIGZAG])
    table = quantisation.reshape(64)[ZIGZAG]
    out = [b"\xff\xd8", markers]
    if wide_tables:
        out.append(segment(0xDB, b"\x10" + b"".join(struct.pack(">H", t) for t in table)))
    else:
        out.append(segment(0xDB, b"\x00" + bytes(int(t) for t in table)))
    header = struct.pack(">BHHB", 8, height, width, len(planes))
    header += b"".join(bytes([i, h << 4 | v, 0]) for i, (h, v) in zip(ids, factors))
    out.append(segment(0xC0, header))
    out.append(segment(0xC4, b"\x00" + bytes(DC[0]) + bytes(DC[1])))
    out.append(segment(0xC4, b"\x10" + bytes(AC[0]) + bytes(AC[1])))
    if restart:
        out.append(segment(0xDD, struct.pack(">H", restart)))
    scans = [[i] for i in range(len(planes))] if separate else [list(range(len(planes)))]
    dc, ac = codes(DC), codes(AC)
    for scan in scans:
        head = bytes([len(scan)]) + b"".join(bytes([ids[i], 0]) for i in scan) + b"\x00\x3f\x00"
        out.append(segment(0xDA, head))
        order = []
        if len(scan) == 1:
            i = scan[0]
            h, v = factors[i]
            columns = -(-(-(-width * h // most[0])) // 8)
            rows = -(-(-(-height * v // most[1])) // 8)
            order = [[(i, y, x)] for y in range(rows) for x in range(columns)]
        else:
            for y in range(units[1]):
                for x in range(units[0]):
                    unit = []
                    for i in scan:
                        h, v = factors[i]
                        unit += [(i, y * v + b, x * h + a) for b in range(v) for a in range(h)]
                    order.append(unit)
        data, bits, last, number = b"", Bits(), {}, 0
        for n, unit in enumerate(order):
            if restart and n and n % restart == 0:
                data += bits.bytes() + bytes([0xFF, 0xD0 + number % 8])
                bits, last, number = Bits(), {}, number + 1
            for i, y, x in unit:
                block = blocks[i][y, x]
                size, value = bits.number(int(block[0]) - last.get(i, 0))
                last[i] = int(block[0])
                bits.put(*dc[size])
                bits.put(value, size)
                zeros = 0
                for coefficient in block[1:]:
                    if coefficient == 0:
                        zeros += 1
                        continue
                    while zeros > 15:
                        bits.put(*ac[0xF0])
                        zeros -= 16
                    size, value = bits.number(int(coefficient))
                    bits.put(*ac[zeros << 4 | size])
                    bits.put(value, size)
                    zeros = 0
                if zeros:
                    bits.put(*ac[0])
        data += bits.bytes()
        if scan == scans[-1] and keep < 1.0:
            data = data[: int(len(data) * keep)].rstrip(b"\xff")
        out.append(data)
    return b"".join(out) + (b"\xff\xd9" if end else b"")
