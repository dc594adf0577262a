"""What categories and types of defects are called, and where the mask of an image may lie."""

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
    """The published name of what people may write as "Aluminium capacitors"; None for other names."""
    name = name.strip().upper().replace("-", "_").replace(" ", "_")
    for each in (name, name.removesuffix("S")):
        each = _ALIASES.get(each, each)
        if each in CATEGORIES:
            return each
    return None


def defect_type_of(name: str, where: str) -> str:
    """What a folder or a list calls `name`: "good", "anomaly" where no type is told, or the type of defect.

    Raises:
      UserError: positive or negative, at `where`: which of them are the defective ones is anybody's guess.
    """
    lower = name.strip().lower()
    if lower in ("positive", "negative"):
        raise UserError(
            f"{where} calls images {name!r}: the paper's positive ones are normal, those of others defective; "
            "name normal ones good, defective ones anomaly or by their type of defect"
        )
    return "good" if lower in NORMAL_NAMES else "anomaly" if lower in ANOMALY_NAMES else name.strip()


def find_mask(image: Path, among: Sequence[Path], looked_in: str) -> Path:
    """The mask of an image: the one `among` those found in `looked_in`, else NAME_mask.* or NAME.json beside it.

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
