import dataclasses

import numpy as np
import pytest

from datasets_tfds.mirad_mini import defects
from datasets_tfds.mirad_mini.damage import Defect, closed, differing
from datasets_tfds.mirad_mini.defects import DEFECTS, LOGICAL, STRUCTURAL, draw_defect, draw_defects, kinds
from datasets_tfds.mirad_mini.design import Change, Changes
from datasets_tfds.mirad_mini.products import FAMILIES, build, draw_design
from datasets_tfds.mirad_mini.surface import grid

PITCH = 0.2
CASES = [(family, kind) for family in FAMILIES for kind in kinds(family)]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_a_defect_is_seen_and_its_mask_holds_all_that_differs(family, kind):
    rng = np.random.default_rng(DEFECTS.index(kind))
    found = 0
    for _ in range(4):
        design = draw_design(family, rng)
        defect = draw_defect(design, kind, rng)
        if defect is None:
            continue
        found += 1
        assert defect.kind == kind
        perfect, surface = build(design, pitch=PITCH), build(design, (defect,), PITCH)
        area = surface.defect.sum() * PITCH**2
        product = (perfect.cover > 0.5).sum() * PITCH**2
        assert 0.8 < area < 0.65 * product
        different = differing(perfect, surface)
        assert different.sum() * PITCH**2 > 0.4
        assert not (different & ~surface.defect).any()
    assert found >= 2


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_drawn_is_reproducible(family):
    design = draw_design(family, np.random.default_rng(1))
    first, second = (draw_defects(design, np.random.default_rng(2)) for _ in range(2))
    assert first == second
    np.testing.assert_array_equal(build(design, first, PITCH).defect, build(design, second, PITCH).defect)


def test_compound_defects_are_of_different_kinds_and_as_frequent_as_asked(monkeypatch):
    design = draw_design("pendant", np.random.default_rng(3))
    monkeypatch.setattr(defects, "draw_defect", lambda design, kind, rng, difficulty, perfect: Defect(kind))
    rng = np.random.default_rng(4)
    monkeypatch.setattr(defects, "build", lambda design, pitch: None)
    drawn = [[defect.kind for defect in draw_defects(design, rng)] for _ in range(600)]
    assert all(len(set(kinds_drawn)) == len(kinds_drawn) for kinds_drawn in drawn)
    assert {len(kinds_drawn) for kinds_drawn in drawn} == {1, 2, 3}
    assert np.mean([len(kinds_drawn) > 1 for kinds_drawn in drawn]) == pytest.approx(0.38, abs=0.06)
    singles = [kinds_drawn[0] for kinds_drawn in drawn if len(kinds_drawn) == 1]
    assert np.mean([kind in STRUCTURAL for kind in singles]) == pytest.approx(0.5, abs=0.1)
    assert {kind for kinds_drawn in drawn for kind in kinds_drawn} == set(DEFECTS)


def test_no_compound_defects_when_none_are_asked_for():
    rng = np.random.default_rng(5)
    designs = [draw_design(family, rng) for family in FAMILIES]
    assert {len(draw_defects(design, rng, compound=0.0)) for design in designs} == {1}


@pytest.mark.parametrize("kind", STRUCTURAL)
def test_harder_defects_are_smaller(kind):
    def area(difficulty: float) -> float:
        rng, areas = np.random.default_rng(6), []
        for _ in range(8):
            design = draw_design("button", rng)
            defect = draw_defect(design, kind, np.random.default_rng(len(areas)), difficulty)
            assert defect is not None
            areas.append(build(design, (defect,), PITCH).defect.sum())
        return float(np.mean(areas))

    assert area(0.5) > 1.2 * area(2.0)


def test_several_defects_are_all_in_the_mask():
    rng = np.random.default_rng(7)
    design = draw_design("number_tile", rng)
    ring, stain = (draw_defect(design, kind, rng) for kind in ("missing_ring", "stain"))
    assert ring is not None
    assert stain is not None
    both = build(design, (ring, stain), PITCH).defect
    for alone in (ring, stain):
        mask = build(design, (alone,), PITCH).defect
        assert (both & mask).sum() > 0.9 * mask.sum()


@pytest.mark.parametrize("family", ["number_tile", "pendant", "brick"])
def test_a_misplaced_symbol_is_marked_where_it_is_and_where_it_should_be(family):
    design = draw_design(family, np.random.default_rng(8))
    change = Change("symbol", "moved", x=2.5, y=-1.0, angle=20)
    mask = build(design, (Defect("misplaced_part", change),), PITCH).defect
    relief, g = FAMILIES[family].relief, grid(design.extent_mm, PITCH)
    places = [relief(design, g, Changes(changes))[1]["symbol"] for changes in ((), (change,))]
    assert (places[0] & ~places[1]).any()
    for place in places:
        assert (place & mask).sum() > 0.95 * place.sum()


def test_no_turned_digit_reads_as_another():
    design = dataclasses.replace(draw_design("number_tile", np.random.default_rng(1)), symbol="694")
    changes = FAMILIES["number_tile"].faults(design)["wrong_symbol"]
    assert [change.part for change in changes if change.action == "turned"] == ["digit 2"]


@pytest.mark.parametrize("family", ["brick", "number_tile"])
def test_a_symmetric_symbol_is_not_wrong_when_it_is_mirrored(family):
    symbol = {"brick": "heart", "number_tile": "8"}[family]
    design = dataclasses.replace(draw_design(family, np.random.default_rng(1)), symbol=symbol)
    rng = np.random.default_rng(2)
    drawn = [draw_defect(design, "wrong_symbol", rng) for _ in range(12)]
    actions = {defect.change.action for defect in drawn if defect and defect.change}
    assert actions
    assert "mirrored" not in actions


def test_products_without_a_ring_cannot_miss_one():
    assert "missing_ring" not in kinds("brick")
    assert "missing_ring" not in kinds("button")
    assert all(set(LOGICAL) - set(kinds(family)) <= {"missing_ring"} for family in FAMILIES)
    assert draw_defect(draw_design("brick", np.random.default_rng(9)), "missing_ring", np.random.default_rng(9)) is None


def test_closing_keeps_what_was_set_and_fills_the_gap_of_a_sample():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    mask[4, 4] = False
    mask[0, 0] = True
    expected = mask.copy()
    expected[4, 4] = True
    np.testing.assert_array_equal(closed(mask), expected)
