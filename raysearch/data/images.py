"""One image file to uint8 pixels, without trusting it: bounded before anything is decoded."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = frozenset(
    ".jpg .jpeg .jfif .png .bmp .gif .webp .tif .tiff .pgm .ppm .pnm .avif".split()
)
FILE_BYTES = 64 * 2**20
PIXELS = 64_000_000
SIDE = 65_500
_GRAY_MODES = frozenset(["1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "F"])


class BadImage(Exception):
    """Why an image cannot be used, in a few words for ``rejected.csv``."""


class Header(NamedTuple):
    width: int
    height: int
    gray: bool


def read_header(data: bytes) -> Header:
    """Size as displayed, and whether it is gray, from the first bytes. Raises `BadImage`."""
    with _opened(data) as image:
        size = image.size[::-1] if _orientation(image) >= 5 else image.size
        return Header(*size, gray=image.mode in _GRAY_MODES)


def decode(data: bytes, size: tuple[int, int], channels: int) -> np.ndarray:
    """uint8 [C, H, W] in [0, 255], with H, W = ``size`` and ``channels`` 1 (gray) or 3 (RGB).

    The picture of `load_picture`. Another aspect ratio is cropped about the centre, another size
    resampled (bicubic, antialiased). Raises `BadImage`.
    """
    return pixels_of(load_picture(data, channels), size)


def load_picture(data: bytes, channels: int) -> Image.Image:
    """The whole picture, gray or RGB as ``channels`` is 1 or 3, as a viewer would show it.

    EXIF orientation is applied, transparency is laid over white, 16-bit gray is scaled, of an
    animation the first frame is taken. Raises `BadImage`.
    """
    with _opened(data) as image:
        try:
            image.load()
            image = _upright(image)
            return _opaque(_to_8_bit(image)).convert("L" if channels == 1 else "RGB")
        except Exception as error:  # as in `_opened`
            raise BadImage(f"cannot be decoded: {_one_line(error)}") from None


def pixels_of(picture: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """uint8 [C, H, W] of a gray or RGB picture, fitted to H, W = ``size`` as `decode` says."""
    if picture.size != size[::-1]:
        picture = ImageOps.fit(picture, size[::-1], Image.Resampling.BICUBIC)
    pixels = np.asarray(picture)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def resized(images_NCHW: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 gray [N, 1, H, W] to [N, *shape]: resampled as in `decode`, gray repeated for RGB."""
    size = (shape[2], shape[1])
    if images_NCHW.shape[2:] != shape[1:] and len(images_NCHW):
        pictures = [Image.fromarray(image[0]) for image in images_NCHW]
        fitted = [ImageOps.fit(picture, size, Image.Resampling.BICUBIC) for picture in pictures]
        images_NCHW = np.stack([np.asarray(picture)[None] for picture in fitted])
    return np.broadcast_to(images_NCHW.reshape(-1, 1, *shape[1:]), (len(images_NCHW), *shape))


def _opened(data: bytes) -> Image.Image:
    """The image with only its header read, refused where its claims pass the bounds."""
    if len(data) > FILE_BYTES:
        raise BadImage(f"{len(data):,} bytes; at most {FILE_BYTES:,} are read")
    if not data:
        raise BadImage("empty file")
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise BadImage("not an image of a known format") from None
    except Exception as error:  # a decoder that meets broken bytes may raise anything
        raise BadImage(f"broken header: {_one_line(error)}") from None
    width, height = image.size
    if width * height > PIXELS or max(width, height) > SIDE:
        raise BadImage(f"{width}x{height} pixels; at most {PIXELS:,} are decoded")
    return image


def _orientation(image: Image.Image) -> int:
    """As EXIF numbers it; 1, upright, where that part of the file cannot be read."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # as in `_opened`
        return 1


def _upright(image: Image.Image) -> Image.Image:
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values.clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        scale = 255.0 if values.max(initial=0) <= 1 else 1.0
        return Image.fromarray((values * scale).clip(0, 255).round().astype(np.uint8))
    return image


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode in ("1", "L", "RGB"):
        return image
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
