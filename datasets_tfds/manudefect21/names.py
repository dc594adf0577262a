"""The names of categories and types of defects, and the places where the mask of an image may be."""

from collections.abc import Sequence
from pathlib import Path

from datasets_tfds.core import NORMAL_NAMES
from jaxad.errors import UserError
from jaxad.imaging.decoding import SUFFIXES

CATEGORIES = (
    "ALUMINUM_CAPACITOR",
    "BGA",
    "CAPACITOR",
    "DPAK",
    "INDUCTOR",
    "QFN",
    "QFP",
    "RESISTOR",
    "SOD",
    "SOIC",
    "SOT",
)
ANOMALY_NAMES = ("anomaly", "anomalous", "bad", "ng", "defect", "defects", "defective")

_ALIASES = {"AL_CAPACITOR": "ALUMINUM_CAPACITOR", "ALUMINIUM_CAPACITOR": "ALUMINUM_CAPACITOR"}


def category_of(name: str) -> str | None:
    """The published name of a category, however it is written ("Aluminium capacitors"); None for other names."""
    name = name.strip().upper().replace("-", "_").replace(" ", "_")
    for each in (name, name.removesuffix("S")):
        each = _ALIASES.get(each, each)
        if each in CATEGORIES:
            return each
    return None


def defect_type_of(name: str, where: str) -> str:
    """What `name` stands for in a folder or a list: "good", "anomaly" if it names no type, or the type of defect.

    Args:
      where: the folder or the place in the list, for errors.

    Raises:
      UserError: the name is positive or negative: data sets differ in which of the two is defective.
    """
    lower = name.strip().lower()
    if lower in ("positive", "negative"):
        raise UserError(
            f"{where} calls images {name!r}: the paper's positive images are normal, those of others are defective; "
            "name normal ones good, and defective ones anomaly or by their type of defect"
        )
    return "good" if lower in NORMAL_NAMES else "anomaly" if lower in ANOMALY_NAMES else name.strip()


def find_mask(image: Path, among: Sequence[Path], looked_in: str) -> Path:
    """The mask of an image: the one in `among`, or else NAME_mask.* or NAME.json beside the image.

    Args:
      among: the masks of that image that were found in `looked_in`.
      looked_in: where that is, for errors.

    Raises:
      UserError: there is none, or there are two.
    """
    drawn = image.with_suffix(".json")
    beside = [image.with_name(f"{image.stem}_mask{suffix}") for suffix in SUFFIXES]
    masks = list(among) or [f for f in beside if f.is_file()] or [drawn] * drawn.is_file()
    if not masks:
        raise UserError(
            f"no mask for {image}: looked in {looked_in}, and beside the image for {image.stem}_mask.png and "
            f"{drawn.name} (LabelMe); add it, since every defective image needs one"
        )
    if len(masks) > 1:
        raise UserError(f"two masks for {image}: {masks[0]} and {masks[1]}; remove one")
    return masks[0]
