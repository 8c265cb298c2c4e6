"""Pictures as they go into the Parquet files: not too large, not too small, else left alone."""

import math
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

from examples.tiny_r1v.data.errors import Dropped

MIN_SIDE = 28
"""Pixels; Qwen2.5-VL sees 28 x 28 pixels as one token, and nothing smaller."""

MAX_PIXELS = 1280 * MIN_SIDE**2
"""1280 vision tokens: with the question it fits a prompt of 2048 tokens, R1-ShareVL's. [ours]"""

MAX_ASPECT = 200
"""Longer side / shorter side from which Qwen2.5-VL's processor refuses a picture."""

_PLAIN_MODES = ("RGB", "L", "P", "1")
_JPEG_QUALITY = 95
_HASH_SIDE = 16
_CONTRAST = 2


@dataclass(frozen=True)
class Picture:
    """A prepared picture.

    data:   the encoded file, PNG or JPEG
    bits:   512 bits of perceptual hash, as 64 bytes
    pixels: hash of size and colours, the same however the picture was encoded without loss
    """

    data: bytes
    bits: bytes
    pixels: str


def prepare(raw: bytes | Image.Image) -> Picture:
    """The picture, re-encoded only where it must be changed.

    It is changed where it has more than MAX_PIXELS (scaled down), an EXIF rotation (applied),
    transparency (put on white: the frameworks would put it on black), another colour mode, or
    another format than PNG and JPEG.

    Raises Dropped where it can't be decoded, or is too small or too long for Qwen2.5-VL.
    """
    image, flat = decode(raw) if isinstance(raw, bytes) else (raw, raw)
    format = image.format
    plain = isinstance(raw, bytes) and format in ("PNG", "JPEG") and image.mode in _PLAIN_MODES
    plain = plain and flat is image
    width, height = flat.size
    if width * height > MAX_PIXELS:
        scale = math.sqrt(MAX_PIXELS / (width * height))
        size = (max(int(width * scale), 1), max(int(height * scale), 1))
        flat, plain = flat.convert("RGB").resize(size, Image.Resampling.LANCZOS), False
    if min(flat.size) < MIN_SIDE:
        raise Dropped(f"picture with a side under {MIN_SIDE} pixels")
    if max(flat.size) > MAX_ASPECT * min(flat.size):
        raise Dropped(f"picture longer than {MAX_ASPECT} times its width")
    bits, pixels = perceptual_hash(flat), _pixels(flat)
    if plain:
        return Picture(raw, bits, pixels)
    encoded = BytesIO()
    if format == "JPEG":
        flat.convert("RGB").save(encoded, format="JPEG", quality=_JPEG_QUALITY)
    else:
        flat.convert("L" if flat.mode == "L" else "RGB").save(encoded, format="PNG")
    return Picture(encoded.getvalue(), bits, pixels)


def perceptual_hash(image: Image.Image) -> bytes:
    """dHash of 2 x 256 bits: where the picture gets brighter to the right, and downwards.

    A step of at most 2 grey levels is none, so that compression leaves an empty background empty.
    """
    grey = image.convert("L")
    side = _HASH_SIDE
    across, down = (
        np.asarray(grey.resize(size, Image.Resampling.BOX), np.int16)
        for size in ((side + 1, side), (side, side + 1))
    )
    steps = np.concatenate([np.diff(across, axis=1).ravel(), np.diff(down, axis=0).ravel()])
    return np.packbits(steps > _CONTRAST).tobytes()


def decode(raw: bytes) -> tuple[Image.Image, Image.Image]:
    """The picture in a file of any format, and the same upright and on white.

    Both are one object where nothing had to be turned or filled. Raises Dropped where it can't be
    decoded.
    """
    try:
        image = Image.open(BytesIO(raw))
        image.load()
        turned = image.getexif().get(0x0112, 1) != 1
        return image, _on_white(ImageOps.exif_transpose(image) if turned else image)
    except Exception as error:  # Pillow raises nearly anything for a broken file
        raise Dropped("picture that can't be decoded") from error


def _pixels(image: Image.Image) -> str:
    content = str(image.size).encode() + image.convert("RGB").tobytes()
    return blake2b(content, digest_size=16).hexdigest()


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
