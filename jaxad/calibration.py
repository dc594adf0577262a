"""The threshold between normal and anomalous, from normal images that no stage has seen."""

import itertools
import logging
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxad.errors import UserError
from jaxad.prediction import Predictions

logger = logging.getLogger(__name__)

ALL = "all"  # the threshold over all categories of a model


class Threshold(NamedTuple):
    """A threshold and what stands behind it.

    Attributes:
      value: image scores above it are called anomalous; None where there is no threshold.
      rate: the share of normal images that may score higher.
      images: number of held-out normal images that it was set on.
      why_none: the reason why there is no threshold; "" where there is one.
    """

    value: float | None
    rate: float
    images: int = 0
    why_none: str = ""


def conformal_threshold(scores: Float[np.ndarray, " n"], rate: float) -> float:
    """The ceil((n + 1) (1 - rate))-th smallest score, the largest where that is beyond n.

    A new normal image like the n given ones scores higher with a probability of at most `rate` (split conformal
    prediction); fewer than 1 / rate - 1 images cannot show that.
    """
    rank = math.ceil((len(scores) + 1) * (1 - rate) - 1e-9)
    return float(np.sort(scores)[min(rank, len(scores)) - 1])


def calibrate(held_out: Mapping[str, Predictions], rate: float, why_none: str = "") -> dict[str, Any]:
    """What a checkpoint keeps of the held-out normal images: the scores by category, and the scale of the maps.

    Args:
      held_out: category -> predictions of its held-out normal images; {} where there are none: there is no threshold.
      rate: share of normal images that may be called anomalous.
      why_none: the reason, where there is no threshold.
    """
    check_rate(rate)
    if not held_out:
        logger.info("No threshold: %s", why_none)
        return {"held_out": {}, "no_threshold": why_none}
    for category, predictions in held_out.items():
        if len(predictions.scores) < 1 / rate - 1:
            message = "%s: %d held-out images cannot show a false-alarm rate of %g: the largest score is taken"
            logger.warning(message, category, len(predictions.scores), rate)
    maps = [predictions.maps for predictions in held_out.values()]
    middle, top = float(np.median(np.concatenate(maps))), max(float(one.max()) for one in maps)
    return {
        "held_out": {
            category: [float(score) for score in predictions.scores] for category, predictions in held_out.items()
        },
        "map_scale": [middle, middle + 2 * max(top - middle, 1e-6)],
    }


def threshold_of(notes: Mapping[str, Any], category: str, rate: float) -> Threshold:
    """The threshold of one category, or of `ALL`, at a rate, from the notes of a checkpoint."""
    check_rate(rate)
    held_out: Mapping[str, list[float]] = notes.get("held_out", {})
    scores = list(itertools.chain(*held_out.values())) if category == ALL else held_out.get(category, [])
    if not scores:
        reason = notes.get("no_threshold") or f"no normal image of {category} was held out of training"
        return Threshold(None, rate, why_none=reason)
    return Threshold(conformal_threshold(np.asarray(scores, np.float32), rate), rate, len(scores))


def check_rate(rate: float) -> None:
    if not 0 < rate < 1:
        raise UserError(f"config.threshold.false_alarm_rate is {rate}; expected a number between 0 and 1")
