import dataclasses

import numpy as np
import pytest

from datasets_tfds.mirad_mini.products import FAMILIES, build, draw_design
from datasets_tfds.mirad_mini.products.finish import METALS, PARTNERS, WOODS, linear, others
from jaxad.errors import UserError

FIELDS = ("height", "cover", "albedo", "gloss", "metal", "defect")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_surface_is_within_its_ranges_and_its_grid(family):
    rng = np.random.default_rng(1)
    for _ in range(8):
        surface = build(draw_design(family, rng), pitch=0.2)
        for name in FIELDS:
            field = getattr(surface, name)
            assert field.dtype == (bool if name == "defect" else np.float32)
            assert np.isfinite(field).all()
            if name != "height":
                assert 0 <= field.min() <= field.max() <= 1
        assert not surface.defect.any()
        assert surface.height.min() >= 0
        assert 3 <= surface.height.max() < 13
        assert surface.cover[[0, -1]].max() == surface.cover[:, [0, -1]].max() == 0
        assert (surface.height[surface.cover == 0] < 0.05).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_products_are_26_to_44_mm_across_and_in_the_middle(family):
    rng = np.random.default_rng(2)
    for _ in range(12):
        surface = build(draw_design(family, rng), pitch=0.5)
        rows, columns = np.nonzero(surface.cover > 0.5)
        steps = (np.arange(len(surface.cover)) - (len(surface.cover) - 1) / 2) * surface.pitch
        assert np.hypot(steps[rows], steps[columns]).max() < 22.8
        assert 25 < max(np.ptp(rows), np.ptp(columns)) * surface.pitch < 45
        for places in (steps[rows], steps[columns]):
            assert abs(places.max() + places.min()) < 4.5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_design_is_the_same_surface(family):
    design = draw_design(family, np.random.default_rng(3))
    assert design == draw_design(family, np.random.default_rng(3))
    first, second = build(design, pitch=0.2), build(design, pitch=0.2)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@pytest.mark.parametrize("family", FAMILIES)
def test_pitch_changes_the_sampling_only(family):
    design = dataclasses.replace(draw_design(family, np.random.default_rng(4)), extent_mm=46.0)
    coarse, fine = build(design, pitch=0.2), build(design, pitch=0.1)
    for name in ("height", "cover", "albedo"):
        field = getattr(fine, name)
        averaged = (field[::2, ::2] + field[1::2, ::2] + field[::2, 1::2] + field[1::2, 1::2]) / 4
        assert np.percentile(np.abs(averaged - getattr(coarse, name)), 94) < 0.08


@pytest.mark.parametrize("family", FAMILIES)
def test_every_design_is_individual(family):
    rng = np.random.default_rng(5)
    designs = [draw_design(family, rng) for _ in range(30)]
    drawn = {tuple(design.attributes().items()) for design in designs}
    assert len(drawn) == len(designs)
    for name in ("colour", "shape", "pattern"):
        assert len({design.attributes()[name] for design in designs}) > 2


@pytest.mark.parametrize("family", FAMILIES)
def test_attributes_are_plain_values_of_one_set_of_names(family):
    attributes = draw_design(family, np.random.default_rng(6)).attributes()
    assert list(attributes) == ["colour", "partner", "shape", "pattern", "symbol", "size_mm"]
    assert isinstance(attributes.pop("size_mm"), float)
    assert all(isinstance(value, str) for value in attributes.values())


def test_the_symbols_colour_follows_from_the_bodys_and_contrasts_with_it():
    for body, partner in PARTNERS.items():
        assert max(abs(a**0.5 - b**0.5) for a, b in zip(linear(body), linear(partner), strict=True)) > 0.15
        assert {body, partner}.isdisjoint(others(partner, body, 99, 5))
    assert set(WOODS) < set(PARTNERS)
    assert set(METALS).isdisjoint(PARTNERS)


def test_pendants_have_metal_rings():
    surface = build(draw_design("pendant", np.random.default_rng(7)), pitch=0.2)
    assert (surface.metal > 0.9).sum() * surface.pitch**2 > 8


def test_an_unknown_family_is_named_beside_the_known_ones():
    with pytest.raises(UserError, match=r"'bricks'.*brick, number_tile"):
        draw_design("bricks", np.random.default_rng(0))
