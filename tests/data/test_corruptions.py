import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxad.data.corruptions import (
    KINDS,
    Corruption,
    apply,
    parse,
)
from jaxad.errors import UserError
from jaxad.imaging.optics import to_linear


def product(height=150, width=200, object_colour=(170, 60, 40), table=(195, 200, 190), seed=0):
    """A photograph of a round part with a dark stain on an evenly lit table, and the stain's mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.empty((height, width, 3))
    image[:] = table
    part = np.hypot(y - height / 2, x - width / 2) < height / 4
    image[part] = object_colour
    stain = np.hypot(y - height / 2, x - width / 2 - height / 10) < height / 20
    image[stain] = 30
    image *= (0.85 + 0.15 * x / width)[..., None]
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8), stain


def texture(height=150, width=200, seed=0):
    """A photograph that a material fills: no object, no background."""
    field = np.random.default_rng(seed).normal(0, 1, (height + 8, width + 8))
    grain = sum(field[k : k + height, k : k + width] for k in range(8))
    return np.repeat(np.clip(128 + 15 * grain, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def distance(changed, original) -> float:
    return float(np.sqrt(np.mean((changed.astype(float) - original) ** 2)))


# The config's text


def test_corruptions_are_applied_along_the_path_of_the_light_whatever_their_order():
    assert parse("noise:1 + motion:3+view:5") == (
        Corruption("view", 5),
        Corruption("motion", 3),
        Corruption("noise", 1),
    )
    assert tuple(KINDS) == ("background", "view", "illumination", "resolution", "motion", "noise")


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_text_is_no_corruption(text):
    image, mask = product()
    assert parse(text) == ()
    changed, changed_mask = apply((), image, mask, "a")
    np.testing.assert_array_equal(changed, image)
    np.testing.assert_array_equal(changed_mask, mask)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("moton:3", "Did you mean 'motion'"),
        ("blur", "expected some of background, view"),
        ("motion:6", "expected 1 to 5"),
        ("motion:0", "expected 1 to 5"),
        ("motion:-1", "expected 1 to 5"),
        ("motion", "for example motion:3"),
        ("motion:", "for example motion:3"),
        ("motion:2.5", "for example motion:3"),
        ("motion:high", "for example motion:3"),
        ("motion:3:1", "for example motion:3"),
        ("motion:3+", "without a name"),
        (":3", "without a name"),
        ("motion:3,noise:1", "for example motion:3"),
        ("motion:3+motion:1", "twice"),
    ],
)
def test_malformed_text_is_named_with_the_field(text, says):
    with pytest.raises(UserError, match=r"config\.evaluation\.corruptions") as caught:
        parse(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# The draws


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_gets_the_same_change_every_time_and_another_image_another(kind):
    image, mask = product()
    corruptions = (Corruption(kind, 4),)
    first, first_mask = apply(corruptions, image, mask, "test/bad/001.png")
    again, again_mask = apply(corruptions, image.copy(), mask.copy(), "test/bad/001.png")
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first_mask, again_mask)
    others = [apply(corruptions, image, mask, f"test/bad/{n:03d}.png")[0] for n in range(2, 8)]
    if kind != "resolution":  # nothing in it is random
        assert any(distance(other, first) > 0.5 for other in others)
        seeded = [apply(corruptions, image, mask, "test/bad/001.png", seed)[0] for seed in range(1, 7)]
        assert any(distance(other, first) > 0.5 for other in seeded)


def test_another_process_draws_the_same():
    code = (
        "import numpy as np, zlib; from jaxad.data.corruptions import apply, parse;"
        "image = np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3);"
        "changed, _ = apply(parse('view:3+illumination:3+motion:3+noise:3'), image, image[..., 0] > 128, 'a', 1);"
        "print(zlib.crc32(changed.tobytes()))"
    )
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    root = Path(__file__).parents[2]
    printed = [
        subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True, check=True).stdout
        for env in environments
    ]
    assert printed[0] == printed[1] != b""


def test_a_kind_draws_the_same_whatever_else_is_changed():
    image, mask = product()
    _, alone = apply(parse("view:4"), image, mask, "a")
    _, together = apply(parse("view:4+noise:2+illumination:3+background:3"), image, mask, "a")
    np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("kind", KINDS)
def test_a_higher_severity_changes_more(kind):
    for name in ("a", "b", "c"):
        image, mask = product()
        distances = [distance(apply((Corruption(kind, s),), image, mask, name)[0], image) for s in (1, 2, 3, 4, 5)]
        assert distances[0] > 0
        assert distances == sorted(distances), (name, distances)


# What stays true of the photograph


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 8), (17, 33), (101, 64)])
def test_photographs_of_any_size_keep_it(kind, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    mask = rng.random(size) > 0.5
    changed, changed_mask = apply((Corruption(kind, 5),), image, mask, "a")
    assert changed.shape == image.shape and changed.dtype == np.uint8
    assert changed_mask.shape == mask.shape and changed_mask.dtype == bool


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
def test_photographs_of_one_colour_do_not_break(kind, colour):
    image = np.full((40, 50, 3), colour, np.uint8)
    mask = np.zeros((40, 50), bool)
    changed, changed_mask = apply((Corruption(kind, 5),), image, mask, "a")
    assert not changed_mask.any()
    if kind in ("background", "view", "resolution", "motion"):
        np.testing.assert_array_equal(changed, image)


@pytest.mark.parametrize("kind", KINDS)
def test_grey_photographs_stay_grey(kind):
    image, mask = product(object_colour=(90, 90, 90), table=(200, 200, 200))
    image = np.repeat(image[..., :1], 3, axis=-1)
    changed, _ = apply((Corruption(kind, 5),), image, mask, "a")
    assert distance(changed, image) > 1
    np.testing.assert_array_equal(changed[..., 0], changed[..., 1])
    np.testing.assert_array_equal(changed[..., 0], changed[..., 2])


def test_the_inputs_are_not_written_to():
    image, mask = product()
    image.setflags(write=False)
    mask.setflags(write=False)
    apply(tuple(Corruption(kind, 3) for kind in KINDS), image, mask, "a")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "view"])
def test_only_the_view_moves_the_mask(kind):
    image, mask = product()
    np.testing.assert_array_equal(apply((Corruption(kind, 5),), image, mask, "a")[1], mask)


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("size", [(200, 200), (150, 260), (261, 150)])
def test_under_another_view_the_mask_is_where_the_defect_is(severity, size):
    for name in "abcdef":
        image = np.zeros((*size, 3), np.uint8)
        mask = np.zeros(size, bool)
        mask[size[0] // 4 : size[0] // 4 + 40, size[1] // 2 : size[1] // 2 + 30] = True
        image[mask] = 255
        changed, changed_mask = apply((Corruption("view", severity),), image, mask, name)
        drawn = changed[..., 0] > 128
        assert (drawn & changed_mask).sum() / (drawn | changed_mask).sum() > 0.93
        assert 0.5 < changed_mask.sum() / mask.sum() < 1.2


def test_another_view_shows_nothing_black():
    image = np.full((90, 120, 3), 180, np.uint8)
    image[:45, :60] = 120
    for name in "abcdefgh":
        changed, _ = apply(parse("view:5"), image, np.zeros((90, 120), bool), name)
        assert changed.min() >= 119


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_of_a_few_pixels_in_the_middle_keeps_its_mask(kind):
    image = texture(120, 100)
    mask = np.zeros((120, 100), bool)
    mask[58:61, 49:52] = True
    for name in "abcdefgh":
        assert apply((Corruption(kind, 5),), image, mask, name)[1].any()


# Background


def test_another_background_leaves_object_and_defect_alone():
    image, mask = product()
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    from_middle = np.hypot(y - image.shape[0] / 2, x - image.shape[1] / 2)
    changes = []
    for name in "abcdefgh":
        changed, _ = apply(parse("background:5"), image, mask, name)
        np.testing.assert_array_equal(changed[from_middle < 33], image[from_middle < 33])
        changes.append(distance(changed[from_middle > 42], image[from_middle > 42]))
    assert min(changes) > 5  # paper, on a table much like it
    assert max(changes) > 50


def test_a_defect_on_the_background_is_not_painted_over():
    image, _ = product()
    mask = np.zeros(image.shape[:2], bool)
    mask[10:20, 10:30] = True
    image[mask] = 90
    for name in "abcd":
        changed, _ = apply(parse("background:5"), image, mask, name)
        assert distance(changed, image) > 5
        np.testing.assert_array_equal(changed[mask], image[mask])


def test_where_a_part_is_missing_the_new_background_is_seen():
    image, _ = product(table=(190, 200, 230))
    mask = np.zeros(image.shape[:2], bool)
    mask[60:80, 160:180] = True
    beside = np.roll(mask, 25, axis=0)
    for name in "abcd":
        changed, _ = apply(parse("background:5"), image, mask, name)
        assert np.abs(changed[mask].mean(axis=0) - changed[beside].mean(axis=0)).max() < 12


def test_another_background_lies_in_the_same_light():
    image, mask = product()
    shade = np.linspace(0.5, 1, image.shape[1])
    image = (image * shade[:, None]).astype(np.uint8)
    for name in "abcd":
        changed, _ = apply(parse("background:5"), image, mask, name)
        light = to_linear(changed).mean(axis=(0, 2))
        assert 1.8 < light[-30:].mean() / light[:30].mean() < 7  # the first has (1 / 0.5) ** 2.2 = 4.6, plus texture


def test_photographs_without_a_background_stay_as_they_are():
    image = texture()
    mask = np.zeros(image.shape[:2], bool)
    mask[60:70, 80:95] = True
    image[mask] = 20
    np.testing.assert_array_equal(apply(parse("background:5"), image, mask, "a")[0], image)


def test_magnetic_tiles_have_no_background():
    shared = os.environ.get("JAXAD_SHARED")
    if not shared:
        pytest.skip("JAXAD_SHARED is not set")
    files = sorted(Path(shared, "data", "magnetic_tile").glob("MT_*/**/*.jpg"))[::50]
    if not files:
        pytest.skip("no magnetic tiles in JAXAD_SHARED")
    changed = 0
    for file in files:
        image = np.asarray(Image.open(file).convert("RGB"))
        mask = np.zeros(image.shape[:2], bool)
        changed += not np.array_equal(apply(parse("background:5"), image, mask, file.name)[0], image)
    assert changed <= 0.05 * len(files)


def test_severity_means_the_same_for_small_and_large_photographs():
    """At the size of a network's input, a corruption does about as much to a photograph three times as wide."""
    for kind in ("background", "view", "illumination", "motion"):
        shares = []
        for size in (200, 600):
            image, mask = product(size, size)
            changed, _ = apply((Corruption(kind, 4),), image, mask, "a")
            small = [np.asarray(Image.fromarray(a).resize((100, 100), Image.Resampling.BOX)) for a in (image, changed)]
            shares.append(distance(*small))
        assert 0.6 < shares[0] / shares[1] < 1.6, (kind, shares)


def test_a_severity_of_thousands_of_digits_is_refused_in_one_line():
    with pytest.raises(UserError, match="severity of noise is 0; expected 1 to 5"):
        parse("noise:" + "9" * 5000)
