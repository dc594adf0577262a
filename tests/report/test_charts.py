import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from jaxad.report.charts import Line, histogram, line_chart


def path_points(svg: str, kind: str) -> np.ndarray:
    path = re.search(rf'class="curve {kind}" d="([^"]*)"', svg)
    assert path
    return np.array([[float(v) for v in point.split()] for point in re.split("[ML]", path[1])[1:]])


@pytest.mark.parametrize("threshold", [None, 0.5, np.inf])
@pytest.mark.parametrize(
    "scores", [np.linspace(-3, 5, 20), np.full(20, 2.0), np.append(np.linspace(0, 1, 19), np.nan), np.zeros(0)]
)
@pytest.mark.parametrize("anomalous", [0, 5])
def test_histograms_are_well_formed_whatever_the_scores(scores, anomalous, threshold):
    svg = histogram("scores <of> 'a'", scores, np.arange(len(scores)) < anomalous, threshold)
    ElementTree.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg
    assert ("threshold 0.5" in svg) == (threshold == 0.5 and len(scores) > 0)


def test_bars_add_up_to_all_images_of_their_kind():
    scores, labels = np.random.default_rng(0).random(50), np.arange(50) < 20
    svg = histogram("t", scores, labels, None)
    heights = {}
    for kind in ("normal", "anomalous"):
        bars = re.search(rf'class="bar {kind}" d="([^"]*)"', svg)
        assert bars
        heights[kind] = sum(abs(float(h)) for h in re.findall(r"v(-?[\d.]+)", bars[1]))
    assert heights["normal"] == pytest.approx(heights["anomalous"], rel=0.02)


def test_a_curve_ends_where_the_axis_ends():
    line = Line("pixel", np.array([0.0, 0.2, 1.0]), np.array([0.0, 0.5, 0.9]))
    full = path_points(line_chart("t", [line], "x", "y"), "pixel")
    cut = path_points(line_chart("t", [line], "x", "y", x_limit=0.3), "pixel")
    assert cut[-1, 0] == full[-1, 0]
    # at 0.3 the line from (0.2, 0.5) to (1, 0.9) is at 0.55
    bottom = full[0, 1]
    assert (bottom - cut[-1, 1]) / (bottom - full[-1, 1]) == pytest.approx(0.55 / 0.9, abs=0.002)


def test_steps_take_the_height_of_their_right_end():
    line = Line("image", np.array([0.0, 0.0, 0.5, 1.0]), np.array([1.0, 0.2, 0.8, 0.4]), steps=True)
    points = path_points(line_chart("t", [line], "x", "y"), "image")
    assert len(points) == 4
    assert points[0, 1] == points[1, 1]
    assert points[1, 0] == points[2, 0]
    assert points[2, 1] == points[3, 1]


def test_an_empty_curve_is_an_empty_chart():
    ElementTree.fromstring(line_chart("t", [Line("image", np.zeros(0), np.zeros(0), steps=True)], "x", "y"))
