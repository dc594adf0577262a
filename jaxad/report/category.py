"""The results of one category, and which of its images are worth showing."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxad.metrics import Curves

HIGHEST = "highest score"
LOWEST = "lowest score"
FALSE_ALARM = "false alarm"
MISSED = "missed"


@dataclass(frozen=True)
class Case:
    """One image of the gallery; `image`, `map`, `mask` and `valid` have the same size, usually the input size.

    Attributes:
      mask: the ground truth; None where it is unknown.
      valid: false on padding.
      label: 1 anomalous, 0 normal.
      decision: whether the image was called anomalous; None without a threshold.
      reasons: why it is shown: HIGHEST, LOWEST, FALSE_ALARM, MISSED.
    """

    id: str
    image: UInt8[np.ndarray, "h w 3"]
    map: Float[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"] | None
    valid: Bool[np.ndarray, "h w"] | None
    score: float
    label: int
    defect_type: str
    decision: bool | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class CategoryResult:
    """The evaluation of one category.

    Attributes:
      metrics: I-AUROC, I-AP, I-F1max, P-AUROC, P-AP, P-F1max, AUPRO as fractions; NaN where undefined. Without masks
        there are no pixel metrics.
      ids: the test images, in the order of `scores`, `labels` and `defect_types`.
      threshold: images that score higher are called anomalous; None where none was calibrated.
      false_alarm_rate: the share of normal images that the threshold was calibrated to call anomalous.
      calibration_images: the number of held-out normal training images it was calibrated on.
      no_threshold: why there is no threshold, in words; "" where there is one or the reason is unknown.
      curves: "image" and, with masks, "pixel".
      seconds: how long each stage took, in the order they ran.
      cases: for the gallery; not in results.json.
    """

    category: str
    metrics: dict[str, float]
    ids: list[str]
    scores: Float[np.ndarray, " n"]
    labels: Bool[np.ndarray, " n"]
    defect_types: list[str]
    threshold: float | None = None
    false_alarm_rate: float | None = None
    calibration_images: int = 0
    no_threshold: str = ""
    curves: dict[str, Curves] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)

    def __post_init__(self):
        lengths = {len(self.ids), len(self.scores), len(self.labels), len(self.defect_types)}
        if len(lengths) > 1:
            raise ValueError(
                f"{self.category}: ids, scores, labels and defect_types of different lengths {sorted(lengths)}"
            )

    @property
    def false_alarms(self) -> int:
        """Normal images called anomalous; 0 without a threshold."""
        return int(np.sum(self._called & ~np.asarray(self.labels, bool)))

    @property
    def missed(self) -> int:
        """Anomalous images called normal; 0 without a threshold."""
        return 0 if self.threshold is None else int(np.sum(~self._called & np.asarray(self.labels, bool)))

    @property
    def _called(self) -> Bool[np.ndarray, " n"]:
        return np.asarray(self.scores) > (np.inf if self.threshold is None else self.threshold)


def choose_cases(
    scores: Float[np.ndarray, " n"], labels: Bool[np.ndarray, " n"], threshold: float | None, per_group: int = 8
) -> dict[int, tuple[str, ...]]:
    """Indices of the images to show, in ascending order, with the reasons.

    At most `per_group` images with the highest scores, as many with the lowest, and, with a threshold, as many false
    alarms (the highest-scoring ones) and missed defects (the lowest-scoring ones). Ties go to the lower index; images
    with a NaN score are never shown.
    """
    scores, labels = np.asarray(scores), np.asarray(labels, bool)
    finite = np.flatnonzero(~np.isnan(scores))
    ascending = finite[np.argsort(scores[finite], kind="stable")]
    descending = finite[np.argsort(-scores[finite], kind="stable")]
    groups = {HIGHEST: descending, LOWEST: ascending}
    if threshold is not None:
        groups[FALSE_ALARM] = descending[~labels[descending] & (scores[descending] > threshold)]
        groups[MISSED] = ascending[labels[ascending] & (scores[ascending] <= threshold)]
    reasons: dict[int, tuple[str, ...]] = {}
    for reason, indices in groups.items():
        for index in indices[:per_group]:
            reasons[int(index)] = (*reasons.get(int(index), ()), reason)
    return dict(sorted(reasons.items()))
