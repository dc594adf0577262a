import dataclasses

import numpy as np
import pytest

from datasets_tfds.mirad_mini.glyphs import DIGITS, GLYPHS, LETTERS, PICTOGRAMS, Mark, marked, marks, spelled
from datasets_tfds.mirad_mini.surface import grid

SIDE = grid(16.0, 0.1)


def filled(mark: Mark) -> np.ndarray:
    return marked(SIDE, [mark]) < 0


@pytest.mark.parametrize("name", GLYPHS)
def test_a_glyph_fills_its_box_and_no_more(name):
    rows, columns = np.nonzero(filled(Mark(name, (0, 0), 8.0)))
    high, wide = (rows.max() - rows.min()) * SIDE.pitch, (columns.max() - columns.min()) * SIDE.pitch
    assert 4.5 < high < 10
    assert wide < 8.0 * GLYPHS[name].width + 2.5
    assert abs(rows.mean() - SIDE.size / 2) * SIDE.pitch < 2


def test_all_digits_letters_and_pictograms_differ():
    names = [*DIGITS, *LETTERS, *PICTOGRAMS]
    shapes = [filled(Mark(name, (0, 0), 8.0)) for name in names]
    for i, first in enumerate(shapes):
        for second in shapes[:i]:
            assert (first ^ second).sum() > 0.1 * first.sum()


@pytest.mark.parametrize("name", ["2", "G", "note"])
def test_mirrored_and_turned_glyphs_are_mirrored_and_turned(name):
    mark = Mark(name, (0, 0), 8.0)
    upright = filled(mark)
    np.testing.assert_array_equal(filled(dataclasses.replace(mark, mirrored=True)), upright[:, ::-1])
    turned = filled(dataclasses.replace(mark, angle=180.0))
    assert (turned ^ upright[::-1, ::-1]).sum() <= 0.01 * upright.sum()
    assert (turned ^ upright).sum() > 0.2 * upright.sum()


def test_a_line_of_glyphs_is_centred_and_no_wider_than_asked():
    line = marks("258", (1.0, -2.0), height=8.0, widest=12.0)
    columns = np.nonzero(marked(SIDE, line) < 0)[1]
    assert (columns.max() - columns.min()) * SIDE.pitch < 12.0 + 0.2 * 8
    assert np.mean([mark.centre[0] for mark in line]) == pytest.approx(1.0, abs=0.05)
    assert {mark.centre[1] for mark in line} == {-2.0}
    assert marks("2", (0, 0), 8.0, 12.0)[0].height == 8.0


def test_pictograms_are_one_glyph_and_numbers_are_spelled():
    assert spelled("heart") == ("heart",)
    assert spelled("42") == ("4", "2")
