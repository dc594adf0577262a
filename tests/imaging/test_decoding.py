"""Every kind of photograph becomes 8-bit RGB as documented; what cannot be read is named."""

import io

import numpy as np
import pytest
from PIL import Image

from jaxad.errors import UserError
from jaxad.imaging.decoding import decode, decode_mask, encode_mask
from tests.data.raw import pixels

RGB = pixels(0, 37, 52)


def encoded(image: Image.Image | np.ndarray, kind: str, **save) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **save)
    return file.getvalue()


def test_rgb_png_is_kept_exactly():
    np.testing.assert_array_equal(decode(encoded(RGB, "PNG"), "a.png"), RGB)


def test_grey_is_repeated():
    grey = RGB[..., 0]
    np.testing.assert_array_equal(decode(encoded(grey, "PNG"), "a.png"), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_keeps_the_upper_byte_whatever_the_image_holds(kind):
    values = np.array([[0, 255, 256, 30000], [257, 5000, 32768, 40000]], np.uint16)
    np.testing.assert_array_equal(decode(encoded(values, kind), "a")[..., 1], values >> 8)


def test_16_bit_with_big_endian_bytes():
    values = np.array([[0, 256, 513, 65535]], np.uint16)
    big_endian = Image.frombytes("I;16B", (4, 1), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode(encoded(big_endian, "TIFF"), "a")[..., 0], values >> 8)


def test_32_bit_float_is_refused_with_its_range():
    with pytest.raises(UserError, match=r"a\.tif.*0\.0 to 2\.5.*8 or 16 bits"):
        decode(encoded(Image.fromarray(np.array([[0, 2.5]], np.float32)), "TIFF"), "a.tif")


def test_cmyk_is_converted():
    cmyk = Image.fromarray(RGB).convert("CMYK")
    np.testing.assert_array_equal(decode(encoded(cmyk, "TIFF"), "a"), np.asarray(cmyk.convert("RGB")))


def test_palette_gives_its_colours():
    palette = Image.fromarray(RGB).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette, "PNG"), "a"), np.asarray(palette.convert("RGB")))


def test_transparent_parts_are_white():
    rgba = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    rgba[:10, :, 3] = 0
    got = decode(encoded(rgba, "PNG"), "a")
    assert (got[:10] == 255).all()
    np.testing.assert_array_equal(got[10:], RGB[10:])


def test_transparent_colour_of_a_palette_is_white():
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "L").convert("P")
    palette.putpalette([10, 20, 30, 200, 100, 50])
    got = decode(encoded(palette, "PNG", transparency=0), "a")
    np.testing.assert_array_equal(got, [[[255] * 3, [200, 100, 50]], [[200, 100, 50], [255] * 3]])


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # camera turned: show it rotated by 90 degrees clockwise
    got = decode(encoded(RGB, "PNG", exif=exif), "a")
    np.testing.assert_array_equal(got, np.rot90(RGB, -1))


@pytest.mark.parametrize("length", [200, -1000])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_file_is_named(kind, length):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with pytest.raises(UserError, match=r"^part 7\.jpg is (damaged|not an image)[^\n]*$"):
        decode(encoded(noise, kind)[:length], "part 7.jpg")


def test_empty_file_is_named():
    with pytest.raises(UserError, match=r"^ä ö\.jpg is empty \(0 bytes\)"):
        decode(b"", "ä ö.jpg")


def test_file_that_is_not_an_image_is_named():
    with pytest.raises(UserError, match=r"^notes\.png is not an image"):
        decode(b"just some text", "notes.png")


def test_mask_threshold_is_exclusive():
    values = np.array([[0, 1, 127, 128, 255]], np.uint8)
    np.testing.assert_array_equal(decode_mask(encoded(values, "PNG"), "m"), [[0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(decode_mask(encoded(values, "PNG"), "m", threshold=0), [[0, 1, 1, 1, 1]])


def test_mask_in_one_dark_colour_counts():
    values = np.zeros((1, 2, 3), np.uint8)
    values[0, 1, 2] = 200  # blue: 23 of 255 in grey
    np.testing.assert_array_equal(decode_mask(encoded(values, "PNG"), "m"), [[0, 1]])


def test_mask_of_16_bit_class_numbers_counts():
    values = np.array([[0, 1, 3]], np.uint16)
    np.testing.assert_array_equal(decode_mask(encoded(values, "PNG"), "m", threshold=0), [[0, 1, 1]])


def test_mask_drawn_on_transparency_counts():
    values = np.full((1, 2, 4), 255, np.uint8)
    values[0, 0, 3] = 0
    np.testing.assert_array_equal(decode_mask(encoded(values, "PNG"), "m"), [[0, 1]])


def test_one_bit_mask_counts():
    values = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    np.testing.assert_array_equal(decode_mask(encoded(values, "PNG"), "m"), [[0, 1]])


def test_encoded_mask_comes_back():
    mask = RGB[..., 0] > 100
    np.testing.assert_array_equal(decode_mask(encode_mask(mask), "m"), mask)
