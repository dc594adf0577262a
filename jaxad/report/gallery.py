"""The pictures of report.html: photograph, anomaly map, and the map over the photograph with the mask's border."""

import base64
import io
from html import escape

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from jaxad.report.category import FALSE_ALARM, HIGHEST, LOWEST, MISSED, Case, CategoryResult
from jaxad.report.overlay import PALETTE, heat, map_scale, outline, overlay

THUMBNAIL = 256  # pixels of the longer side
CASES_PER_GROUP = 8
_CASES_IN_ALL = 240  # on the whole page; about 20 KB each
_PADDING_GREY = 128

_GROUPS = (
    (FALSE_ALARM, "False alarms", "Normal images above the threshold, highest score first."),
    (MISSED, "Missed defects", "Anomalous images at or below the threshold, lowest score first."),
    (HIGHEST, "Highest scores", "The images that look most anomalous, normal or not."),
    (LOWEST, "Lowest scores", "The images that look least anomalous, normal or not."),
)


def cases_per_group(categories: int) -> int:
    """How many cards each group gets, so that a page with many categories stays small."""
    return max(1, min(CASES_PER_GROUP, _CASES_IN_ALL // (len(_GROUPS) * max(1, categories))))


def gallery(result: CategoryResult, per_group: int) -> str:
    """The cards of one category, in groups, all maps on one scale; "" without cases."""
    if not result.cases:
        return ""
    valid = [np.ones(case.map.shape, bool) if case.valid is None else case.valid for case in result.cases]
    low, high = map_scale([case.map for case in result.cases], [bool(case.label) for case in result.cases], valid)
    parts = [_legend(result, low, high)]
    for reason, title, explanation in _GROUPS:
        if result.threshold is None and reason in (FALSE_ALARM, MISSED):
            continue
        cases = [case for case in result.cases if reason in case.reasons]
        cases.sort(key=lambda case: case.score if reason in (LOWEST, MISSED) else -case.score)
        cards = "".join(_card(case, low, high) for case in cases[:per_group])
        shown = f'<div class="cards">{cards}</div>' if cards else "<p>None.</p>"
        parts.append(f'<h4>{title}</h4>\n<p class="muted">{explanation}</p>\n{shown}\n')
    return "".join(parts)


def _legend(result: CategoryResult, low: float, high: float) -> str:
    colors = ", ".join(f"rgb({r} {g} {b})" for r, g, b in PALETTE[::15])
    outlined = any(case.mask is not None and case.mask.any() for case in result.cases)
    border = '<p class="legend muted"><span class="outlined"></span>Border of the ground-truth mask</p>\n'
    return (
        "<h3>Images</h3>\n<p>Each card shows the photograph, its anomaly map, and the map over the photograph.</p>\n"
        f'<p class="legend muted"><span class="key">{low:.4g}'
        f'<span class="ramp" style="background: linear-gradient(to right, {colors})"></span>{high:.4g}</span>'
        "Anomaly map, from the median of normal images to the 99.9th percentile; one scale for all images here</p>\n"
        f"{border if outlined else ''}"
    )


def _card(case: Case, low: float, high: float) -> str:
    height, width = case.image.shape[:2]
    shrink = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    image = np.asarray(Image.fromarray(case.image).resize(size, Image.Resampling.BOX))
    anomaly_map = np.asarray(Image.fromarray(np.asarray(case.map, np.float32)).resize(size, Image.Resampling.BILINEAR))
    valid = np.ones(size[::-1], bool) if case.valid is None else _resize_mask(case.valid, size)
    map_picture = np.where(valid[..., None], heat(anomaly_map, low, high), np.uint8(_PADDING_GREY))
    map_over_image = overlay(image, anomaly_map, low, high, valid)
    over_name = "Anomaly map over the photograph"
    if case.mask is not None and case.mask.any():
        map_over_image = outline(map_over_image, _resize_mask(case.mask, size))
        over_name += ", with the border of the mask,"
    pictures = (("Photograph", image), ("Anomaly map", map_picture), (over_name, map_over_image))
    shown = "".join(
        f'<img src="{_data_uri(picture)}" width="{size[0]}" height="{size[1]}" alt="{escape(f"{name} of {case.id}")}">'
        for name, picture in pictures
    )
    truth = (case.defect_type or "anomalous") if case.label else "normal"
    return (
        f'<figure class="card"><div class="pictures">{shown}</div>'
        f'<figcaption><span class="name">{escape(case.id)}</span><span class="score">score {case.score:.4g}</span>'
        f"<span>{escape(truth)}</span>{_verdict(case)}</figcaption></figure>"
    )


def _verdict(case: Case) -> str:
    if case.decision is None:
        return ""
    if case.decision == bool(case.label):
        return f'<span class="verdict right">{"found" if case.label else "passed"}</span>'
    return f'<span class="verdict wrong">{MISSED if case.label else FALSE_ALARM}</span>'


def _resize_mask(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> Bool[np.ndarray, "p q"]:
    # a pixel that the mask touches at all counts, so that thin defects do not vanish
    return np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0


def _data_uri(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    file = io.BytesIO()
    # without chroma subsampling the thin border stays cyan
    Image.fromarray(picture).save(file, format="jpeg", quality=85, subsampling=0, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
