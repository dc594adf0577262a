import csv
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from jaxad.metrics import GroundTruth, compute, overlap_profile
from jaxad.report.sensitivity import CellResult, changes, write
from jaxad.report.sensitivity_charts import Line, Mark, row_chart, severity_chart, sheet, signed
from tests.report import samples

ROWS = {"name": "rows", "title": "One <factor>", "note": "a note", "rows": "varied", "arms": "trained on"}
LINES = {"name": "lines", "title": "Severities", "lines": "corruption", "x": "severity"}
RUN = {"title": "Tiles & <more>", "seed": 1, "metrics": "exact", "config": {"seed": 1}}


def cell(name, categories, figure="rows", against="plain", **labels):
    return CellResult(name, labels, figure, against, "tiles train", "test", categories, f"models/m/{name}/report.html")


def blurred(result, noise):
    """The same images, their scores off by noise."""
    scores = result.scores + noise * np.random.default_rng(5).normal(size=len(result.scores))
    anomalous, normal = scores[result.labels][:, None], scores[~result.labels][None]
    area = float(np.mean((anomalous > normal) + 0.5 * (anomalous == normal)))
    aupro = {"AUPRO": result.metrics["AUPRO"] - 0.1} if "AUPRO" in result.metrics else {}
    return replace(result, scores=scores, metrics={**result.metrics, "I-AUROC": area, **aupro})


@pytest.fixture
def cells():
    plain = [samples.category("brick", seed=1), samples.category("but|ton", seed=2)]
    worse = [blurred(result, 3.0) for result in plain]
    return [
        cell("plain", plain, varied="nothing", **{"trained on": "one imaging"}),
        cell("blurred", worse, varied="noise", **{"trained on": "one imaging"}),
        cell("mixed", worse[:1], varied="noise", **{"trained on": "all & mixed"}),
        cell("dull", plain, "lines", "dull", corruption="none", severity=0),
        cell("dull_1", worse, "lines", "dull", corruption="dull", severity=1),
        cell("dull_5", worse, "lines", "dull", corruption="dull", severity=5),
    ]


def test_the_cell_compared_with_has_no_change_and_no_interval(cells):
    own = changes(cells, 0)["plain"]["I-AUROC"]
    assert own.mean == 0
    assert own.interval is None


def test_a_change_is_the_mean_over_the_categories_that_both_cells_have(cells):
    plain, worse, mixed = cells[:3]
    found = changes(cells, 0)
    differences = [
        b.metrics["I-AUROC"] - a.metrics["I-AUROC"] for a, b in zip(plain.categories, worse.categories, strict=True)
    ]
    assert found["blurred"]["I-AUROC"].mean == pytest.approx(np.mean(differences))
    assert found["mixed"]["I-AUROC"].mean == pytest.approx(differences[0])
    assert list(found["mixed"]["I-AUROC"].categories) == ["brick"]
    assert mixed.images == 10


def test_the_interval_is_paired_and_the_same_every_time(cells):
    again = cell("again", cells[0].categories)
    assert changes([cells[0], again], 0)["again"]["I-AUROC"].interval == (0.0, 0.0)
    first, second = (changes(cells, 3)["blurred"]["I-AUROC"] for _ in range(2))
    assert first.interval == second.interval
    assert first.interval is not None
    assert first.interval[0] < first.mean < first.interval[1]


def test_without_pairs_of_images_there_is_no_interval(cells):
    plain = cells[0]
    brick, button = plain.categories
    turned = replace(brick, labels=brick.labels[::-1], scores=brick.scores[::-1])
    other_score = replace(brick, metrics={**brick.metrics, "I-AUROC": 0.123})
    for result in (turned, other_score):
        moved = changes([plain, cell("moved", [result, button])], 0)["moved"]
        assert moved["I-AUROC"].interval is None
        assert moved["AUPRO"].interval is None


def test_aupro_has_an_interval_where_both_cells_kept_their_overlaps(cells):
    plain, worse = cells[:2]
    masks = np.zeros((10, 16, 16), bool)
    masks[6:, 4:8, 4:9] = True
    kept, truth = [], GroundTruth(masks.any(axis=(1, 2)), masks)
    for one, contrast in ((plain, 0.4), (worse, 0.1)):
        results, overlaps = [], {}
        for result in one.categories:
            maps = np.random.default_rng(0).random(masks.shape).astype(np.float32) + contrast * masks
            overlaps[result.category] = overlap_profile(maps, truth)
            exact = compute(maps, result.scores, truth)["AUPRO"]
            results.append(replace(result, metrics={**result.metrics, "AUPRO": exact}))
        kept.append(replace(one, categories=results, overlaps=overlaps))
    change = changes(kept, 0)["blurred"]["AUPRO"]
    assert change.interval is not None
    assert change.interval[0] < change.mean < change.interval[1] < 0
    assert changes([kept[0], replace(kept[1], overlaps={})], 0)["blurred"]["AUPRO"].interval is None


def test_every_file_says_the_same(cells, tmp_path):
    shown = write(tmp_path, cells, [ROWS, LINES], RUN)
    found = changes(cells, RUN["seed"])
    stored = {entry["name"]: entry for entry in json.loads((tmp_path / "benchmark.json").read_text())["cells"]}
    with (tmp_path / "benchmark.csv").open(newline="") as file:
        lines = {(line["cell"], line["category"]): line for line in csv.DictReader(file)}
    assert len(lines) == 2 * 5 + 1 + 6
    for one in cells:
        change = found[one.name]["I-AUROC"]
        mean = np.mean([result.metrics["I-AUROC"] for result in one.categories])
        assert stored[one.name]["mean"]["I-AUROC"] == pytest.approx(mean)
        assert float(lines[one.name, "mean"]["I-AUROC"]) == pytest.approx(mean)
        assert float(lines[one.name, "mean"]["I-AUROC change"]) == pytest.approx(change.mean)
        assert stored[one.name]["change"]["I-AUROC"]["mean"] == pytest.approx(change.mean)
        for result in one.categories:
            line = lines[one.name, result.category]
            assert float(line["I-AUROC"]) == pytest.approx(result.metrics["I-AUROC"])
            assert float(line["I-AUROC change"]) == pytest.approx(change.categories[result.category])
    row = next(line for line in shown.splitlines() if line.startswith("| blurred "))
    assert signed(100 * found["blurred"]["I-AUROC"].mean) in row
    assert signed(100 * found["blurred"]["AUPRO"].mean) in row
    assert shown in (tmp_path / "benchmark.md").read_text(encoding="utf-8")
    assert signed(100 * found["blurred"]["I-AUROC"].mean) in (tmp_path / "sensitivity.svg").read_text(encoding="utf-8")


def test_page_and_figure_stand_alone(cells, tmp_path):
    write(tmp_path, cells, [ROWS, LINES], RUN)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    figure = (tmp_path / "sensitivity.svg").read_text(encoding="utf-8")
    for text in (page, figure):
        assert not re.findall(r"(?:src|href)=\"(?!models/|#)|url\(|@import|<script", text)
        assert "prefers-color-scheme: dark" in text
        assert "<more>" not in text
        assert "nan" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    assert len(ElementTree.fromstring(figure).findall("{http://www.w3.org/2000/svg}svg")) == 4
    assert page.count("<svg ") == 4
    for one in cells:
        assert f'href="{one.report}"' in page


def test_without_masks_there_is_neither_column_nor_chart_of_regions(tmp_path):
    plain = samples.category("brick", masks=False)
    cells = [
        cell("plain", [plain], varied="nothing", **{"trained on": "x"}),
        cell("blurred", [blurred(plain, 3.0)], varied="noise", **{"trained on": "x"}),
    ]
    shown = write(tmp_path, cells, [ROWS], RUN)
    assert "AUPRO" not in shown.splitlines()[0]
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("<svg ") == 1


def test_an_undefined_metric_is_left_out_of_the_change(cells, tmp_path):
    brick, button = cells[1].categories
    undefined = replace(brick, metrics={**brick.metrics, "I-AUROC": math.nan})
    half = cell("half", [undefined, button], varied="noise", **{"trained on": "one imaging"})
    assert list(changes([cells[0], half], 0)["half"]["I-AUROC"].categories) == ["but|ton"]
    write(tmp_path, [cells[0], half], [ROWS], RUN)
    json.loads((tmp_path / "benchmark.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def centres(svg: str, kind: str) -> list[float]:
    """x of the marks: a disc begins at its left end, 5 aside."""
    return [float(x) + 5 for x in re.findall(rf'class="{kind}" d="M([\d.]+) [\d.]+a', svg)]


def test_marks_lie_where_their_change_is():
    rows = {name: [Mark(0, change, None, 50.0)] for name, change in (("a", 0.0), ("b", -10.0), ("c", -20.0))}
    svg = row_chart("t", "I-AUROC", rows, ["one"])
    ElementTree.fromstring(svg)
    zero, ten, twenty = centres(svg, "s0 mean")
    assert ten - twenty == pytest.approx(zero - ten, abs=0.11)
    assert float(re.findall(r'class="zero" d="M([\d.]+)', svg)[0]) == pytest.approx(zero, abs=0.11)
    for place, text in ((ten, "−10"), (twenty, "−20")):
        tick = re.search(rf'x="([\d.]+)" y="[\d.]+" text-anchor="middle">{text}<', svg)
        assert tick
        assert float(tick[1]) == pytest.approx(place, abs=0.11)


@pytest.mark.parametrize("change", [0.0, -100.0, 0.04, 35.0])
def test_charts_are_well_formed_whatever_the_changes(change):
    mark = Mark(1, change, (change - 1, change + 1), 12.3, {"a<b": change, "c": -change})
    charts = [
        row_chart("t <&>", "AUPRO", {"x<y": [mark], "a very long name of a row": [mark, mark]}, ["a&b", "c"], "on"),
        row_chart("t", "AUPRO", {}, []),
        severity_chart("t", "AUPRO", [Line("n<m", [0, 1, 5], [0, change, change], [None, (change, change + 2), None])]),
        severity_chart("t", "AUPRO", []),
    ]
    for chart in charts:
        ElementTree.fromstring(chart)
        assert "nan" not in chart
    ElementTree.fromstring(sheet("t & t", [("h<", charts[:2]), ("", [])], ""))


def test_names_at_the_ends_of_lines_do_not_cover_each_other():
    lines = [Line(f"line {i}", [0, 5], [0, change], [None, None]) for i, change in enumerate([-9, -9, -9.1, 0, 0, -5])]
    svg = severity_chart("t", "I-AUROC", lines)
    heights = sorted(float(y) for y in re.findall(r'named" x="[\d.]+" y="([\d.]+)"', svg))
    assert len(heights) == 6
    assert min(np.diff(heights)) >= 14.9
    assert heights[-1] < 330


@pytest.mark.parametrize(("points", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (-3.25, "−3.2"), (12.0, "+12.0")])
def test_changes_are_written_with_their_sign(points, text):
    assert signed(points) == text
