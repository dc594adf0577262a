"""The three ways to the network's input, and back."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates

from configs import common
from jaxad.data.geometry import Box, Geometry, from_config, sampled
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


def test_stretched_and_cropped_inputs_have_no_padding():
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


def interpolated(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear values at the new pixels' centres by SciPy's interpolation, borders repeated; float64."""
    places = [(np.arange(new) + 0.5) * old / new - 0.5 for old, new in zip(image.shape, size, strict=False)]
    grid = np.meshgrid(*places, indexing="ij")
    channels = image.reshape(*image.shape[:2], -1).astype(float)
    values = [map_coordinates(channels[..., c], grid, order=1, mode="nearest") for c in range(channels.shape[2])]
    return np.stack(values, 2).reshape(*size, *image.shape[2:])


@pytest.mark.parametrize("new", [(32, 48), (33, 7), (37, 52), (1, 1), (97, 301)])
@pytest.mark.parametrize("old", [*SIZES, (1, 1), (2, 3)])
def test_sampling_is_bilinear_at_the_centres_of_the_new_pixels(old, new):
    image = np.random.default_rng(0).integers(0, 256, (*old, 3), np.uint8)
    got, want = sampled(image, new), interpolated(image, new)
    assert got.shape == (*new, 3) and got.dtype == np.uint8
    assert np.abs(got - want).max() <= 0.5 + 1e-3
    np.testing.assert_array_equal(sampled(image[..., 0], new), got[..., 0])  # a grey picture is a channel by itself


@pytest.mark.parametrize(
    ("row", "count", "want"),
    [
        ([0, 100], 4, [0, 25, 75, 100]),  # at -0.25, repeated; 0.25; 0.75; 1.25, repeated
        ([0, 90], 3, [0, 45, 90]),
        ([7], 3, [7, 7, 7]),
        ([0, 10, 20, 30], 2, [5, 25]),
        ([0, 90, 0, 0, 60, 0], 2, [90, 60]),  # every third pixel, the others unseen
        ([0, 90, 90, 0, 90, 90], 2, [90, 90]),
        ([0, 40, 80, 120, 160], 2, [30, 130]),  # at 0.75 and 3.25
        ([10, 20, 30, 40, 50], 5, [10, 20, 30, 40, 50]),
        ([0, 1], 4, [0, 0, 1, 1]),  # 0.25 and 0.75, rounded
        ([255, 254], 4, [255, 255, 254, 254]),
        ([0, 255], 2, [0, 255]),
    ],
)
def test_sampled_values_are_those_computed_by_hand(row, count, want):
    line = np.array([row], np.uint8)
    assert sampled(line, (1, count)).tolist() == [want]
    assert sampled(line.T, (count, 1)).T.tolist() == [want]


def test_sampling_goes_along_both_axes():
    square = np.array([[0, 100], [40, 180]], np.uint8)
    assert sampled(square, (1, 1)).tolist() == [[80]]
    assert sampled(square, (3, 3)).tolist() == [[0, 50, 100], [20, 80, 140], [40, 110, 180]]


def test_antialias_averages_over_what_plain_bilinear_skips():
    image = np.zeros((60, 60, 3), np.uint8)
    image[:, ::10] = 240  # a tenth of the size is sampled between columns 4 and 5, 14 and 15, ...
    plain, _ = Geometry("stretch", (6, 6), antialias=False).apply(image)
    smooth, _ = Geometry("stretch", (6, 6)).apply(image)
    assert not plain.any()
    assert smooth.min() > 10


@pytest.mark.parametrize("size", [(100, 151), (91, 50)])
@pytest.mark.parametrize(
    ("kind", "resized"),
    [
        ("stretch", {(100, 151): (32, 48), (91, 50): (32, 48)}),
        ("pad", {(100, 151): (32, 48), (91, 50): (32, 18)}),
        ("crop", {(100, 151): (48, 72), (91, 50): (87, 48)}),
    ],
)
def test_every_kind_can_do_without_antialias(kind, resized, size):
    image, geometry = pixels(2, *size), Geometry(kind, (32, 48), resize=48, antialias=False)
    got, box = geometry.apply(image)
    whole = sampled(image, resized[size])
    if kind == "pad":
        inside = got[box.top : box.top + box.height, box.left : box.left + box.width]
        np.testing.assert_array_equal(inside, whole)
        assert not got[~geometry.valid(box)].any()
    else:
        top, left = (round((r - n) / 2) for r, n in zip(whole.shape[:2], (32, 48), strict=True))
        np.testing.assert_array_equal(got, whole[top : top + 32, left : left + 48])
    assert (got != Geometry(kind, (32, 48), resize=48).apply(image)[0]).any()


@pytest.mark.parametrize("size", SIZES[:3])
@pytest.mark.parametrize("kind", ["stretch", "pad", "crop"])
def test_boxes_and_the_way_back_do_not_depend_on_antialias(kind, size):
    smooth, plain = (Geometry(kind, (32, 48), resize=48, antialias=antialias) for antialias in (True, False))
    image, anomaly_map = pixels(0, *size), np.random.default_rng(1).random((32, 48))
    assert plain.apply(image)[1] == smooth.apply(image)[1] == plain.box(size)
    np.testing.assert_array_equal(plain.restore(anomaly_map, size), smooth.restore(anomaly_map, size))


def test_bilinear_masks_without_antialias_are_sampled_and_cut_at_half():
    mask = np.random.default_rng(3).random((61, 45)) > 0.5
    got = Geometry("stretch", (32, 48), mask_interpolation="bilinear", antialias=False).apply_mask(mask)
    want = interpolated(mask.astype(np.uint8) * 255, (32, 48))
    clear = np.abs(want - 127.5) > 0.501  # what rounding cannot turn
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got[clear], want[clear] > 127.5)
    assert (got != Geometry("stretch", (32, 48), mask_interpolation="bilinear").apply_mask(mask)).any()


def test_thin_defects_stay_or_vanish_by_their_place_in_plain_bilinear_masks():
    mask = np.zeros((6, 6), bool)
    mask[:, 1] = True  # the middle of the first three pixels, of which one is sampled
    geometry = Geometry("stretch", (6, 2), mask_interpolation="bilinear", antialias=False)
    assert geometry.apply_mask(mask).tolist() == [[True, False]] * 6
    assert not geometry.apply_mask(np.roll(mask, 1, 1)).any()


def test_nearest_masks_do_not_depend_on_antialias():
    mask = np.random.default_rng(4).random((61, 45)) > 0.5
    for kind in ("stretch", "pad", "crop"):
        smooth, plain = (Geometry(kind, (32, 48), resize=48, antialias=antialias) for antialias in (True, False))
        np.testing.assert_array_equal(plain.apply_mask(mask), smooth.apply_mask(mask))


def test_the_config_says_whether_there_is_antialias():
    config = common.base("elpv").input
    assert from_config(config) == Geometry("stretch", (256, 256), resize=256)
    config.antialias = False
    assert from_config(config) == Geometry("stretch", (256, 256), resize=256, antialias=False)


def test_bicubic_without_antialias_is_refused():
    refused = r"config\.input\.interpolation is 'bicubic'; expected bilinear .*config\.input\.antialias is False$"
    with pytest.raises(UserError, match=refused):
        Geometry(interpolation="bicubic", antialias=False)
    assert Geometry(interpolation="bicubic").antialias


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


def test_a_crop_narrower_than_a_pixel_of_the_photograph_still_has_a_place_in_its_map():
    geometry = Geometry("crop", (32, 48), resize=48)
    for size in ((1, 300), (300, 1)):
        whole = geometry.restore(np.ones((32, 48), np.float32), size)
        assert whole.shape == size
        assert np.nanmax(whole) == 1
