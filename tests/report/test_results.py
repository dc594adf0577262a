import json
import math
import os
import warnings
from dataclasses import asdict

import numpy as np
import pytest

from jaxad.errors import UserError
from jaxad.report.category import CategoryResult
from jaxad.report.published import lookup
from jaxad.report.results import read, write
from jaxad.report.table import format_table
from tests.report.samples import RUN, category


def one_class(name: str) -> CategoryResult:
    return CategoryResult(name, {"I-AUROC": math.nan}, ["a"], np.array([0.5]), np.array([False]), [""])


def test_results_json_gives_back_what_was_written(tmp_path):
    written = [category("tile"), category("größe", seed=1, masks=False, threshold=None, no_threshold="none held out")]
    with pytest.warns(RuntimeWarning):
        write(tmp_path, written, RUN, lookup("mirad_table4:rd"))
    stored = read(tmp_path)
    assert stored.run == RUN
    assert stored.published == lookup("mirad_table4:rd")
    for ours, theirs in zip(written, stored.results, strict=True):
        expected, found = asdict(ours) | {"cases": []}, asdict(theirs)
        np.testing.assert_equal(found, expected)


def test_nan_is_null_and_infinity_survives(tmp_path):
    result = CategoryResult(
        "a", {"I-AUROC": math.nan}, ["x", "y"], np.array([math.nan, -math.inf]), np.zeros(2, bool), ["", ""], math.inf
    )
    write(tmp_path, [result], RUN)
    stored = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert stored["categories"][0]["metrics"] == {"I-AUROC": None}
    assert stored["mean"] == {"I-AUROC": None}
    back = read(tmp_path).results[0]
    assert math.isnan(back.metrics["I-AUROC"])
    np.testing.assert_array_equal(back.scores, [math.nan, -math.inf])
    assert back.threshold == math.inf


def test_nan_gives_one_warning_and_a_mean_over_the_others(tmp_path):
    with pytest.warns(RuntimeWarning, match="without empty") as caught:
        write(tmp_path, [category("tile"), one_class("empty")], RUN)
    assert len(caught) == 1
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored["mean"]["I-AUROC"] == stored["categories"][0]["metrics"]["I-AUROC"]
    assert "without empty" in (tmp_path / "results.md").read_text()
    assert "without empty" in (tmp_path / "report.html").read_text()


def test_complete_results_give_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write(tmp_path, [category("a"), category("b", seed=1)], RUN)
    assert sorted(os.listdir(tmp_path)) == ["report.html", "results.json", "results.md"]


def test_a_report_that_cannot_be_made_leaves_the_old_one(tmp_path, monkeypatch):
    write(tmp_path, [category("old")], RUN)
    before = (tmp_path / "report.html").read_bytes()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        write(tmp_path, [category("new")], RUN)
    assert (tmp_path / "report.html").read_bytes() == before
    assert read(tmp_path).results[0].category == "old"
    assert sorted(os.listdir(tmp_path)) == ["report.html", "results.json", "results.md"]


def test_markdown_has_the_table_the_decisions_and_the_command(tmp_path):
    result = category("tile")
    write(tmp_path, [result], RUN)
    text = (tmp_path / "results.md").read_text()
    assert text.startswith("# PatchCore on tiles\n")
    assert format_table([result]) in text
    assert f"{result.false_alarms} of 6 " in text.replace("|", " ")
    assert f"{result.missed} of 4 " in text.replace("|", " ")
    assert RUN["command"] in text


def test_markdown_says_why_a_category_has_no_threshold(tmp_path):
    reason = "no normal image was held out of training (config.threshold.holdout)"
    results = [category("tile"), category("a|b", seed=1, threshold=None, no_threshold=reason)]
    write(tmp_path, [*results, category("c", seed=2, threshold=None)], RUN)
    decisions = (tmp_path / "results.md").read_text().split("## Decisions\n")[1].split("## Run\n")[0]
    assert f"\n - a\\|b has no threshold: {reason}\n" in decisions
    assert "\n - c has no threshold\n" in decisions
    assert "tile has no threshold" not in decisions
    write(tmp_path, results[1:], RUN)
    assert "false alarms" not in (tmp_path / "results.md").read_text()


def test_results_without_the_field_no_threshold_can_be_read(tmp_path):
    write(tmp_path, [category("tile", threshold=None, no_threshold="a reason")], RUN)
    path = tmp_path / "results.json"
    stored = json.loads(path.read_text())
    assert stored["categories"][0].pop("no_threshold") == "a reason"
    path.write_text(json.dumps(stored))
    assert read(tmp_path).results[0].no_threshold == ""


@pytest.mark.parametrize("content", [None, "", "[]", '{"categories": [{}], "published": null, "run": {}}'])
def test_a_damaged_results_file_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=r"results\.json: .*expected results that jaxad wrote"):
        read(tmp_path)
