import math

import numpy as np

from jaxad.report.category import CategoryResult
from jaxad.report.published import Published, lookup
from jaxad.report.table import format_table, mean_metrics


def result(category: str, **metrics: float) -> CategoryResult:
    named = {name.replace("_", "-"): value for name, value in metrics.items()}
    return CategoryResult(category, named, [], np.zeros(0), np.zeros(0, bool), [])


def cells(table: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")
    ]


def test_measured_values_stand_beside_the_published_ones_in_percent():
    published = Published(
        "t:m", "Paper, table 1 (m)", {"I-AUROC": 0.95}, {"a": {"I-AUROC": 0.988}, "b": {"I-AUROC": 0.5}}
    )
    table = format_table(
        [result("a", I_AUROC=0.9713, AUPRO=0.5), result("b", I_AUROC=0.5, AUPRO=0.7)], published, "ader"
    )
    assert cells(table) == [
        ["category", "I-AUROC", "AUPRO"],
        ["-" * len("category"), "-" * 10 + ":", "----:"],
        ["a", "97.1 (98.8)", "50.0"],
        ["b", "50.0 (50.0)", "70.0"],
        ["mean", "73.6 (95.0)", "60.0"],
    ]
    assert "Published: Paper, table 1 (m)." in table
    assert "Metrics: ader: " in table


def test_metrics_come_in_their_usual_order():
    table = format_table([result("a", AUPRO=0.1, P_AP=0.2, I_AUROC=0.3)])
    assert cells(table)[0] == ["category", "I-AUROC", "P-AP", "AUPRO"]


def test_a_mean_over_other_categories_is_not_compared():
    table = format_table([result("rabbit_pendant", I_AUROC=0.6), result("x", I_AUROC=0.8)], lookup("mirad_table4:rd"))
    assert cells(table)[2:] == [["rabbit_pendant", "60.0 (56.1)"], ["x", "80.0"], ["mean", "70.0"]]
    assert "The published mean is over other categories" in table


def test_one_category_has_no_mean_row_unless_the_paper_has_a_mean_alone():
    assert [row[0] for row in cells(format_table([result("a", I_AUROC=0.5)]))[2:]] == ["a"]
    table = format_table([result("a", I_AUROC=0.5)], lookup("radl_table2:0.5"))
    assert cells(table)[2:] == [["a", "50.0"], ["mean", "50.0 (99.5)"]]


def test_nan_and_absent_metrics_are_left_out_of_the_mean_and_named():
    results = [result("a", I_AUROC=0.5, AUPRO=0.4), result("b", I_AUROC=math.nan, AUPRO=0.6), result("c", I_AUROC=0.7)]
    means, left_out = mean_metrics(results)
    np.testing.assert_allclose([means["I-AUROC"], means["AUPRO"]], [0.6, 0.5])
    assert left_out == {"I-AUROC": ["b"], "AUPRO": ["c"]}
    table = format_table(results)
    assert cells(table)[3:] == [["b", "n/a", "60.0"], ["c", "70.0", "n/a"], ["mean", "60.0", "50.0"]]
    assert "Mean of I-AUROC without b." in table
    assert "Mean of AUPRO without c." in table


def test_a_metric_that_no_category_has_is_nan():
    means, _ = mean_metrics([result("a", I_AUROC=math.nan), result("b", I_AUROC=math.nan)])
    assert math.isnan(means["I-AUROC"])


def test_names_cannot_break_the_table():
    table = format_table([result("a|b\n<script>", I_AUROC=0.5)])
    assert "a\\|b &lt;script>" in table
    assert len(table.split("\n\n")[0].splitlines()) == 3
