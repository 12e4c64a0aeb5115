# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the text off a picture of a graphical console, whose characters are the PC's 8 by 16 ones: the font of a VGA BIOS is
looked for each cell's shape, and Linux's own one, which has a dozen other shapes."""
import lzma
import pathlib

VGA_BIOS = pathlib.Path("/usr/share/seabios/vgabios-stdvga.bin")
LETTER_A = bytes.fromhex("000010386cc6c6fec6c6c6c600000000")
WIDTH, HEIGHT = 8, 16
GLYPHS = 256 * HEIGHT
_shapes = {}


def font_in(data, what):
    start = data.find(LETTER_A) - ord("A") * HEIGHT
    if start < 0:
        raise ValueError(f"no 8 by 16 font in {what}")
    return data[start:start + GLYPHS]


def kernel_font(vmlinuz):
    """The font inside a compressed kernel image."""
    start = vmlinuz.find(b"\xfd7zXZ\0")
    if start < 0:
        raise ValueError("the kernel is not compressed by xz")
    return font_in(lzma.LZMADecompressor().decompress(vmlinuz[start:]), "the kernel")


def take(font):
    """Shape of a cell (16 bytes, a row each) to its character in code page 437."""
    # The last ones first: a shape that several have is the lowest's (a blank is a space).
    for code in reversed(range(32, 256)):
        _shapes[font[code * HEIGHT:(code + 1) * HEIGHT]] = bytes([code]).decode("cp437")
    _shapes[bytes(HEIGHT)] = " "


def shapes():
    if not _shapes:
        take(font_in(VGA_BIOS.read_bytes(), VGA_BIOS))
    return _shapes


def add_font(font):
    """One more font beside the VGA BIOS's."""
    shapes()
    take(font)


def character(cell):
    """The character of a cell of RGB rows, in whatever two colours; '?' where none looks so."""
    background = cell[0][:3]
    rows = bytes(sum(0x80 >> x for x in range(WIDTH) if row[3 * x:3 * x + 3] != background) for row in cell)
    known = shapes()
    return known.get(rows) or known.get(bytes(~b & 0xff for b in rows)) or "?"


def text_of(width, height, rgb, first=0):
    """The picture's text, line by line, from a row of pixels on. VGA's own text mode may have a ninth column between
    characters (80 of 9 by 16)."""
    lines, seen, stride = [], {}, 3 * width
    step = 9 if (width, height) == (720, 400) else WIDTH
    for top in range(first, height - HEIGHT + 1, HEIGHT):
        line = ""
        for left in range(0, width - WIDTH + 1, step):
            at = top * stride + 3 * left
            cell = [rgb[at + y * stride:at + y * stride + 3 * WIDTH] for y in range(HEIGHT)]
            key = b"".join(cell)
            if key not in seen:
                seen[key] = character(cell)
            line += seen[key]
        lines.append(line.rstrip())
    return "\n".join(lines)
