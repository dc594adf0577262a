"""Small made-up results that the tests of the report share."""

import numpy as np

from jaxad.metrics import GroundTruth, compute, curves, rank_images, rank_pixels
from jaxad.report.category import Case, CategoryResult, choose_cases

SIZE = 16


def category(
    name: str = "tile",
    *,
    masks: bool = True,
    threshold: float | None = 0.6,
    no_threshold: str = "",
    ids: list[str] | None = None,
    seed: int = 0,
):
    """Ten images, four of them defective, some on the wrong side of the threshold."""
    random = np.random.default_rng(seed)
    labels = np.arange(10) >= 6
    defects = np.zeros((10, SIZE, SIZE), bool)
    defects[6:, 4:8, 4:9] = True
    truth = GroundTruth(labels, defects if masks else None)
    maps = random.random((10, SIZE, SIZE)).astype(np.float32) * 0.5 + 0.4 * defects
    maps[0, 2, 2] = 0.95
    maps[9] *= 0.5
    scores = maps.reshape(10, -1).max(1)
    ids = ids or [f"{name}/{index}.png" for index in range(10)]
    drawn = {"image": curves(rank_images(scores, labels))}
    ranking = rank_pixels(maps, truth)
    if ranking is not None:
        drawn["pixel"] = curves(ranking)
    images = random.integers(0, 255, (10, SIZE, SIZE, 3), np.uint8)
    types = ["", "crack"]
    cases = [
        Case(
            id=ids[i],
            image=images[i],
            map=maps[i],
            mask=defects[i] if masks else None,
            valid=None,
            score=float(scores[i]),
            label=int(labels[i]),
            defect_type=types[int(labels[i])],
            decision=None if threshold is None else bool(scores[i] > threshold),
            reasons=reasons,
        )
        for i, reasons in choose_cases(scores, labels, threshold, per_group=2).items()
    ]
    return CategoryResult(
        category=name,
        metrics=compute(maps, scores, truth, pixel_ranking=ranking),
        ids=ids,
        scores=scores,
        labels=labels,
        defect_types=[types[int(label)] for label in labels],
        threshold=threshold,
        false_alarm_rate=None if threshold is None else 0.05,
        calibration_images=0 if threshold is None else 20,
        no_threshold=no_threshold,
        curves=drawn,
        seconds={"fit": 1.5, "predict": 0.25},
        cases=cases,
    )


RUN = {
    "method": "PatchCore",
    "dataset": "tiles",
    "metrics": "exact",
    "seed": 42,
    "command": "python -m jaxad.main --config=configs/patchcore.py:folder",
    "versions": {"jax": "0.10.0"},
    "config": {"seed": 42, "input": {"size": [256, 256]}},
}
