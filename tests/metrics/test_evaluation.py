import subprocess
import sys
import warnings

import numpy as np
import pytest

from jaxad.errors import UserError
from jaxad.metrics import (
    IMAGE_METRICS,
    PIXEL_METRICS,
    GroundTruth,
    compute,
    curves,
    overlap_profile,
    rank_images,
    rank_pixels,
    regions,
    truth,
)

ADERS = (["I-AUROC", "I-AP", "I-F1max"], ["P-AUROC", "P-AP", "P-F1max", "AUPRO"])  # of images, of pixels


def names(mode: str) -> tuple[list[str], list[str]]:
    """The metrics of images and of pixels that a mode has."""
    return (list(IMAGE_METRICS), list(PIXEL_METRICS)) if mode == "exact" else ADERS


IMAGE, PIXEL = names("exact")
MODES = ["exact", "ader", "ader_steps"]


def values(maps, masks, scores, labels, *, valid=None, has_mask=None, **settings) -> dict[str, float]:
    return compute(maps, scores, GroundTruth(labels, masks, valid, has_mask), **settings)


@pytest.fixture
def test_set():
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 24, 20), bool)
    masks[2:, 4:10, 5:12] = True
    masks[4:, 15:18, 1:6] = True
    maps = (rng.random(masks.shape) + 0.4 * masks).astype(np.float32)
    return maps, masks, maps.mean(axis=(1, 2)), masks.any(axis=(1, 2))


@pytest.fixture(autouse=True)
def no_other_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("mode", MODES)
def test_seven_fractions(test_set, mode):
    result = values(*test_set, mode=mode)
    assert list(result) == [*names(mode)[0], *names(mode)[1]]
    assert all(isinstance(value, float) and 0 <= value <= 1 for value in result.values())


def test_aders_modes_differ_from_the_exact_values_but_little(test_set):
    exact, ader, steps = (values(*test_set, mode=mode) for mode in MODES)
    assert steps["P-AUROC"] == exact["P-AUROC"] and steps["P-AP"] == exact["P-AP"]
    assert ader["P-AUROC"] != exact["P-AUROC"]
    assert ader["P-F1max"] == steps["P-F1max"] <= exact["P-F1max"]
    for metric in ("P-AUROC", "P-AP", "AUPRO"):
        assert ader[metric] == pytest.approx(exact[metric], abs=0.02)


def test_ader_scores_an_image_by_its_maximum_and_labels_it_by_its_mask(test_set):
    maps, masks, _, _ = test_set
    wrong_scores, wrong_labels = np.zeros(6, np.float32), np.array([True] + [False] * 5)
    expected = values(maps, None, maps.max(axis=(1, 2)), masks.any(axis=(1, 2)), mode="ader")
    found = values(maps, masks, wrong_scores, wrong_labels, mode="ader")
    assert {metric: found[metric] for metric in ADERS[0]} == expected


def test_ader_takes_an_image_of_unknown_truth_for_a_normal_one(test_set):
    maps, masks, scores, labels = test_set
    has_mask = np.array([True, True, False, True, True, True])
    emptied = masks & has_mask[:, None, None]
    for mode in ("ader", "ader_steps"):
        found = values(maps, masks, scores, labels, has_mask=has_mask, mode=mode)
        assert found == values(maps, emptied, scores, labels, mode=mode)


def test_exact_leaves_images_of_unknown_truth_out_of_the_pixel_metrics_only(test_set):
    maps, masks, scores, labels = test_set
    has_mask = np.array([True, True, False, True, True, True])
    found = values(maps, masks, scores, labels, has_mask=has_mask)
    kept = values(maps[has_mask], masks[has_mask], scores[has_mask], labels[has_mask])
    every = values(*test_set)
    assert all(found[metric] == kept[metric] for metric in PIXEL)
    assert all(found[metric] == every[metric] for metric in IMAGE)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("filling", [-1e6, 1e6, np.nan])
def test_padding_never_counts(test_set, mode, filling):
    maps, masks, scores, labels = test_set
    valid = np.zeros((6, 30, 26), bool)
    valid[:, 3:27, 2:22] = True
    padded_maps, padded_masks = np.full(valid.shape, filling, np.float32), np.ones(valid.shape, bool)
    padded_maps[valid], padded_masks[valid] = maps.ravel(), masks.ravel()
    assert values(padded_maps, padded_masks, scores, labels, valid=valid, mode=mode) == values(*test_set, mode=mode)


@pytest.mark.parametrize("filling", [-1e6, 1e6, np.nan])
def test_pooled_image_scores_see_no_padding(test_set, filling):
    maps, masks, scores, labels = test_set
    valid = np.zeros((6, 30, 26), bool)
    valid[:, 3:27, 2:22] = True
    padded_maps, padded_masks = np.full(valid.shape, filling, np.float32), np.zeros(valid.shape, bool)
    padded_maps[valid], padded_masks[valid] = maps.ravel(), masks.ravel()
    found = values(padded_maps, padded_masks, scores, labels, valid=valid, mode="ader", pooling=5)
    assert found == values(*test_set, mode="ader", pooling=5)
    with pytest.raises(UserError, match=r"image 0: .* no window of 23 x 23 pixels without padding"):
        values(padded_maps, padded_masks, scores, labels, valid=valid, mode="ader", pooling=23)


@pytest.mark.parametrize("mode", MODES)
def test_the_regions_are_labelled_once_for_curves_metrics_and_profile(test_set, mode, monkeypatch):
    maps, masks, scores, labels = test_set
    has_mask = np.array([True, True, False, True, True, True])
    expected = values(*test_set, has_mask=has_mask, mode=mode)
    labelled = []
    monkeypatch.setattr(truth, "label_regions", lambda *a, **k: labelled.append(a) or regions.label_regions(*a, **k))
    known = GroundTruth(labels, masks, has_mask=has_mask)
    ranking = rank_pixels(maps, known)
    assert ranking is not None
    assert curves(ranking).pro is not None and curves(rank_images(scores, known.labels)).pro is None
    assert compute(maps, scores, known, mode=mode, name="bracket", pixel_ranking=ranking) == expected
    overlap_profile(maps, known)
    assert len(labelled) == 1


def test_a_ranking_made_before_is_used_by_the_exact_mode_alone(test_set):
    maps, masks, _, labels = test_set
    other = rank_pixels(-maps, GroundTruth(labels, masks))
    for mode in MODES:
        found = values(*test_set, mode=mode, pixel_ranking=other)
        assert (found["AUPRO"] != values(*test_set, mode=mode)["AUPRO"]) == (mode == "exact")


def test_without_masks_there_are_no_pixel_metrics(test_set):
    maps, masks, scores, labels = test_set
    for mode in MODES:
        assert list(values(maps, None, scores, labels, mode=mode)) == names(mode)[0]
        assert list(values(maps, masks, scores, labels, has_mask=np.zeros(6, bool), mode=mode)) == names(mode)[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("defective", [False, True])
def test_one_class_is_nan_with_one_warning_that_names_the_category(mode, defective):
    rng = np.random.default_rng(1)
    maps = rng.random((3, 8, 8), dtype=np.float32)
    masks = np.full(maps.shape, defective)
    with pytest.warns(RuntimeWarning) as caught:
        result = values(maps, masks, maps.max(axis=(1, 2)), np.full(3, defective), mode=mode, name="bracket")
    assert list(result) == [*names(mode)[0], *names(mode)[1]]
    assert all(np.isnan(value) for value in result.values())
    assert len(caught) == 1
    assert str(caught[0].message).startswith("bracket: I-AUROC, ")
    assert ("3 normal and 0 defective", "0 normal and 3 defective")[defective] in str(caught[0].message)


def test_defects_whose_masks_are_empty_leave_the_image_metrics_alone(test_set):
    maps, masks, scores, labels = test_set
    with pytest.warns(RuntimeWarning, match="P-AUROC, P-AP, P-F1max, AUPRO.* cannot be computed") as caught:
        result = values(maps, np.zeros_like(masks), scores, labels)
    assert len(caught) == 1
    assert {metric: result[metric] for metric in IMAGE} == values(maps, None, scores, labels)


def test_constant_maps_have_the_values_of_chance(test_set):
    _, masks, _, labels = test_set
    maps = np.full(masks.shape, 0.25, np.float32)
    result = values(maps, masks, np.ones(6), labels)
    share = masks.mean()
    assert result["P-AUROC"] == result["I-AUROC"] == 0.5
    assert result["P-AP"] == pytest.approx(share)
    assert result["P-F1max"] == pytest.approx(2 * share / (1 + share))
    assert result["AUPRO"] == pytest.approx(0.15)


@pytest.mark.parametrize("mode", ["ader", "ader_steps"])
def test_aders_areas_of_constant_maps_are_nan_with_one_warning(test_set, mode):
    _, masks, scores, labels = test_set
    with pytest.warns(RuntimeWarning, match="AUPRO.*not constant") as caught:
        result = values(np.full(masks.shape, 0.25, np.float32), masks, scores, labels, mode=mode)
    assert len(caught) == 1
    assert np.isnan(result["AUPRO"]) and np.isnan(result["P-F1max"]) and result["I-AUROC"] == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_map_or_score_that_is_not_finite_is_an_error_with_the_images_index(test_set, bad):
    maps, masks, scores, labels = test_set
    broken = maps.copy()
    broken[4, 3, 3] = bad
    with pytest.raises(UserError, match="bracket: the anomaly map of image 4 "):
        values(broken, masks, scores, labels, name="bracket")
    broken = scores.copy()
    broken[5] = bad
    with pytest.raises(UserError, match=r"bracket: the score of image 5 is -?(nan|inf)"):
        values(maps, masks, broken, labels, name="bracket")


def test_settings_that_do_not_fit_are_one_clear_line(test_set):
    with pytest.raises(UserError, match="mode is 'adr', expected one of exact, ader, ader_steps"):
        values(*test_set, mode="adr")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="pooling is 16 in mode 'exact'"):
        values(*test_set, pooling=16)


def test_shapes_that_do_not_fit_name_the_argument(test_set):
    maps, masks, scores, labels = test_set
    with pytest.raises(ValueError, match=r"shape of maps is \(6, 24, 20\), expected \(6, 23, 20\)"):
        values(maps, masks[:, 1:], scores, labels)
    with pytest.raises(ValueError, match=r"shape of maps is \(6, 24, 20\), expected \(5, 24, 20\)"):
        values(maps, None, scores[1:], labels[1:])
    with pytest.raises(ValueError, match=r"shape of maps is \(6, 24, 19\), expected \(6, 24, 20\)"):
        rank_pixels(maps[..., 1:], GroundTruth(labels, masks))
    with pytest.raises(ValueError, match=r"shape of scores is \(5,\), expected \(6,\)"):
        values(maps, masks, scores[1:], labels)
    with pytest.raises(ValueError, match=r"shape of masks is \(6, 24, 20\), expected one map for each of 5 images"):
        GroundTruth(labels[1:], masks)
    with pytest.raises(ValueError, match=r"shape of valid is \(6, 24, 19\), expected \(6, 24, 20\)"):
        GroundTruth(labels, masks, valid=masks[..., 1:])
    with pytest.raises(ValueError, match=r"shape of has_mask is \(5,\), expected one value for each of 6 images"):
        GroundTruth(labels, masks, has_mask=labels[1:])
    with pytest.raises(ValueError, match=r"shape of labels is \(6, 24, 20\), expected one label per image"):
        GroundTruth(masks)


def test_without_a_mask_there_is_nothing_to_rank(test_set):
    maps, masks, _, labels = test_set
    for known in (GroundTruth(labels), GroundTruth(labels, masks, has_mask=np.zeros(6, bool))):
        assert known.masks is None
        assert rank_pixels(maps, known) is None
        with pytest.raises(ValueError, match="no image of the test set has a mask"):
            overlap_profile(maps, known)
        with pytest.raises(ValueError, match="no image of the test set has a mask"):
            _ = known.regions


def test_half_precision_maps_and_integer_masks_are_accepted(test_set):
    maps, masks, scores, labels = test_set
    half = maps.astype(np.float16)
    expected = values(half.astype(np.float32), masks, scores, labels)
    assert values(half, masks.astype(np.uint8) * 255, scores, labels.astype(int)) == expected  # pyright: ignore


def test_the_arguments_are_left_as_they_were(test_set):
    before = [array.copy() for array in test_set]
    for mode in MODES:
        values(*test_set, mode=mode)
    for array, copy in zip(test_set, before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_importing_the_metrics_loads_neither_jax_nor_scipy():
    code = "import sys, jaxad.metrics; sys.exit(', '.join({'jax', 'scipy', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == ""
