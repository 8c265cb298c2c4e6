"""Pictures: left alone where they can be, changed where the model needs it, refused otherwise."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from examples.tiny_r1v.data import images
from examples.tiny_r1v.data.errors import Dropped


def opened(picture):
    return Image.open(io.BytesIO(picture.data))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_picture_within_the_limits_keeps_its_bytes(make, format):
    raw = make.picture("a", format=format)
    assert images.prepare(raw).data == raw


def test_a_large_picture_is_scaled_down_in_its_own_format(make):
    raw = make.picture("a", size=(2400, 1200), format="JPEG")
    image = opened(images.prepare(raw))
    assert image.format == "JPEG"
    assert 0.99 * images.MAX_PIXELS < image.width * image.height <= images.MAX_PIXELS
    assert image.width / image.height == pytest.approx(2, rel=0.01)


def test_transparency_becomes_white_as_the_frameworks_would_make_it_black():
    drawing = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    drawing.paste((0, 0, 0, 255), (20, 20, 40, 40))
    raw = io.BytesIO()
    drawing.save(raw, format="PNG")
    image = opened(images.prepare(raw.getvalue()))
    assert (image.mode, image.getpixel((5, 5)), image.getpixel((30, 30))) == (
        "RGB",
        (255, 255, 255),
        (0, 0, 0),
    )


def test_a_rotation_in_the_exif_data_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    raw = io.BytesIO()
    Image.new("RGB", (80, 40), "red").save(raw, format="JPEG", exif=exif)
    image = opened(images.prepare(raw.getvalue()))
    assert image.size == (40, 80)
    assert 0x0112 not in image.getexif()


@pytest.mark.parametrize("mode", ["CMYK", "I;16"])
def test_other_colour_modes_become_rgb(mode):
    raw = io.BytesIO()
    Image.new(mode, (40, 40)).save(raw, format="JPEG" if mode == "CMYK" else "PNG")
    assert opened(images.prepare(raw.getvalue())).mode == "RGB"


def test_webp_becomes_png(make):
    raw = make.picture("a", format="WEBP", lossless=True)
    prepared = opened(images.prepare(raw))
    assert prepared.format == "PNG"
    assert np.array_equal(np.asarray(prepared), np.asarray(Image.open(io.BytesIO(raw))))


@pytest.mark.parametrize("broken", [b"", b"no picture", "cut"])
def test_what_cannot_be_decoded_is_dropped_with_that_reason(make, broken):
    raw = make.picture("a")[:-60] if broken == "cut" else broken
    with pytest.raises(Dropped, match="can't be decoded"):
        images.prepare(raw)


@pytest.mark.parametrize(
    "size, reason", [((27, 90), "under 28 pixels"), ((8000, 30), "longer than 200 times")]
)
def test_pictures_that_the_model_refuses_are_dropped(make, size, reason):
    with pytest.raises(Dropped, match=reason):
        images.prepare(make.picture("a", size=size))


@settings(max_examples=60, deadline=None)
@given(st.integers(28, 4000), st.integers(28, 4000))
def test_no_picture_needs_more_vision_tokens_than_the_prompt_has_room_for(width, height):
    smart_resize = pytest.importorskip(
        "transformers.models.qwen2_vl.image_processing_qwen2_vl"
    ).smart_resize
    try:
        prepared = images.prepare(Image.new("RGB", (width, height)))
    except Dropped:
        return
    image = opened(prepared)
    tall, wide = smart_resize(
        image.height, image.width, factor=28, min_pixels=56 * 56, max_pixels=12845056
    )
    assert tall * wide // 28**2 <= 1400


def test_the_hash_survives_scaling_and_compression(make):
    bits = images.prepare(make.picture("a", size=(600, 450))).bits
    smaller = Image.open(io.BytesIO(make.picture("a", size=(600, 450)))).resize((320, 240))
    raw = io.BytesIO()
    smaller.save(raw, format="JPEG", quality=70)
    other = images.prepare(raw.getvalue()).bits
    a, b = (int.from_bytes(value, "big") for value in (bits, other))
    assert (a & b).bit_count() >= 0.9 * (a | b).bit_count()


def test_an_empty_picture_has_no_bits_however_it_is_compressed():
    raw = io.BytesIO()
    Image.new("RGB", (90, 60), "#fdfdfd").save(raw, format="JPEG", quality=40)
    assert images.prepare(raw.getvalue()).bits == bytes(64)
