"""Connected regions of the ground truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int


@dataclass(frozen=True)
class Regions:
    """The anomalous pixels that count, each with the connected region it belongs to.

    Attributes:
      pixels: positions in the flattened (n, h, w) stack of masks, ascending.
      region: index of each pixel's region.
      areas: pixels in each region.
      image: index of the image each region lies in.
    """

    pixels: Int[np.ndarray, " p"]
    region: Int[np.ndarray, " p"]
    areas: Int[np.ndarray, " r"]
    image: Int[np.ndarray, " r"]

    @property
    def count(self) -> int:
        return len(self.areas)


def label_regions(
    masks: Bool[np.ndarray, "n h w"],
    *,
    valid: Bool[np.ndarray, "n h w"] | None = None,
    has_mask: Bool[np.ndarray, " n"] | None = None,
    connectivity: int = 8,
) -> Regions:
    """Labels the connected regions of all masks; images without an anomalous pixel cost nothing.

    Args:
      masks: ground truth, true where anomalous.
      valid: false where a pixel is padding; padding is cut off before labelling.
      has_mask: false for images whose ground truth is unknown; they have no region.
      connectivity: 8 (diagonal neighbours touch, as in MVTec's evaluation) or 4.
    """
    from scipy import ndimage

    if connectivity not in (4, 8):
        raise ValueError(f"connectivity is {connectivity}, expected 4 or 8")
    structure = np.ones((3, 3), bool) if connectivity == 8 else None
    pixels, region, areas, image = [], [], [], []
    count = 0
    for index, mask in enumerate(masks):
        if has_mask is not None and not has_mask[index]:
            continue
        anomalous = mask if valid is None else mask & valid[index]
        inside = np.flatnonzero(anomalous)
        if not inside.size:
            continue
        labels = np.empty(anomalous.shape, np.int32)
        found = int(ndimage.label(anomalous, structure, output=labels))  # type: ignore[arg-type]
        own = labels.ravel()[inside] - 1
        pixels.append(inside + index * anomalous.size)
        region.append(own + count)
        areas.append(np.bincount(own, minlength=found))
        image.append(np.full(found, index))
        count += found
    if not count:
        return Regions(*(np.zeros(0, np.int64) for _ in range(4)))
    return Regions(*(np.concatenate(parts) for parts in (pixels, region, areas, image)))
