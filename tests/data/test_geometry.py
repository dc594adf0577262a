"""The three ways to the network's input, and back."""

import numpy as np
import pytest
from PIL import Image

from jaxad.data.geometry import Box, Geometry
from jaxad.errors import UserError
from tests.data.raw import pixels
from tests.golden.load import cases, load

SIZES = [(37, 52), (80, 41), (64, 64), (1, 300)]


def as_size(size) -> tuple[int, int]:
    height, width = (size, size) if np.ndim(size) == 0 else size
    return int(height), int(width)


@pytest.mark.parametrize("path", cases("radl", "letterbox"))
def test_pad_equals_the_letterbox_fixture(path):
    case = load(path)
    photo = case.inputs["photo"]
    geometry = Geometry("pad", as_size(case.settings["size"]))
    canvas, box = geometry.apply(photo)
    normalised = (canvas / 255 - case.settings["mean"]) / case.settings["std"]
    valid = geometry.valid(box)
    got = {
        "image": normalised.transpose(2, 0, 1),
        "image_row": normalised[box.top + box.height // 2].T,
        "valid_rows": valid.any(axis=1),
        "valid_cols": valid.any(axis=0),
        "box": np.array(box),
    }
    for key in case.expected:
        case.check(key, got[key].astype(np.float32))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_stretch_is_pillows_resize(interpolation):
    image = pixels(1, 80, 41)
    got, box = Geometry("stretch", (32, 48), interpolation=interpolation).apply(image)
    want = Image.fromarray(image).resize((48, 32), Image.Resampling[interpolation.upper()])
    np.testing.assert_array_equal(got, np.asarray(want))
    assert box == Box(0, 0, 32, 48)


@pytest.mark.parametrize(
    ("size", "resized", "corner"), [((100, 151), (40, 60), (4, 14)), ((91, 50), (72, 40), (20, 4))]
)
def test_crop_is_torchvisions_resize_and_center_crop(size, resized, corner):
    image = pixels(2, *size)
    got, _ = Geometry("crop", (32, 32), resize=40).apply(image)
    want = np.asarray(Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(got, want[corner[0] : corner[0] + 32, corner[1] : corner[1] + 32])


@pytest.mark.parametrize("size", SIZES)
def test_padding_is_black_and_not_valid(size):
    geometry = Geometry("pad", (32, 48))
    canvas, box = geometry.apply(np.full((*size, 3), 255, np.uint8))
    valid = geometry.valid(box)
    np.testing.assert_array_equal(canvas[..., 0] == 255, valid)
    np.testing.assert_array_equal(geometry.apply_mask(np.ones(size, bool)), valid)
    assert box.height == 32 or box.width == 48


def test_nothing_of_a_stretched_or_cropped_input_is_padding():
    for kind in ("stretch", "crop"):
        geometry = Geometry(kind, (32, 48), resize=48)
        assert geometry.valid(geometry.apply(pixels(0, 37, 52))[1]).all()


def test_masks_are_nearest_by_default():
    mask = np.zeros((64, 64), bool)
    mask[:, 10:43] = True
    want = np.asarray(Image.fromarray(mask.astype(np.uint8)).resize((32, 32), Image.Resampling.NEAREST)) > 0
    np.testing.assert_array_equal(Geometry("stretch", (32, 32)).apply_mask(mask), want)


def test_bilinear_masks_are_those_of_ader():
    rng = np.random.default_rng(0)
    mask = np.kron(rng.random((9, 7)) > 0.5, np.ones((8, 9))) > 0
    resized = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize((32, 32), Image.Resampling.BILINEAR))
    got = Geometry("stretch", (32, 32), mask_interpolation="bilinear").apply_mask(mask)
    np.testing.assert_array_equal(got, resized / 255 > 0.5)
    assert (got != Geometry("stretch", (32, 32)).apply_mask(mask)).any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["stretch", "pad"])
def test_restored_map_has_the_photographs_size_and_keeps_a_constant(kind, size):
    geometry = Geometry(kind, (32, 48))
    anomaly_map = np.where(geometry.valid(geometry.box(size)), 3.0, -100.0)  # padding must not leak in
    np.testing.assert_allclose(geometry.restore(anomaly_map, size), np.full(size, 3.0), rtol=1e-6)


@pytest.mark.parametrize("kind", ["stretch", "pad", "crop"])
def test_restored_map_lies_where_the_defect_is(kind):
    geometry = Geometry(kind, (64, 64), resize=80)
    image = np.zeros((100, 140, 3), np.uint8)
    image[40:60, 80:100] = 255
    restored = np.nan_to_num(geometry.restore(geometry.apply(image)[0][..., 0].astype(np.float32), (100, 140)))
    rows, columns = np.indices(restored.shape)
    centre = (rows * restored).sum() / restored.sum(), (columns * restored).sum() / restored.sum()
    np.testing.assert_allclose(centre, (49.5, 89.5), atol=0.25)


def test_outside_of_a_crop_is_nan():
    restored = Geometry("crop", (32, 32), resize=40).restore(np.ones((32, 32)), (80, 120))
    np.testing.assert_array_equal(np.isnan(restored[:, 60]), [*[True] * 8, *[False] * 64, *[True] * 8])
    np.testing.assert_array_equal(np.isnan(restored[40]), [*[True] * 28, *[False] * 64, *[True] * 28])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "strech"}, r"config\.input\.geometry is 'strech'.*Did you mean 'stretch'"),
        ({"interpolation": "cubic"}, r"config\.input\.interpolation is 'cubic'.*Did you mean 'bicubic'"),
        ({"mask_interpolation": "nearst"}, r"config\.input\.mask_interpolation.*'nearest'"),
        ({"size": (0, 5)}, r"config\.input\.size"),
        ({"kind": "crop", "size": (64, 64), "resize": 60}, r"config\.input\.resize is 60.*at least 64"),
    ],
)
def test_wrong_settings_name_their_field(fields, message):
    with pytest.raises(UserError, match=message):
        Geometry(**fields)
