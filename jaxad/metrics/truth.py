"""The ground truth of a test set, which every evaluation of it shares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from jaxad.metrics.regions import Regions, label_regions


@dataclass(frozen=True)
class GroundTruth:
    """What is known about the images of a test set (one category).

    Arrays of other types become boolean, anything but zero being true. The regions are labelled at first use and kept,
    so the arrays must not change.

    Attributes:
      labels: true for defective images.
      masks: true where a pixel is anomalous, at the anomaly maps' size; None where no image has a mask.
      valid: false where a pixel is padding, which never counts; None without padding.
      has_mask: false for images whose ground truth is unknown: none of their pixels counts (ADer's modes take them for
        normal images, see `jaxad.metrics.compute`); None where every image has a mask. If it is false everywhere,
        `masks` becomes None.

    Raises:
      ValueError: the shapes differ.
    """

    labels: Bool[np.ndarray, " n"]
    masks: Bool[np.ndarray, "n h w"] | None = None
    valid: Bool[np.ndarray, "n h w"] | None = None
    has_mask: Bool[np.ndarray, " n"] | None = None

    def __post_init__(self):
        for name in ("labels", "masks", "valid", "has_mask"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.asarray(value).astype(bool, copy=False))
        if self.labels.ndim != 1:
            raise ValueError(f"the shape of labels is {self.labels.shape}, expected one label per image")
        images = f"{len(self.labels)} images"
        if self.has_mask is not None and self.has_mask.shape != self.labels.shape:
            raise ValueError(f"the shape of has_mask is {self.has_mask.shape}, expected one value for each of {images}")
        for name, pixels in (("masks", self.masks), ("valid", self.valid)):
            if pixels is not None and (pixels.ndim != 3 or len(pixels) != len(self.labels)):
                raise ValueError(f"the shape of {name} is {pixels.shape}, expected one map for each of {images}")
        if self.masks is not None and self.valid is not None and self.valid.shape != self.masks.shape:
            raise ValueError(f"the shape of valid is {self.valid.shape}, expected {self.masks.shape} as the masks")
        if self.has_mask is not None and not self.has_mask.any():
            object.__setattr__(self, "masks", None)

    @cached_property
    def regions(self) -> Regions:
        """The connected regions (8 neighbours) of the masks, without padding and images of unknown ground truth.

        Raises:
          ValueError: no image has a mask.
        """
        return label_regions(self._known_masks(), valid=self.valid, has_mask=self.has_mask)

    def normal_pixels(
        self, images: slice = slice(None), *, unknown_is_normal: bool = False
    ) -> Bool[np.ndarray, "k h w"]:
        """True where a pixel of the given images is normal: neither anomalous nor padding.

        Args:
          unknown_is_normal: whether all pixels of an image of unknown ground truth are normal; else none is.

        Raises:
          ValueError: no image has a mask.
        """
        normal = ~self._known_masks()[images]
        if self.has_mask is not None:
            normal[~self.has_mask[images]] = unknown_is_normal
        if self.valid is not None:
            normal &= self.valid[images]
        return normal

    def check_maps(self, maps: Float[np.ndarray, "n h w"]) -> None:
        """Compares the shape of anomaly maps with the ground truth's.

        Raises:
          ValueError: they differ.
        """
        shapes = {array.shape for array in (self.masks, self.valid) if array is not None}
        expected = shapes.pop() if shapes else (len(self.labels), *maps.shape[-2:])
        if maps.shape != expected:
            raise ValueError(f"the shape of maps is {maps.shape}, expected {expected} as the ground truth")

    def _known_masks(self) -> Bool[np.ndarray, "n h w"]:
        if self.masks is None:
            raise ValueError("no image of the test set has a mask: its pixels cannot be ranked")
        return self.masks
