"""Published results, read from the tables in `published/`, to set beside what was measured."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from jaxad.errors import UserError, did_you_mean

_MIRAD = "MIRAD, arXiv:2510.16370"
_MADENET = "MADE-Net, Appl. Sci. 2025, 15, 10885"
_RADL = "RADL, IEEE Access 2023, doi 10.1109/ACCESS.2023.3324314"


@dataclass(frozen=True)
class _Table:
    """How a CSV file is read.

    Attributes:
      paper: the source, without the table's number.
      method: the columns that together name a method, joined by "/".
      unit: what a printed 1 is worth, as a fraction; columns named `_percent` are always in percent.
      category: whether rows differ by category too; without it every row is a mean over the paper's data set.
    """

    paper: str
    method: tuple[str, ...] = ("method",)
    unit: float = 0.01
    category: bool = True


_TABLES = {
    "mirad_table4": _Table(_MIRAD),
    "mirad_table5": _Table(_MIRAD),
    "madenet_table4": _Table(_MADENET, unit=1.0),
    "madenet_table5": _Table(_MADENET, unit=1.0, category=False),
    "madenet_table7": _Table(_MADENET, category=False),
    "madenet_table8": _Table(_MADENET, method=("submodel", "stage"), category=False),
    "radl_table1": _Table(_RADL, method=("setting",)),
    "radl_table2": _Table(_RADL, method=("tau",), category=False),
    "radl_table3": _Table(_RADL),
}
_WITHOUT_METRICS = ("madenet_table6", "radl_table4")  # which submodel a category gets; frames per second
_METRICS = {
    "i_auroc": "I-AUROC",
    "i_ap": "I-AP",
    "p_auroc": "P-AUROC",
    "p_ap": "P-AP",
    "aupro": "AUPRO",
    "pro": "AUPRO",
}
_MEANS = ("mean", "mirad_mean", "average")
_OTHER_MEANS = (
    "avg_texture",
    "avg_object",
    "mvtec_ad",
    "visa",
)  # means over part of the data set, or over another data set


@dataclass(frozen=True)
class Published:
    """One method's row of a published table.

    Attributes:
      name: what was looked up.
      source: paper and table, for a footnote.
      mean: metric -> fraction in [0, 1], the mean that the paper prints.
      categories: category -> metric -> fraction in [0, 1]; empty where the paper gives only the mean. Empty cells are
        left out.
    """

    name: str
    source: str
    mean: dict[str, float]
    categories: dict[str, dict[str, float]]

    def of(self, category: str) -> dict[str, float]:
        """The metrics of one category, {} where the paper has none.

        Case does not matter, and spaces, hyphens and underscores are the same.
        """
        return {_plain(name): values for name, values in self.categories.items()}.get(_plain(category), {})


def lookup(name: str) -> Published:
    """Reads "table:method" or "table:method:row"; `row` names the printed mean to compare with where there are several.

    "mirad_table4:patchcore" gives MIRAD's categories and their mean, "mirad_table4:patchcore:visa" the mean over VisA.

    Raises:
      UserError: there is no such table, method or row (the message has near matches), or the table has no metrics.
    """
    stem, _, rest = name.partition(":")
    method, _, row = rest.partition(":")
    if stem not in _TABLES:
        found = f"{stem} gives no metric to compare with" if stem in _WITHOUT_METRICS else f"there is no table {stem!r}"
        raise UserError(
            f"evaluation.published is {name!r}: {found}, expected table:method with a table of {', '.join(_TABLES)}."
            f"{did_you_mean(stem, _TABLES)}"
        )
    table = _TABLES[stem]
    printed = _read(stem, table)
    if method not in printed:
        raise UserError(
            f"evaluation.published is {name!r}: {stem} has no {'/'.join(table.method)} {method!r}, expected one of "
            f"{', '.join(printed)}.{did_you_mean(method, printed)}"
        )
    rows = printed[method]
    means = {_plain(key): key for key in rows if _plain(key) in _MEANS + _OTHER_MEANS}
    if row and _plain(row) not in means:
        raise UserError(
            f"evaluation.published is {name!r}: {stem} has no mean {row!r}, expected one of {', '.join(means)}."
            f"{did_you_mean(row, means)}"
        )
    source = f"{table.paper}, table {re.sub('.*table', '', stem)} ({method}{f', {row}' if row else ''})"
    if row:
        return Published(name, source, rows[means[_plain(row)]], {})
    mean = next(rows[key] for plain, key in means.items() if plain in _MEANS)
    return Published(name, source, mean, {key: values for key, values in rows.items() if _plain(key) not in means})


def _read(stem: str, table: _Table) -> dict[str, dict[str, dict[str, float]]]:
    """method -> category (or "mean") -> metric -> fraction."""
    printed: dict[str, dict[str, dict[str, float]]] = {}
    with open(Path(__file__).parent / "published" / f"{stem}.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = {}
            for column, text in row.items():
                metric = _METRICS.get(column.removesuffix("_percent"))
                if metric and text:
                    unit = 0.01 if column.endswith("_percent") else table.unit
                    values[metric] = round(float(text) * unit, 6)  # 0.952, not 0.9520000000000001
            method = "/".join(row[column] for column in table.method)
            printed.setdefault(method, {})[row["category"] if table.category else "mean"] = values
    return printed


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip()).lower()
