import csv
from pathlib import Path

import pytest

import jaxad.report.published as published
from jaxad.errors import UserError
from jaxad.report.published import lookup

FOLDER = Path(published.__file__).parent / "published"


@pytest.mark.parametrize(
    ("name", "category", "expected", "mean"),
    [
        (
            "mirad_table4:patchcore",
            "building_block",
            {"I-AUROC": 0.830, "AUPRO": 0.698},
            {"I-AUROC": 0.711, "AUPRO": 0.744},
        ),
        ("mirad_table5:musc", "rabbit_pendant", {"I-AUROC": 0.526, "AUPRO": 0.722}, {"I-AUROC": 0.642, "AUPRO": 0.793}),
        (
            "madenet_table4:dsr",
            "BGA",
            {"I-AUROC": 0.972, "I-AP": 0.921, "P-AUROC": 0.952, "P-AP": 0.654},
            {"I-AUROC": 0.980, "I-AP": 0.946, "P-AUROC": 0.963, "P-AP": 0.678},
        ),
        ("madenet_table5:without_lpd", None, {}, {"I-AUROC": 0.982, "I-AP": 0.950, "P-AUROC": 0.966, "P-AP": 0.675}),
        ("madenet_table7:ism", None, {}, {"I-AUROC": 0.985, "P-AP": 0.687}),
        ("madenet_table8:srad/fine_tuning", None, {}, {"I-AUROC": 0.980, "P-AP": 0.678}),
        (
            "radl_table1:C",
            "carpet",
            {"I-AUROC": 0.9964, "P-AUROC": 0.9800, "AUPRO": 0.8607},
            {"I-AUROC": 0.9953, "P-AUROC": 0.9785, "AUPRO": 0.9160},
        ),
        ("radl_table2:0.5", None, {}, {"I-AUROC": 0.995, "P-AUROC": 0.978, "AUPRO": 0.915}),
        ("radl_table3:padim", "grid", {"I-AUROC": 0.937, "P-AUROC": 0.973}, {"I-AUROC": 0.958, "P-AUROC": 0.975}),
    ],
)
def test_every_table_gives_fractions_as_printed(name, category, expected, mean):
    found = lookup(name)
    assert found.mean == mean
    assert found.of(category or "carpet") == expected
    assert f"table {name.split(':')[0][-1]}" in found.source


def test_every_method_of_every_table_can_be_looked_up_and_is_a_fraction():
    looked_up = 0
    for path in sorted(FOLDER.glob("*.csv")):
        if path.stem in ("madenet_table6", "radl_table4"):
            with pytest.raises(UserError, match="gives no metric to compare with"):
                lookup(f"{path.stem}:radl")
            continue
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        columns = published._TABLES[path.stem].method
        for method in {"/".join(row[column] for column in columns) for row in rows}:
            found = lookup(f"{path.stem}:{method}")
            values = [v for metrics in (found.mean, *found.categories.values()) for v in metrics.values()]
            assert values
            assert all(0.05 < value <= 1 for value in values), (path.stem, method)
            looked_up += 1
    assert looked_up == 8 + 3 + 4 + 4 + 4 + 6 + 3 + 4 + 4


def test_means_are_no_categories():
    assert len(lookup("mirad_table4:rd").categories) == 10
    assert len(lookup("radl_table3:radl").categories) == 15
    assert len(lookup("madenet_table4:madenet").categories) == 11


def test_a_third_part_names_another_mean():
    found = lookup("mirad_table4:patchcore:visa")
    assert found.mean == {"I-AUROC": 0.951, "AUPRO": 0.912}
    assert found.categories == {}


def test_spelling_of_categories_does_not_matter():
    assert lookup("mirad_table4:rd").of("Rabbit-Pendant") == lookup("mirad_table4:rd").of("rabbit_pendant") != {}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mirad_tabel4:rd", "'mirad_table4'"),
        ("mirad_table4:patchcor", "'patchcore'"),
        ("mirad_table4:rd:vissa", "'visa'"),
        ("madenet_table8:srad/pretrain", "'srad/pretraining'"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_near_ones(name, near):
    with pytest.raises(UserError, match=f"Did you mean .*{near}") as error:
        lookup(name)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
