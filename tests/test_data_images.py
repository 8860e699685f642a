"""Image files of every kind that cameras, scanners and programs write, whole and damaged."""

import io
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_data import refusal

from pyro_vae.data import images as module
from pyro_vae.data import storage
from pyro_vae.data.images import read_images
from pyro_vae.specs import DeclarationError

pytestmark = pytest.mark.filterwarnings("error")

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
DEEP = np.array([[0, 128, 129, 256, 257, 300], [32767, 32768, 40000, 65407, 65408, 65535]], np.uint16)
LOSSLESS = ["PNG", "BMP", "TIFF", "PPM"]


def saved(path: Path, pixels: np.ndarray | Image.Image, format: str | None = None, **options: Any) -> Path:
    """The file, written by Pillow in the format of its suffix."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, format, **options)
    return path


def one(path: Path, **options: Any) -> np.ndarray:
    """The one image in a file, (C, H, W)."""
    images = read_images([path], "data.path", **options)
    assert images.dtype == np.uint8
    assert len(images) == 1
    return images[0]


def png(pixels: bytes, width: int, height: int, depth: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of raw lines, with chunks that Pillow does not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    before = b"".join(chunk(*item) for item in chunks)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + before + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def first_channels(pixels: np.ndarray) -> np.ndarray:
    return np.moveaxis(pixels, 2, 0)


# --------------------------------------------------------------------------------------------------- right formats


@pytest.mark.parametrize("format", LOSSLESS)
def test_eight_bits_come_out_as_they_are(tmp_path: Path, format: str) -> None:
    assert np.array_equal(one(saved(tmp_path / "grey", GREY, format)), GREY[None])
    assert np.array_equal(one(saved(tmp_path / "colour", COLOUR, format)), first_channels(COLOUR))


def test_webp_and_gif_and_jpeg(tmp_path: Path) -> None:
    assert np.array_equal(one(saved(tmp_path / "x.webp", COLOUR, lossless=True)), first_channels(COLOUR))
    assert np.array_equal(one(saved(tmp_path / "x.gif", GREY), colour="grey"), GREY[None])
    smooth = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8) * 5
    got = one(saved(tmp_path / "x.jpg", smooth, quality=100))
    assert got.shape == (1, 16, 24)
    assert np.abs(got[0].astype(int) - smooth).max() <= 2


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_rounded(tmp_path: Path, format: str) -> None:
    expected = np.round(DEEP / 257).astype(np.uint8)
    assert expected.tolist() == [[0, 0, 1, 1, 1, 1], [127, 128, 156, 255, 255, 255]]
    assert np.array_equal(one(saved(tmp_path / "deep", DEEP, format)), expected[None])
    assert one(saved(tmp_path / "deep", DEEP, format), colour="colour").shape == (3, 2, 6)


def test_every_one_of_the_65536_levels(tmp_path: Path) -> None:
    levels = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(one(saved(tmp_path / "x.png", levels))[0], np.round(levels / 257))


def test_sixteen_bits_of_the_other_byte_order_and_white_as_zero(tmp_path: Path) -> None:
    expected = np.round(DEEP / 257).astype(np.uint8)
    big = Image.fromarray(DEEP.astype(">u2"))
    assert big.mode == "I;16B"
    assert np.array_equal(one(saved(tmp_path / "big.tif", big))[0], expected)
    white_is_zero = saved(tmp_path / "white.tif", DEEP, tiffinfo={262: 0})
    with Image.open(white_is_zero) as image:
        assert image.tag_v2[262] == 0
    assert np.array_equal(one(white_is_zero)[0], 255 - expected)


def test_twelve_bits_of_a_tiff(tmp_path: Path) -> None:
    # One line of two samples, 0x000 and 0xfff, in three bytes, as microscopes write them.
    tags = [(256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 3, 1), (279, 4, 3)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    body = b"II*\0" + struct.pack("<I", 12) + b"\x00\x0f\xff\0" + struct.pack("<H", len(tags)) + directory + b"\0" * 4
    (tmp_path / "x.tif").write_bytes(body)
    assert one(tmp_path / "x.tif").tolist() == [[[0, 255]]]


def test_a_pgm_of_another_white(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 3 1 4095\n" + np.array([0, 2048, 4095], ">u2").tobytes())
    assert one(tmp_path / "x.pgm").tolist() == [[[0, 128, 255]]]


def test_one_bit(tmp_path: Path) -> None:
    pixels = GREY > 127
    for format in LOSSLESS:
        assert np.array_equal(one(saved(tmp_path / "x", pixels, format)), 255 * pixels[None])


def test_palettes_are_colour_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 7, 7, 7])
    image.putdata([0, 1, 2])
    plain = [[255, 0, 0], [0, 255, 0], [7, 7, 7]]
    white = [[255, 0, 0], [255, 255, 255], [7, 7, 7]]
    half = [[255, 0, 0], [127, 255, 127], [7, 7, 7]]
    for suffix in ("png", "gif"):
        assert one(saved(tmp_path / f"x.{suffix}", image)).transpose(1, 2, 0)[0].tolist() == plain
        got = one(saved(tmp_path / f"x.{suffix}", image, transparency=1))
        assert got.transpose(1, 2, 0)[0].tolist() == white
    got = one(saved(tmp_path / "x.png", image, transparency=bytes([255, 128, 255])))
    assert got.transpose(1, 2, 0)[0].tolist() == half


def test_alpha_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    expected = [[10, 20, 30], [255, 255, 255], [204, 204, 204]]
    for format in ("PNG", "TIFF"):
        assert one(saved(tmp_path / "x", rgba, format)).transpose(1, 2, 0)[0].tolist() == expected
    assert one(saved(tmp_path / "x.webp", rgba, lossless=True, exact=True)).transpose(1, 2, 0)[0].tolist() == expected
    grey = Image.merge("LA", [Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3])])
    for format in ("PNG", "TIFF"):
        assert one(saved(tmp_path / "x", grey, format)).tolist() == [[[10, 255, 204]]]


def test_a_transparent_level_of_grey_is_white(tmp_path: Path) -> None:
    lines = b"\0" + bytes([3, 4, 5])
    (tmp_path / "x.png").write_bytes(png(lines, 3, 1, 8, 0, (b"tRNS", b"\0\4")))
    assert one(tmp_path / "x.png").tolist() == [[[3, 255, 5]]]
    lines = b"\0" + struct.pack(">3H", 257, 514, 771)
    (tmp_path / "x.png").write_bytes(png(lines, 3, 1, 16, 0, (b"tRNS", struct.pack(">H", 514))))
    assert one(tmp_path / "x.png").tolist() == [[[1, 255, 3]]]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("colour", ["grey", "colour"])
def test_cmyk(tmp_path: Path, suffix: str, colour: Any) -> None:
    image = Image.new("CMYK", (16, 8), (0, 255, 0, 0))  # magenta
    got = one(saved(tmp_path / f"x.{suffix}", image), colour=colour)
    expected = [255, 0, 255] if colour == "colour" else [105]
    assert got.shape == (len(expected), 8, 16)
    assert np.abs(got[:, 3, 4].astype(int) - expected).max() <= 2


@pytest.mark.parametrize("mode", ["YCbCr", "LAB", "RGBX", "PA"])
@pytest.mark.parametrize("colour", ["auto", "grey"])
def test_other_modes_of_a_tiff(tmp_path: Path, mode: str, colour: Any) -> None:
    white = {"YCbCr": (255, 128, 128), "LAB": (255, 128, 128), "RGBX": (255, 255, 255, 0), "PA": (0, 0)}[mode]
    got = one(saved(tmp_path / "x.tif", Image.new(mode, (5, 4), white)), colour=colour)
    assert got.shape == (1 if colour == "grey" else 3, 4, 5)
    assert (got >= 254).all()


ARROW = np.arange(6 * 9, dtype=np.uint8).reshape(6, 9) * 4
UPRIGHT = {
    1: ARROW,
    2: ARROW[:, ::-1],
    3: ARROW[::-1, ::-1],
    4: ARROW[::-1],
    5: ARROW.T,
    6: np.rot90(ARROW, -1),
    7: ARROW[::-1, ::-1].T,
    8: np.rot90(ARROW),
}


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("size", [None, (6, 9)])
def test_orientation_is_applied(tmp_path: Path, suffix: str, orientation: int, size: Any) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"jpg": {"quality": 100}, "webp": {"lossless": True}}.get(suffix, {})
    got = one(saved(tmp_path / f"x.{suffix}", ARROW, exif=exif, **options), colour="grey", size=size, fit="stretch")
    expected = UPRIGHT[orientation]
    if size is not None:
        expected = np.asarray(Image.fromarray(expected).resize((9, 6), Image.Resampling.BICUBIC))
    assert got[0].shape == expected.shape
    assert np.abs(got[0].astype(int) - expected).max() <= (6 if suffix == "jpg" else 0)


def test_orientation_of_sixteen_bits(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    for suffix in ("png", "tif"):
        got = one(saved(tmp_path / f"x.{suffix}", ARROW.astype(np.uint16) * 257, exif=exif))
        assert np.array_equal(got[0], np.rot90(ARROW, -1))


def test_orientation_after_the_pixels_of_a_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    path = saved(tmp_path / "x.png", ARROW)
    content, tag = path.read_bytes(), b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(tag) - 4) + tag + struct.pack(">I", zlib.crc32(tag))
    path.write_bytes(content[:-12] + chunk + content[-12:])
    assert np.array_equal(one(path)[0], np.rot90(ARROW, -1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("exif", [b"rubbish" * 5, b"II*\0", b"II*\0\x08\0\0\0\xff\xff" + b"\1" * 30])
def test_exif_that_is_none_is_no_matter(tmp_path: Path, suffix: str, exif: bytes) -> None:
    """Pillow warns of some and has errors of several kinds for others."""
    assert one(saved(tmp_path / f"x.{suffix}", ARROW, exif=b"Exif\0\0" + exif), colour="grey").shape == (1, 6, 9)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    options = {"webp": {"lossless": True}}.get(suffix, {})
    path = saved(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    assert (one(path) == np.array([255, 0, 0])[:, None, None]).all()


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    assert np.array_equal(one(saved(tmp_path / "x.jpg", GREY, "PNG"))[0], GREY)


# ------------------------------------------------------------------------------------------------- colour and size


def test_colour_is_decided_by_what_the_files_store(tmp_path: Path) -> None:
    grey, colour = saved(tmp_path / "1.png", GREY), saved(tmp_path / "2.png", COLOUR)
    same = saved(tmp_path / "3.png", np.stack([GREY] * 3, 2))
    assert read_images([grey, grey], "f").shape == (2, 1, 6, 9)
    both = read_images([grey, colour], "f")
    assert np.array_equal(both, [np.stack([GREY] * 3), first_channels(COLOUR)])
    assert one(same).shape == (3, 6, 9)
    luma = np.asarray(Image.fromarray(COLOUR).convert("L"))
    assert np.array_equal(read_images([grey, colour], "f", colour="grey")[:, 0], [GREY, luma])
    assert np.array_equal(read_images([grey], "f", colour="colour")[0], np.stack([GREY] * 3))


def test_many_files_keep_their_order(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{i}.png", np.full((2, 3), i, np.uint8)) for i in range(200)]
    assert read_images(files, "f")[:, 0, 1, 2].tolist() == list(range(200))
    assert read_images(files[::-1], "f")[:, 0, 1, 2].tolist() == list(range(200))[::-1]


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_an_image_of_the_size_stays_as_it_is(tmp_path: Path, fit: Any) -> None:
    assert np.array_equal(one(saved(tmp_path / "x.png", COLOUR), size=(6, 9), fit=fit), first_channels(COLOUR))


def test_crop_takes_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 200
    for pixels in (wide, wide.T):
        assert (one(saved(tmp_path / "x.png", pixels), size=(8, 8))[0] == 200).all()


def test_stretch_keeps_everything(tmp_path: Path) -> None:
    wide = np.repeat(np.array([[0, 100, 200]], np.uint8), 8, 0).repeat(8, 1)
    got = one(saved(tmp_path / "x.png", wide), size=(6, 6), fit="stretch")[0]
    assert np.abs(got[:, [0, 5]] - np.array([0.0, 200.0])).max() <= 1


def test_pad_puts_all_of_it_on_black(tmp_path: Path) -> None:
    wide = np.full((4, 12), 77, np.uint8)
    expected = np.zeros((12, 12), np.uint8)
    expected[4:8] = 77
    assert np.array_equal(one(saved(tmp_path / "x.png", wide), size=(12, 12), fit="pad")[0], expected)
    assert np.array_equal(one(saved(tmp_path / "x.png", wide.T), size=(12, 12), fit="pad")[0], expected.T)
    assert one(saved(tmp_path / "x.png", np.full((4, 12, 3), 77, np.uint8)), size=(12, 12), fit="pad").any((1, 2)).all()
    line = one(saved(tmp_path / "x.png", np.full((1, 500), 77, np.uint8)), size=(8, 8), fit="pad")[0]
    assert (line == 77).any(), "a line must not vanish"


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_resizing_is_antialiased(tmp_path: Path, fit: Any) -> None:
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255  # every other column: taking single pixels would leave all of it black or white
    got = one(saved(tmp_path / "x.png", stripes), size=(8, 8), fit=fit)
    assert np.abs(got.astype(int) - 128).max() < 12


def test_what_does_not_fit_in_memory_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [saved(tmp_path / f"{i}.png", GREY + np.uint8(i)) for i in range(5)]
    expected = read_images(files, "f")
    assert not storage.is_mapped(expected)
    monkeypatch.setattr(storage, "MEMORY_SHARE", 0.0)
    got = read_images(files, "f")
    assert storage.is_mapped(got)
    assert np.array_equal(got, expected)


def test_differing_sizes_are_counted(tmp_path: Path) -> None:
    files = [saved(tmp_path / f"{i}.png", np.zeros((6, 9 + (i > 6)), np.uint8)) for i in range(8)]
    message = refusal(read_images, files, 'data.path="x"')
    assert message == (
        'data.path="x": the images differ in size, rows x columns: 6 x 9 (7 images), 6 x 10 (1 image). '
        "Set data.size to what all are to be resized to, such as data.size=6."
    )
    assert read_images(files, "f", size=(6, 9)).shape == (8, 1, 6, 9)
    files = [saved(tmp_path / f"{i}.png", np.zeros((6, 9 + i), np.uint8)) for i in range(8)]
    assert "and 3 other sizes" in refusal(read_images, files, "f")


# -------------------------------------------------------------------------------------------------------- refusals


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def encoded(pixels: np.ndarray, format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
@pytest.mark.parametrize("kept", [0, 1, 12, 0.5, 0.9, -5])
@pytest.mark.parametrize("size", [None, (5, 5)])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, format: str, kept: float, size: Any) -> None:
    content = encoded(RNG.integers(0, 256, (40, 50), dtype=np.uint8), format)
    content = content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)]
    message = refusal(read_images, [written(tmp_path / "a.png", content)], 'data.path="x"', size=size)
    assert message.startswith(f'data.path="x": "{tmp_path / "a.png"}" is ')
    assert "take it out" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("cut", [1, 4, 8, 12])
def test_a_png_without_its_end_is_refused(tmp_path: Path, cut: int) -> None:
    content = encoded(GREY, "PNG")
    assert "damaged or cut short" in refusal(read_images, [written(tmp_path / "a.png", content[:-cut])], "f")


def test_a_png_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    content = bytearray(encoded(np.zeros((50, 50), np.uint8), "PNG"))
    content[content.index(b"IDAT") + 4 + struct.unpack(">I", content[33:37])[0]] ^= 1  # of IDAT's own sum
    assert "damaged" in refusal(read_images, [written(tmp_path / "a.png", bytes(content))], "f")


@pytest.mark.parametrize(
    "content",
    [
        b"<html>not found</html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\nshowpage\n",
        b"SIMPLE  =                    T" + b" " * 4000,
        b"P5 0 5 255\n",
        b"P5 nonsense",
        bytes(range(256)) * 20,
    ],
    ids=["html", "eps", "fits", "no pixels", "header", "garbage"],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    assert f'"{tmp_path / "a.png"}" ' in refusal(read_images, [written(tmp_path / "a.png", content)], "f")


def test_formats_that_run_other_programs_are_not_tried(tmp_path: Path) -> None:
    eps = tmp_path / "a.png"
    Image.fromarray(COLOUR).save(eps, "EPS")
    assert "no image in one of the formats" in refusal(read_images, [eps], "f")
    ico = saved(tmp_path / "b.png", Image.new("RGB", (16, 16)), "ICO")
    assert "no image in one of the formats" in refusal(read_images, [ico], "f")


@pytest.mark.parametrize("pixels", [np.zeros((4, 5), np.float32), np.full((4, 5), 7, np.int32)])
def test_floats_and_long_integers_are_for_arrays(tmp_path: Path, pixels: np.ndarray) -> None:
    message = refusal(read_images, [saved(tmp_path / "x.tif", pixels)], "f")
    assert ("floats" if pixels.dtype.kind == "f" else "integers of 32 bits") in message
    assert "data.name=arrays" in message


@pytest.mark.parametrize(("width", "height"), [(2**13 + 1, 2**13), (10_000, 10_000), (30_000, 30_000), (2**31 - 1, 9)])
def test_a_bomb_is_refused_before_it_is_decoded(
    tmp_path: Path, width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2^26 and more pixels; Pillow would only warn of the second, and has an error of its own for the third."""
    path = written(tmp_path / "a.png", png(b"", width, height, 8, 0))
    monkeypatch.setattr(module, "_decoded", lambda *_, **__: pytest.fail("decoded"))
    message = refusal(read_images, [path], "f")
    assert str(2**26) in message or "damaged" in message
    assert str(path) in message
    if width < 2**30:
        assert str(2**26) in message


def test_an_image_of_the_most_pixels_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.png", GREY)
    monkeypatch.setattr(module, "MAX_PIXELS", GREY.size)
    assert np.array_equal(one(path)[0], GREY)
    monkeypatch.setattr(module, "MAX_PIXELS", GREY.size - 1)
    assert f"more than {GREY.size - 1} pixels" in refusal(read_images, [path], "f")


def test_a_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.png", GREY)
    monkeypatch.setattr(module, "MAX_BYTES", 20)
    assert "more than 20 bytes" in refusal(read_images, [path], "f")


def test_all_bad_files_are_named_at_once(tmp_path: Path) -> None:
    whole = encoded(GREY, "PNG")
    files = [
        written(tmp_path / "empty.png", b""),
        written(tmp_path / "good.png", whole),
        written(tmp_path / "cut.png", whole[:-20]),  # found when it is decoded, the others by their headers
        tmp_path / "missing.png",
        saved(tmp_path / "float.tif", np.zeros((4, 5), np.float32)),
        saved(tmp_path / "other.png", np.zeros((3, 3), np.uint8)),
    ]
    lines = refusal(read_images, files, "f").splitlines()
    assert [line.split('"')[1].rsplit("/")[-1] for line in lines[:4]] == [
        "empty.png",
        "cut.png",
        "missing.png",
        "float.tif",
    ]
    assert "is empty" in lines[0]
    assert "cannot be read (No such file or directory)" in lines[2]
    assert "differ in size" in lines[4]
    assert len(lines) == 5


def test_of_many_bad_files_the_first_are_named(tmp_path: Path) -> None:
    files = [written(tmp_path / f"{i:02}.png", b"no") for i in range(25)] + [saved(tmp_path / "x.png", GREY)]
    lines = refusal(read_images, files, "f").splitlines()
    assert len(lines) == 11
    assert all(f"{i:02}.png" in lines[i] for i in range(10))
    assert lines[10] == "f: 25 of 26 image files cannot be used; the first 10 are above."
    assert len(refusal(read_images, files[:10], "f").splitlines()) == 10


def test_strange_names_stay_on_one_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a\nb\udcff.png", b"no")
    message = refusal(read_images, [path], "f")
    assert message.encode()
    assert "a\\nb\\udcff.png" in message


def test_no_files_are_refused() -> None:
    assert "has no image files" in refusal(read_images, [], 'data.path="x"')


def test_no_thread_and_no_filter_of_warnings_is_left(tmp_path: Path) -> None:
    import warnings

    before, filters = threading.active_count(), list(warnings.filters)
    refusal(read_images, [written(tmp_path / "a.png", b"no")], "f")
    one(saved(tmp_path / "x.png", GREY))
    assert threading.active_count() == before
    assert warnings.filters == filters


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_whatever_the_damage_there_is_an_image_or_one_line(tmp_path: Path, format: str) -> None:
    rng = np.random.default_rng(1)
    content = np.frombuffer(encoded(rng.integers(0, 256, (12, 15, 3), dtype=np.uint8), format), np.uint8)
    files = []
    for i in range(60):
        damaged = content.copy()
        damaged[rng.integers(0, min(len(damaged), 200), 3)] = rng.integers(0, 256, 3)
        files.append(written(tmp_path / f"{i}.bin", damaged.tobytes()))
    outcomes = [outcome(file) for file in files]
    assert all(isinstance(found, str) or found == (4, 4) for found in outcomes)
    assert not any("\n" in found for found in outcomes if isinstance(found, str))
    assert any(isinstance(found, str) for found in outcomes)


def outcome(file: Path) -> tuple[int, ...] | str:
    """The size of what a file was resized to, or the one line that refuses it."""
    try:
        return one(file, size=(4, 4)).shape[1:]
    except DeclarationError as error:
        (problem,) = error.problems
        return problem
