import numpy as np
import pytest
from PIL import Image

from jaxad.errors import UserError
from jaxad.report.overlay import (
    PALETTE,
    heat,
    map_scale,
    outline,
    overlay,
    read_map_png16,
    write_map_npy,
    write_map_png16,
    write_overlay,
)


def test_png16_gives_the_map_back_to_half_a_step(tmp_path):
    anomaly_map = np.random.default_rng(0).normal(3, 2, (37, 53)).astype(np.float32)
    low, high = float(anomaly_map.min()), float(anomaly_map.max())
    write_map_png16(tmp_path / "map.png", anomaly_map, low, high)
    np.testing.assert_allclose(read_map_png16(tmp_path / "map.png"), anomaly_map, atol=(high - low) / 131070 * 1.01)
    with Image.open(tmp_path / "map.png") as image:
        assert (image.mode, image.size) == ("I;16", (53, 37))
        assert float(image.text["low"]) == low


def test_png16_clips_to_its_scale(tmp_path):
    write_map_png16(tmp_path / "map.png", np.array([[-1.0, 0.5, 9.0]], np.float32), 0.0, 2.0)
    np.testing.assert_allclose(read_map_png16(tmp_path / "map.png"), [[0.0, 0.5, 2.0]], atol=2e-5)


def test_png16_of_a_constant_map_is_that_constant(tmp_path):
    write_map_png16(tmp_path / "map.png", np.full((3, 4), 0.25, np.float32), 0.25, 0.25)
    np.testing.assert_array_equal(read_map_png16(tmp_path / "map.png"), np.full((3, 4), 0.25))


def test_npy_is_exact(tmp_path):
    anomaly_map = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    write_map_npy(tmp_path / "map.npy", anomaly_map)
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), anomaly_map)


@pytest.mark.parametrize("write", [lambda p, m: write_map_png16(p, m, 0.0, 1.0), write_map_npy])
@pytest.mark.parametrize("values", [[np.nan, np.nan], [np.inf, 1.0]])
def test_a_map_without_numbers_or_with_infinity_is_not_written(tmp_path, write, values):
    with pytest.raises(UserError, match="infinite values or no number at all"):
        write(tmp_path / "map", np.array([values], np.float32))
    assert not list(tmp_path.iterdir())


def test_what_lies_outside_a_crop_is_nan_in_npy_and_the_low_end_in_png(tmp_path):
    anomaly_map = np.array([[np.nan, 1.0, 3.0]], np.float32)
    write_map_npy(tmp_path / "map.npy", anomaly_map)
    np.testing.assert_array_equal(np.load(tmp_path / "map.npy"), anomaly_map)
    write_map_png16(tmp_path / "map.png", anomaly_map, 1.0, 3.0)
    np.testing.assert_allclose(read_map_png16(tmp_path / "map.png"), [[1.0, 1.0, 3.0]], atol=1e-4)


def test_a_png_of_another_program_has_no_scale(tmp_path):
    Image.new("I;16", (2, 2)).save(tmp_path / "other.png")
    with pytest.raises(UserError, match=r"other\.png: no text entries"):
        read_map_png16(tmp_path / "other.png")


def test_lightness_of_the_palette_rises_all_the_way():
    lightness = PALETTE.astype(float) @ [0.2126, 0.7152, 0.0722]
    assert len(PALETTE) == 256
    assert (np.diff(lightness) > -0.5).all()
    assert lightness[0] < 5 < 240 < lightness[-1]


def test_heat_spans_the_scale_and_clips_outside():
    colors = heat(np.array([[-5.0, 1.0, 2.0, 3.0, 9.0, np.nan]]), 1.0, 3.0)[0]
    np.testing.assert_array_equal(colors[[0, 1, 2, 3, 4, 5]], PALETTE[[0, 0, 128, 255, 255, 0]])


def test_overlay_changes_nothing_at_low_and_on_padding():
    image = np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8)
    valid = np.ones((4, 4), bool)
    valid[:, 3] = False
    anomaly_map = np.zeros((4, 4))
    anomaly_map[:, 2:] = 1.0
    drawn = overlay(image, anomaly_map, 0.0, 1.0, valid)
    np.testing.assert_array_equal(drawn[:, [0, 1, 3]], image[:, [0, 1, 3]])
    assert (drawn[:, 2] != image[:, 2]).any()


def test_outline_surrounds_the_mask_and_leaves_its_inside():
    image = np.full((9, 9, 3), 90, np.uint8)
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    drawn = outline(image, mask)
    np.testing.assert_array_equal(drawn[4, 4], [90, 90, 90])
    assert (drawn[3:6, 3:6].reshape(9, 3) == (0, 229, 255)).all(1).sum() == 8
    np.testing.assert_array_equal(drawn[0], image[0])
    np.testing.assert_array_equal(outline(image, np.zeros_like(mask)), image)


def test_scale_is_the_normal_median_and_a_high_percentile_without_padding():
    normal, anomalous = np.full((10, 10), 1.0), np.full((10, 10), 5.0)
    valid = [np.ones((10, 10), bool), np.ones((10, 10), bool)]
    valid[1][:, 5:] = False
    anomalous[:, 5:] = 1000.0
    assert map_scale([normal, anomalous], [False, True], valid) == (1.0, 5.0)
    assert map_scale([anomalous], [True], valid[1:]) == (5.0, 5.0)
    assert map_scale([], []) == (0.0, 1.0)


def test_overlay_file_has_the_size_of_the_photograph(tmp_path):
    write_overlay(tmp_path / "overlay.png", np.zeros((20, 30, 3), np.uint8), np.ones((20, 30)), 0.0, 1.0)
    with Image.open(tmp_path / "overlay.png") as image:
        assert (image.mode, image.size) == ("RGB", (30, 20))
