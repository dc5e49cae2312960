import io
import zlib

import numpy as np
import pytest
from image_samples import encode
from PIL import Image

from raysearch.data.images import BadImage, decode, read_header, resized


def test_gray_pixels_come_out_as_they_are(rng):
    pixels = rng.integers(0, 256, (5, 5), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode(pixels), (5, 5), 1), pixels[None])


def test_gray_becomes_equal_rgb_channels(rng):
    pixels = rng.integers(0, 256, (5, 5), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode(pixels), (5, 5), 3), np.stack([pixels] * 3))


def test_exif_orientation_is_applied(rng):
    pixels = rng.integers(0, 256, (4, 6), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(pixels, exif=exif)
    np.testing.assert_array_equal(decode(data, (6, 4), 1)[0], np.rot90(pixels, -1))
    assert read_header(data)[:2] == (4, 6)


def test_transparency_is_laid_over_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, :, 3] = 255
    assert decode(encode(pixels), (2, 2), 1)[0].tolist() == [[0, 0], [255, 255]]


def test_16_bit_gray_is_scaled():
    pixels = np.array([[0, 257 * 7], [257 * 200, 65535]], np.uint16)
    assert decode(encode(pixels), (2, 2), 1)[0].tolist() == [[0, 7], [200, 255]]


def test_palette_is_resolved():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    file = io.BytesIO()
    image.save(file, "PNG")
    assert decode(file.getvalue(), (1, 2), 3)[:, 0].T.tolist() == [[10, 20, 30], [200, 100, 50]]


def test_animation_gives_its_first_frame():
    frames = [Image.new("L", (4, 4), tone) for tone in (40, 200)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert (decode(file.getvalue(), (4, 4), 1) == 40).all()


def test_other_aspect_ratio_is_cropped_about_the_centre():
    pixels = np.zeros((4, 12), np.uint8)
    pixels[:, 4:8] = 90
    assert (decode(encode(pixels), (4, 4), 1) == 90).all()


def test_resized_table_images_equal_decoded_ones(rng):
    pixels = rng.integers(0, 256, (2, 1, 8, 8), dtype=np.uint8)
    expected = np.stack([decode(encode(image[0]), (5, 5), 3) for image in pixels])
    np.testing.assert_array_equal(resized(pixels, (3, 5, 5)), expected)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (encode(np.zeros((64, 64), np.uint8))[:-30], "decoded|broken|truncated"),
    ],
)
def test_bad_bytes_are_refused_in_words(data, why):
    with pytest.raises(BadImage, match=why):
        decode(data, (8, 8), 1)


SLOPES = np.stack(np.meshgrid(np.arange(32) * 8, np.arange(32) * 8), axis=-1)
COLOURED = np.dstack([SLOPES, 255 - SLOPES[..., 0]]).astype(np.uint8)


def saved(mode: str, kind: str, **options) -> bytes:
    """`COLOURED` in a mode of Pillow's, as a file."""
    picture = Image.fromarray(COLOURED)
    if mode.startswith(("I", "F")):
        gray = np.asarray(picture.convert("L"))
        scaled = {"I;16": gray.astype(np.uint16) * 257, "I": gray.astype(np.int32) * 257}
        picture = Image.fromarray(scaled.get(mode, gray.astype(np.float32) / 255))
    else:
        picture = picture.convert("L" if mode == "LA" else "RGB").convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind", "options", "tolerance"),
    [
        ("RGB", "JPEG", {"quality": 95}, 2),
        ("CMYK", "JPEG", {"quality": 95}, 2),
        ("CMYK", "TIFF", {}, 0),
        ("YCbCr", "TIFF", {}, 2),
        ("RGBA", "PNG", {}, 0),
        ("RGBA", "WEBP", {"lossless": True}, 0),
        ("P", "PNG", {"transparency": 255}, 20),
        ("RGB", "BMP", {}, 0),
        ("RGB", "PPM", {}, 0),
        ("L", "JPEG", {"quality": 95}, 2),
        ("LA", "PNG", {}, 0),
        ("I;16", "TIFF", {}, 0),
        ("I", "TIFF", {}, 0),
        ("F", "TIFF", {}, 0),
    ],
)
def test_every_kind_of_file_shows_the_same_picture(mode, kind, options, tolerance):
    data = saved(mode, kind, **options)
    gray = np.asarray(Image.fromarray(COLOURED).convert("L"), dtype=float)
    assert np.abs(decode(data, (32, 32), 1)[0] - gray).mean() <= tolerance
    coloured = mode not in ("L", "LA", "I;16", "I", "F")
    expected = COLOURED.transpose(2, 0, 1).astype(float) if coloured else np.stack([gray] * 3)
    assert np.abs(decode(data, (32, 32), 3) - expected).mean() <= tolerance


def test_one_bit_images_are_black_and_white():
    image = Image.fromarray(COLOURED).convert("1")
    file = io.BytesIO()
    image.save(file, "TIFF", compression="group4")
    np.testing.assert_array_equal(decode(file.getvalue(), (32, 32), 1)[0], np.asarray(image) * 255)


def test_image_bomb_is_refused_from_its_header():
    bomb = bytearray(encode(np.zeros((1, 1), np.uint8)))
    bomb[16:24] = (9000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(BadImage, match="9000x9000 pixels; at most 64,000,000"):
        decode(bytes(bomb), (8, 8), 1)


def test_an_orientation_that_cannot_be_read_counts_as_upright():
    """Its count says more bytes than the file has."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(np.zeros((4, 6), np.uint8), exif=exif)
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01"  # tag, type short, count 1
    assert data.count(entry) == 1
    broken = data.replace(entry, entry[:4] + b"\x7f\xff\xff\xff")
    start = broken.index(b"eXIf")
    size = int.from_bytes(broken[start - 4 : start], "big")
    check = zlib.crc32(broken[start : start + 4 + size]).to_bytes(4, "big")
    broken = broken[: start + 4 + size] + check + broken[start + 8 + size :]
    assert read_header(broken)[:2] == (6, 4)
    assert decode(broken, (4, 6), 1).shape == (1, 4, 6)
