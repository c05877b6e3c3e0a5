"""Files as cameras write them, made here or kept as the few bytes that no library of the project can write."""

from __future__ import annotations

import base64
import struct

HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAettZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "AA5waXRtAAAAAAACAAAAEGlkYXQAAAAAAEAAMAAAAExpbG9jAQAAAERAAAMAAQAAAAAAAAIFAAEAAAAKAAAAXwACAAEAAAAAAAAA"
    "AQAAAAAAAAAIAAMAAAAAAAACZAABAAAACgAAAJAAAABNaWluZgAAAAAAAwAAABVpbmZlAgAAAQABAABodmMxAAAAABVpbmZlAgAA"
    "AAACAABncmlkAAAAABVpbmZlAgAAAQADAABFeGlmAAAAAN9pcHJwAAAAvGlwY28AAABzaHZjQwEDcAAAAAAAAAAAAB7wAPz9+PgA"
    "AA8DIAABABhAAQwB//8DcAAAAwCQAAADAAADAB66AkAhAAEAJ0IBAQNwAAADAJAAAAMAAAMAHqAggQWW6uSmubAgAAADACAAAAMA"
    "ISIAAQAGRAHBc8CJAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAUaXNwZQAAAAAAAABAAAAAMAAAABBwaXhpAAAAAAMICAgAAAAJaXJv"
    "dAMAAAAbaXBtYQAAAAAAAAACAAECgQIAAgMDhIUAAAAoaXJlZgAAAAAAAAAOZGltZwACAAEAAQAAAA5jZHNjAAMAAQACAAAA921k"
    "YXQAAABbKAGvCeAhOKn/8i3f/xMdl7mXJ5Wnv1j//mhz70t7/4nG3R+kmyPPR//uuMePxkR//rwS+Cw1v8Jt9FfC8L9Luy71Skpj"
    "77FkJu+AMOfcfe4Ko3hh5x1Ca4XMzAAAAABNTQAqAAAACAACARIAAwAAAAEABgAAiCUABAAAAAEAAAAmAAAAAAAEAAEAAgAAAAJO"
    "AAAAAAIABQAAAAMAAABcAAMAAgAAAAJXAAAAAAQABQAAAAMAAAB0AAAAAAAAAAoAAAABAAAAHgAAAAEAAAAAAAAAAQAAABQAAAAB"
    "AAAAAAAAAAEAAAAAAAAAAQ=="
)
"""A blue picture of 64 x 48, red in its upper left quarter, that its container turns by 90 degrees to the right;
EXIF says the same turn once more (as phones do), and 10 degrees 30 minutes N, 20 W."""
HEIC_TEN_BITS = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAadtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "AA5waXRtAAAAAAACAAAAEGlkYXQAAAAAAEAAMAAAADhpbG9jAQAAAERAAAIAAQAAAAAAAAHLAAEAAAAAAAAAFAACAAEAAAAAAAAA"
    "AQAAAAAAAAAIAAAAOGlpbmYAAAAAAAIAAAAVaW5mZQIAAAEAAQAAaHZjMQAAAAAVaW5mZQIAAAAAAgAAZ3JpZAAAAADSaXBycAAA"
    "ALBpcGNvAAAAcmh2Y0MBBAgAAAAAAAAAAAAe8AD8/Pr6AAAPAyAAAQAXQAEMAf//BAgAAAMAnfgAAAMAAB66AkAhAAEAJ0IBAQQI"
    "AAADAJ34AAADAAAewIIEE2W6uSmubAgAAAMACAAAAwAIQCIAAQAGRAHBc8CJAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAUaXNwZQAA"
    "AAAAAABAAAAAMAAAAA5waXhpAAAAAAEKAAAAGmlwbWEAAAAAAAAAAgABAoECAAICA4QAAAAaaXJlZgAAAAAAAAAOZGltZwACAAEA"
    "AQAAABxtZGF0AAAAECgBrhPAa31N//8ltv05FcA="
)
"""64 x 48 grey of 10 bits: 100 of 255."""


def dng(
    raw: tuple[int, int] = (128, 96), thumbnail: tuple[int, int] = (64, 48), orientation: int = 6, version: bool = True
) -> bytes:
    """A raw file as cameras write it: a green preview first, and behind it a sensor whose upper left quarter is red.

    Args:
        raw: width and height of the sensor in pixels (Bayer pattern RGGB, 16 bits).
        thumbnail: the same of the preview.
        orientation: as EXIF names it; 6 wants a quarter turn to the right.
        version: write the tag that makes it a DNG; without it the file is like a NEF, told by its sensor page only.
    """
    width, height = raw
    pixels = bytearray()
    for y in range(height):
        for x in range(width):
            red_place, blue_place = y % 2 == 0 and x % 2 == 0, y % 2 == 1 and x % 2 == 1
            is_red = x < width // 2 and y < height // 2
            bright = red_place if is_red else blue_place
            pixels += struct.pack("<H", 40_000 if bright else 1_000)
    preview = b"\x10\xc0\x10" * (thumbnail[0] * thumbnail[1])
    short, long, rational, byte, ascii_, srational = 3, 4, 5, 1, 2, 10

    def packed(kind: int, values: list) -> bytes:
        if kind in (rational, srational):
            return b"".join(struct.pack("<ii" if kind == srational else "<II", *value) for value in values)
        if kind == ascii_:
            return bytes(values)
        return struct.pack("<" + {short: "H", long: "I", byte: "B"}[kind] * len(values), *values)

    def directory(at: int, entries: dict[int, tuple[int, list]]) -> bytes:
        head = struct.pack("<H", len(entries))
        tail, place = b"", at + 2 + 12 * len(entries) + 4
        for tag in sorted(entries):
            kind, values = entries[tag]
            content = packed(kind, values)
            inline = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack("<I", place + len(tail))
            tail += b"" if len(content) <= 4 else content + b"\0" * (len(content) % 2)
            head += struct.pack("<HHI", tag, kind, len(values)) + inline
        return head + b"\0\0\0\0" + tail

    gps = {
        1: (ascii_, [*b"S\0"]), 2: (rational, [(33, 1), (30, 1), (0, 1)]),
        3: (ascii_, [*b"E\0"]), 4: (rational, [(151, 1), (0, 1), (0, 1)]),
    }  # fmt: skip
    gps_at, sensor_at, main_at = 8 + 600, 8 + 800, 8 + 1200
    preview_at = 8 + 2400
    pixels_at = preview_at + len(preview)
    sensor = {
        254: (long, [0]), 256: (long, [width]), 257: (long, [height]), 258: (short, [16]), 259: (short, [1]),
        262: (short, [32803]), 273: (long, [pixels_at]), 277: (short, [1]), 278: (long, [height]),
        279: (long, [len(pixels)]), 33421: (short, [2, 2]), 33422: (byte, [0, 1, 1, 2]),
        50717: (long, [65535]), 50714: (short, [0]),
    }  # fmt: skip
    main = {
        254: (long, [1]), 256: (long, [thumbnail[0]]), 257: (long, [thumbnail[1]]), 258: (short, [8, 8, 8]),
        259: (short, [1]), 262: (short, [2]), 271: (ascii_, [*b"Tests\0"]), 272: (ascii_, [*b"Camera\0"]),
        273: (long, [preview_at]), 274: (short, [orientation]), 277: (short, [3]), 278: (long, [thumbnail[1]]),
        279: (long, [len(preview)]), 330: (long, [sensor_at]), 34853: (long, [gps_at]),
        50721: (srational, [(1, 1), (0, 1), (0, 1), (0, 1), (1, 1), (0, 1), (0, 1), (0, 1), (1, 1)]),
        50728: (rational, [(1, 1), (1, 1), (1, 1)]), 50778: (short, [21]),
    }  # fmt: skip
    if version:
        main |= {50706: (byte, [1, 4, 0, 0]), 50708: (ascii_, [*b"Tests Camera\0"])}
    content = bytearray(b"II*\0" + struct.pack("<I", main_at)).ljust(preview_at, b"\0")
    for at, entries in ((gps_at, gps), (sensor_at, sensor), (main_at, main)):
        written = directory(at, entries)
        content[at : at + len(written)] = written
    return bytes(content) + preview + bytes(pixels)
