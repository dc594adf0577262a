"""Results for people and programs: tables beside published numbers, pictures, one self-contained HTML page."""

from jaxad.report.cases import save_cases, with_cases
from jaxad.report.category import Case, CategoryResult, choose_cases
from jaxad.report.predictions import MapFormat, PredictionWriter
from jaxad.report.published import Published, lookup
from jaxad.report.results import read, write
from jaxad.report.table import format_table

__all__ = [
    "Case",
    "CategoryResult",
    "MapFormat",
    "PredictionWriter",
    "Published",
    "choose_cases",
    "format_table",
    "lookup",
    "read",
    "save_cases",
    "with_cases",
    "write",
]
