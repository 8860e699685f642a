"""Image files as one array of bytes: their headers are looked at first, then a few threads decode them.

Each file is decoded once, before training, and not in every epoch: to decode and resize a photograph takes about a
hundred times as long as to copy its pixels from a mapped file, more than a training step has. Pillow decodes without
the interpreter's lock, so that threads do, and every core decodes. Where the pixels do not fit in memory they go to a
temporary file, which takes as much room on disk as there are pixels; memory holds only those of the files at work.

Eight bits per channel come out as they are. Grey of 16 bits is scaled (65535 becomes 255) and rounded, whatever is
transparent is laid on white, EXIF's orientation is applied, and of several frames or pages the first is taken.
"""

import errno
import json
import math
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from pyro_vae.data.storage import allocate, release
from pyro_vae.specs import DeclarationError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

type Fit = Literal["crop", "stretch", "pad"]
type Colour = Literal["auto", "grey", "colour"]

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
MAX_PIXELS = 2**26
"""Most pixels that one image may have; a few bytes can claim to be any number."""
MAX_BYTES = 2**30
"""Largest file that is looked at; a file is in memory while it is decoded."""
MAX_SIDE = 4096
"""Most rows or columns that images are resized to."""
MAX_NAMED = 10
"""How many of many bad files a message names."""
MAX_THREADS = 8
FILES_AT_ONCE = 1000
BYTES_AT_ONCE = 2**26
ORIENTATION = 274
"""EXIF's tag of how the camera was held; from 5 on, rows and columns change places."""
PHOTOMETRIC, BITS = 262, 258
"""TIFF's tags of what 0 means (0 where it is white) and of the bits per sample."""


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    size: tuple[int, int]
    """Rows and columns, upright."""
    grey: bool


class Encoded(NamedTuple):
    """An image file that is no file of its own."""

    content: bytes
    name: str
    """What messages call it."""


type Source = Path | Encoded


def _name(file: Source) -> str:
    return str(file) if isinstance(file, Path) else file.name


class UnsuitableError(ValueError):
    """What is wrong with a file, and what to do, as the end of a sentence that begins with its name."""


def read_images(
    files: Sequence[Source],
    field: str,
    *,
    size: tuple[int, int] | None = None,
    fit: Fit = "crop",
    colour: Colour = "auto",
) -> np.ndarray:
    """Read PNG, JPEG, BMP, GIF, TIFF, WebP and PPM files, whatever they are called.

    Args:
        files: the files, each an image; slices of them are looked at, twice.
        field: where they were named, with its value: what the lines of an error begin with.
        size: rows and columns to resize to, with antialiasing (bicubic); None: as they are, and all of one size.
        fit: how an image of another aspect ratio gets that size: "crop" covers it and cuts off what is beyond the
            middle, "stretch" distorts the image, "pad" puts all of it on black.
        colour: "grey" takes the luma (ITU-R 601) of colours, "colour" repeats grey in all channels. "auto": grey
            where every file stores grey; a palette is colour, as is every WebP file, whatever its pixels are.

    Returns:
        uint8 (N, C, H, W) in the order of the files, C = 1 (grey) or 3 (red, green, blue); on disk where it does not
        fit in memory.

    Raises:
        DeclarationError: every file that is no image, damaged, cut short or too large, or their sizes differ.

    References:
        On Aliased Resizing and Surprising Subtleties in GAN Evaluation (Parmar et al., 2022).
        https://arxiv.org/abs/2104.11222
    """
    if not files:
        raise DeclarationError([f"{field}: has no image files. Name some that end in {', '.join(SUFFIXES)}."])
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # Pillow warns of images that are refused here, and of metadata that do not matter.
        warnings.simplefilter("ignore")
        unfit, sizes, all_grey = _looked_at(files, pool, upright=size is None)
        grey = colour == "grey" or (colour == "auto" and all_grey)
        shape = (1 if grey else 3, *(size or (sizes.most_common(1)[0][0] if sizes else (0, 0))))
        # With a mistake found, the others are decoded only to find theirs.
        usable = not unfit and (size is not None or len(sizes) == 1)
        x = allocate((len(files), *shape), np.uint8) if usable else None

        def reason(index: int, file: Source) -> str | None:
            """Why an image could not be put where it belongs; None where it could."""
            return unfit.get(index) or _attempted(partial(_place, x, index, grey=grey, size=size, fit=fit), file)

        bad = list[tuple[str, str]]()
        for some, numbers in _in_turn(files, max(threads, BYTES_AT_ONCE // max(1, math.prod(shape)))):
            reasons = pool.map(reason, numbers, some)
            bad += [(_name(file), why) for file, why in zip(some, reasons, strict=True) if why is not None]
            if x is not None:
                release(x[numbers.start : numbers.stop])
    problems = _named(bad, len(files), field)
    if size is None and len(sizes) > 1:
        problems.append(_differing(sizes, field))
    if problems or x is None:
        raise DeclarationError(problems)
    return x


def _looked_at(
    files: Sequence[Source], pool: ThreadPoolExecutor, *, upright: bool
) -> tuple[dict[int, str], Counter[tuple[int, int]], bool]:
    """What the headers say: the number of each file that is no use, and why; sizes; whether all are grey."""
    unfit, sizes, grey = dict[int, str](), Counter[tuple[int, int]](), True
    for some, numbers in _in_turn(files):
        found = pool.map(partial(_attempted, partial(_header, upright=upright)), some)
        for index, header in zip(numbers, found, strict=True):
            if isinstance(header, str):
                unfit[index] = header
            else:
                sizes[header.size] += 1
                grey = grey and header.grey
    return unfit, sizes, grey


def _in_turn(files: Sequence[Source], num: int = FILES_AT_ONCE) -> Iterator[tuple[Sequence[Source], range]]:
    """So many files at a time, and their numbers: what waits for a thread takes memory too."""
    num = min(num, FILES_AT_ONCE)
    for first in range(0, len(files), num):
        some = files[first : first + num]
        yield some, range(first, first + len(some))


def shown(path: Path | str) -> str:
    """A path in quotes, on one line and fit to be printed, whatever it holds.

    >>> shown(Path("a.png"))
    '"a.png"'
    """
    return json.dumps(str(path), ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def _named(bad: list[tuple[str, str]], num_files: int, field: str) -> list[str]:
    """A line for each of the first bad files, and one for how many there are."""
    lines = [f"{field}: {shown(name)} {reason}" for name, reason in bad[:MAX_NAMED]]
    if len(bad) > MAX_NAMED:
        lines.append(f"{field}: {len(bad)} of {num_files} image files cannot be used; the first {MAX_NAMED} are above.")
    return lines


def _differing(sizes: Counter[tuple[int, int]], field: str) -> str:
    """How the sizes differ, and what to do."""
    usual = sizes.most_common(5)
    found = [f"{rows} x {columns} ({count} image{'s' * (count > 1)})" for (rows, columns), count in usual]
    more = f" and {len(sizes) - len(usual)} other sizes" if len(sizes) > len(usual) else ""
    return (
        f"{field}: the images differ in size, rows x columns: {', '.join(found)}{more}. Set data.size to what all are "
        f"to be resized to, such as data.size={min(MAX_SIDE, *usual[0][0])}."
    )


def _attempted[T](function: Callable[[Source], T], file: Source) -> T | str:
    """What the function makes of a file, or what is wrong with the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        return function(file)
    except UnsuitableError as error:
        return str(error)
    except Image.DecompressionBombError:
        return _too_large()
    except UnidentifiedImageError:
        return f"is no image in one of the formats {', '.join(FORMATS)}, or is damaged. Fetch it again, or take it out."
    # Decoders meet damage with errors of every kind, and each of them means that there is no image to be had.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in errno.errorcode:
            return f"cannot be read ({error.strerror}). Make it readable, or take it out."
        reason = " ".join(str(error).split()) or type(error).__name__
        return f"is damaged or cut short ({reason}). Fetch it again, or take it out."


def _too_large() -> str:
    return f"has more than {MAX_PIXELS} pixels, which is the most that is read. Make it smaller, or take it out."


def _header(file: Source, *, upright: bool) -> Header:
    """What the header says; whether the image lies on its side is only looked up where `upright` asks for it."""
    from PIL import Image

    num_bytes = file.stat().st_size if isinstance(file, Path) else len(file.content)
    if not num_bytes:
        raise UnsuitableError("is empty. Fetch it again, or take it out.")
    if num_bytes > MAX_BYTES:
        raise UnsuitableError(f"has more than {MAX_BYTES} bytes. Make it smaller, or take it out.")
    with Image.open(file if isinstance(file, Path) else BytesIO(file.content), formats=FORMATS) as image:
        columns, rows = image.size
        if columns * rows > MAX_PIXELS:
            raise UnsuitableError(_too_large())
        deep = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM")
        if image.mode in ("I", "F") and not deep:
            kind = "floats" if image.mode == "F" else "integers of 32 bits, or with a sign"
            raise UnsuitableError(
                f"holds {kind}, of which black and white are unknown. Save all of them with numpy and use "
                "data.name=arrays, or as 8 or 16 bits."
            )
        # Pillow turns the size of a TIFF by itself. To ask a PNG is to decode it, so squares are not asked.
        if upright and rows != columns and image.format != "TIFF" and _orientation(image) >= 5:
            rows, columns = columns, rows
        return Header((rows, columns), deep or image.mode in ("1", "L", "LA", "La"))


def _decoded(file: Source, *, grey: bool, size: tuple[int, int] | None, fit: Fit) -> np.ndarray:
    """The pixels, (C, H, W)."""
    from PIL import Image

    content = file.read_bytes() if isinstance(file, Path) else file.content
    with Image.open(BytesIO(content), formats=FORMATS) as opened:
        if opened.format == "PNG":
            _check_png(content)
        opened.load()
        deep = opened.mode.startswith("I")
        image = _in_bytes(_turned(_scaled(opened) if deep else opened, _orientation(opened)), grey)
    pixels = np.asarray(image if size is None else _resized(image, size, fit))
    return pixels[None] if grey else np.moveaxis(pixels, 2, 0)


def _place(
    x: np.ndarray | None, index: int, file: Source, *, grey: bool, size: tuple[int, int] | None, fit: Fit
) -> None:
    """Decode an image and put it where it belongs, if there is such a place."""
    pixels = _decoded(file, grey=grey, size=size, fit=fit)
    if x is not None:
        x[index] = pixels


def _check_png(content: bytes) -> None:
    """Refuse a PNG whose checksums are wrong or whose end is missing, neither of which decoding finds."""
    from PIL import Image

    with Image.open(BytesIO(content), formats=["PNG"]) as image:
        image.verify()
    if b"IEND\xaeB`\x82" not in content:
        raise OSError("the end is missing")


def _orientation(image: "Image") -> int:
    """EXIF's orientation, 1 to 8; 1, which is upright, where there is none to be read."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # metadata that are no EXIF say nothing of the pixels, whose damage decoding finds
        return 1
    return found if found in range(1, 9) else 1


def _turned(image: "Image", orientation: int) -> "Image":
    """The image upright; a TIFF is so once it is loaded, and then its orientation is 1."""
    from PIL.Image import Transpose

    ways = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image if orientation == 1 else image.transpose(ways[orientation])


def _scaled(image: "ImageFile") -> "Image":
    """Grey of 16 bits in 8, the nearest; Pillow's own conversion would cut everything above 255."""
    from PIL import Image

    tags = getattr(image, "tag_v2", {})
    top = 2 ** tags.get(BITS, (16,))[0] - 1  # a TIFF may also have 12 bits
    values = np.asarray(image).astype(np.uint32)
    if tags.get(PHOTOMETRIC) == 0:
        values = top - values
    transparent = image.info.get("transparency")
    if transparent is not None:
        values[values == transparent] = top
    return Image.fromarray(((values * 255 + top // 2) // top).astype(np.uint8))


def _in_bytes(image: "Image", grey: bool) -> "Image":
    """The image as 8 bits of grey or of red, green and blue, on white where it is transparent."""
    from PIL import Image

    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    if image.mode not in ("1", "L", "RGB"):
        image = image.convert("RGB")  # what other modes are made of has no direct way to grey
    return image.convert("L" if grey else "RGB")


def _resized(image: "Image", size: tuple[int, int], fit: Fit) -> "Image":
    """The image in rows x columns; one of that size stays as it is."""
    from PIL import Image, ImageOps

    rows, columns = size
    if image.size == (columns, rows):
        return image
    if fit == "crop":
        return ImageOps.fit(image, (columns, rows), Image.Resampling.BICUBIC)
    if fit == "stretch":
        return image.resize((columns, rows), Image.Resampling.BICUBIC)
    scale = min(columns / image.width, rows / image.height)
    # At least one pixel: a line would vanish otherwise, as it does in ImageOps.pad.
    width, height = (max(1, round(length * scale)) for length in image.size)
    padded = Image.new(image.mode, (columns, rows))
    inner = image.resize((width, height), Image.Resampling.BICUBIC)
    padded.paste(inner, ((columns - width) // 2, (rows - height) // 2))
    return padded
