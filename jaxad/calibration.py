"""The threshold between normal and anomalous, from normal images that no stage has seen."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxad.errors import UserError
from jaxad.prediction import Predictions

logger = logging.getLogger(__name__)


def conformal_threshold(scores: Float[np.ndarray, " n"], rate: float) -> float:
    """The ceil((n + 1) (1 - rate))-th smallest score, the largest where that is beyond n.

    A new normal image like the n given ones scores higher with a probability of at most `rate` (split conformal
    prediction); fewer than 1 / rate - 1 images cannot show that.
    """
    rank = math.ceil((len(scores) + 1) * (1 - rate) - 1e-9)
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def calibrate(found: Predictions | None, categories: Sequence[str], rate: float) -> dict[str, Any]:
    """What a checkpoint keeps of the held-out images: scores and threshold of "all" and of each category, map scale.

    Args:
      found: predictions of the held-out images; None where there are none: there is no threshold then.
      categories: of these images.
      rate: share of normal images that may be called anomalous.
    """
    check_rate(rate)
    if found is None:
        return {"held_out": {}, "thresholds": {}}
    names = np.asarray(categories)
    held_out = {"all": found.scores} | {name: found.scores[names == name] for name in dict.fromkeys(categories)}
    for name, scores in held_out.items():
        if name != "all" and len(scores) < 1 / rate - 1:
            message = "%s: %d held-out images cannot show a false-alarm rate of %g: the largest score is taken"
            logger.warning(message, name, len(scores), rate)
    middle, top = float(np.median(found.maps)), float(found.maps.max())
    return {
        "held_out": {name: [float(score) for score in scores] for name, scores in held_out.items()},
        "thresholds": {name: conformal_threshold(scores, rate) for name, scores in held_out.items()},
        "false_alarm_rate": rate,
        "map_scale": [middle, middle + 2 * max(top - middle, 1e-6)],
    }


def threshold_of(notes: dict[str, Any], category: str, rate: float) -> tuple[float | None, int]:
    """The threshold of a category at a rate, which may be another one than at training, and the images behind it."""
    scores = notes.get("held_out", {}).get(category, [])
    if rate == notes.get("false_alarm_rate"):
        return notes["thresholds"].get(category), len(scores)
    check_rate(rate)
    return (conformal_threshold(np.asarray(scores), rate) if scores else None), len(scores)


def check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise UserError(f"config.threshold.false_alarm_rate is {rate}; expected a number between 0 and 1")
