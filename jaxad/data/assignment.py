"""Which images a model is trained, calibrated and tested on, as the config says."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxad.config import Config
from jaxad.data import corruptions
from jaxad.data.split import Split, holdout, load_split


@dataclass(frozen=True)
class Assignment:
    """The images of one model."""

    config: Config
    categories: tuple[str, ...]

    def split(self, name: str, **which: Any) -> Split:
        return load_split(self.config.dataset, self.config.input, name, list(self.categories), **which)

    @functools.cached_property
    def test(self) -> Split:
        """The images of `config.evaluation`: split, selection and corruptions."""
        settings = self.config.evaluation
        changes = corruptions.parse(settings.corruptions)

        def change(image, mask, name):
            return corruptions.apply(changes, image, mask, name, self.config.seed)

        return self.split(
            settings.split, where=settings.where, field="config.evaluation.where", change=change if changes else None
        )

    @functools.cached_property
    def training(self) -> dict[str, Split]:
        """The images that stages ask for by name (`Train.data`, `Fit.data`); only those that there are.

        Zero-shot models have none of the target's images: theirs are "auxiliary" and the part of it that is held out.
        """
        settings, images = self.config.dataset, {}
        if self.config.protocol != "zero_shot":
            whole = self.split(f"{settings.train_split}+validation", where=settings.where)
            rest, held_out = holdout(whole, self.config.threshold.holdout, self.config.seed, "config.threshold.holdout")
            images = {"train": rest.subset(np.flatnonzero(rest.labels == 0)), "train+masks": rest}
            images["validation"] = held_out
        if self.config.auxiliary.name:
            settings = self.config.auxiliary
            whole = load_split(settings, self.config.input, settings.split, field="config.auxiliary")
            # a batch's categories count the target's names first, then the auxiliary data's
            names = dict.fromkeys([*self.categories, *whole.category_names])
            whole = dataclasses.replace(whole, category_names=list(names))
            rest, held_out = holdout(whole, settings.holdout, self.config.seed, "config.auxiliary.holdout")
            images["auxiliary"] = rest
            images.setdefault("validation", held_out)
        return images

    @property
    def held_out_normal(self) -> Split:
        """The normal images that no stage sees: what a threshold is set on."""
        held_out = self.training["validation"]
        return held_out.subset(np.flatnonzero(held_out.labels == 0))
