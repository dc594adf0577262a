import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jaxad.report.category import Case, CategoryResult
from jaxad.report.gallery import THUMBNAIL
from jaxad.report.page import page
from jaxad.report.published import lookup
from tests.report.samples import RUN, category

VOID = {"meta", "img"}
WEIRD = """<script>alert("1")</script> & 'x'"""


class Elements(HTMLParser):
    """Every element with its attributes and the text of the page; fails where tags do not nest."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


def test_names_are_shown_and_never_become_markup():
    result = category(WEIRD, ids=[f"{WEIRD}/{i}" for i in range(10)])
    text = page([result], RUN | {"dataset": WEIRD, "command": WEIRD, WEIRD: WEIRD, "config": {WEIRD: WEIRD}})
    elements = Elements(text)
    assert not elements.of("script")
    assert "<script" not in text
    assert WEIRD in elements.text
    assert all(not name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert any(f"Photograph of {WEIRD}/" in (image["alt"] or "") for image in elements.of("img"))


def test_the_page_needs_nothing_from_outside():
    text = page([category("a"), category("b", seed=1)], RUN, lookup("mirad_table4:rd"))
    elements = Elements(text)
    for _, attributes in elements.found:
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")
    assert not elements.of("script", "link", "iframe", "object")
    assert not re.search(r"https?://|@import|url\(", text)


def test_links_lead_to_sections():
    elements = Elements(page([category("a"), category("b", seed=1)], RUN))
    ids = {attributes.get("id") for _, attributes in elements.found}
    links = [attributes["href"] for attributes in elements.of("a")]
    assert len(links) == 3
    assert all(link and link[1:] in ids for link in links)


def test_every_picture_and_table_says_what_it_is():
    text = page([category("a")], RUN)
    elements = Elements(text)
    assert elements.of("img")
    assert all(image.get("alt") and image.get("width") and image.get("height") for image in elements.of("img"))
    assert len(elements.of("caption")) == len(elements.of("table")) >= 2
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in elements.of("svg"))
    assert elements.of("html")[0]["lang"] == "en"


def test_all_groups_charts_and_facts_are_there():
    result = category("a")
    text = Elements(page([result], RUN)).text
    for part in ("False alarms", "Missed defects", "Highest scores", "Lowest scores", "ROC", "Precision and recall",
                 "Per-region overlap", "Image scores", "threshold 0.6", "python -m jaxad.main"):  # fmt: skip
        assert part in text
    assert f"AUPRO {100 * result.metrics['AUPRO']:.1f}" in text


def test_without_masks_and_threshold_the_page_leaves_them_out():
    text = page([category("a", masks=False, threshold=None)], RUN)
    elements = Elements(text)
    assert "Per-region overlap" not in elements.text
    assert "False alarms" not in elements.text
    assert "Border of the ground-truth mask" not in elements.text
    assert "Highest scores" in elements.text


def test_the_page_says_why_there_is_no_threshold():
    result = category("a", threshold=None, no_threshold=f"because of {WEIRD}")
    text = Elements(page([result], RUN)).text
    assert f"Thresholdnone because of {WEIRD}" in text
    assert "because" not in Elements(page([category("a", no_threshold="because")], RUN)).text
    assert "no image was called normal or anomalous" in Elements(page([category("a", threshold=None)], RUN)).text


def test_a_category_with_nothing_but_names_has_a_page():
    empty = CategoryResult("empty", {"I-AUROC": float("nan")}, ["a"], np.array([np.nan]), np.array([False]), [""])
    assert "n/a" in Elements(page([empty], {})).text
    Elements(page([CategoryResult("none", {}, [], np.zeros(0), np.zeros(0, bool), [])], {}))


def big_case(index: int, reason: str) -> Case:
    noise = np.random.default_rng(index).integers(0, 255, (600, 400, 3), np.uint8)
    mask = np.zeros((600, 400), bool)
    mask[300, 200] = True
    return Case(str(index), noise, noise[..., 0].astype(np.float32), mask, ~mask, 1.0, 1, "dot", False, (reason,))


def test_thumbnails_are_small_and_keep_the_shape_and_the_outline():
    result = CategoryResult("a", {}, ["0"], np.ones(1), np.ones(1, bool), ["dot"], 2.0, cases=[big_case(0, "missed")])
    images = Elements(page([result], RUN)).of("img")
    sources = [(image["src"] or "").split(",")[1] for image in images]
    pictures = [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]
    assert [picture.size for picture in pictures] == [(171, THUMBNAIL)] * 3
    pixels = np.asarray(pictures[2].convert("RGB")).astype(int)
    cyan = (np.abs(pixels - (0, 229, 255)).max(-1) < 80).sum()
    assert cyan >= 4


@pytest.mark.parametrize(("categories", "cards"), [(1, 8), (15, 60), (100, 100)])
def test_many_categories_get_fewer_pictures_each(categories, cards):
    small = np.zeros((4, 4, 3), np.uint8)
    cases = [
        Case(str(i), small, np.zeros((4, 4), np.float32), None, None, float(i), 1, "", None, ("highest score",))
        for i in range(12)
    ]
    results = [
        CategoryResult(f"c{i}", {}, ["x"], np.ones(1), np.ones(1, bool), [""], cases=cases) for i in range(categories)
    ]
    elements = Elements(page(results, RUN))
    assert len([figure for figure in elements.of("figure") if figure.get("class") == "card"]) == cards
