"""ManuDefect-21: surface-mounted components, normal and defective ones in both splits, with pixel masks.

Yang, Cao and Duan, Applied Sciences 2025, 15, 10885. The paper's training set is `train` and `validation` together;
`validation`, for model selection, is a tenth of each label, chosen by a hash of the image ids.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from datasets_tfds.archives import raw_folder
from datasets_tfds.core import Photograph, PhotographBuilder, check_counts, folders_in, image_id, images_in
from datasets_tfds.manudefect21.labelme import draw_mask
from datasets_tfds.manudefect21.listing import FILES, read_list
from datasets_tfds.manudefect21.names import CATEGORIES, category_of, defect_type_of, find_mask
from jaxad.errors import UserError

logger = logging.getLogger(__name__)

# Table 3: training images, the good and the anomalous ones among them, good and anomalous test images.
PUBLISHED = {
    "ALUMINUM_CAPACITOR": (505, 496, 9, 214, 4),
    "BGA": (794, 611, 183, 262, 79),
    "CAPACITOR": (9945, 7007, 2938, 3004, 1260),
    "DPAK": (771, 517, 254, 222, 110),
    "INDUCTOR": (3502, 3485, 17, 1494, 8),
    "QFN": (1441, 1155, 286, 495, 123),
    "QFP": (4680, 4138, 542, 1774, 233),
    "RESISTOR": (2162, 890, 1272, 382, 546),
    "SOD": (2037, 1105, 932, 474, 400),
    "SOIC": (4288, 3285, 463, 1640, 199),
    "SOT": (925, 724, 201, 311, 87),
}

_HOW = (
    "get the data from its authors and set config.dataset.manual_dir to the folder with "
    "CATEGORY/{train,test}/{good,DEFECT}/NAME.png and masks in CATEGORY/ground_truth/{train,test}/DEFECT/NAME.png "
    f"(datasets_tfds/manudefect21/README.md has the other layouts); the categories are {', '.join(CATEGORIES)}"
)


class Builder(PhotographBuilder):
    """TFDS builder; one config per category. Any mask value above 0 is a defect, in JPEG masks any above 127."""

    HOMEPAGE = "https://www.mdpi.com/2076-3417/15/20/10885"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"No public address of the photographs is known: {_HOW}."
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name, description=f"Components of the kind {name}.") for name in CATEGORIES
    ]

    def photographs(self, manual_dir: Path | None):
        downloads = Path(self.data_dir_root) / "downloads"
        root = raw_folder("manudefect21", manual_dir, downloads, lambda f: _is_root(f, manual_dir), None, _HOW)
        listing = _list_in(root)
        splits = read_list(listing, self.category) if listing else _in_folders(root, self.category)
        for split, photographs in splits.items():
            if not photographs:
                raise UserError(
                    f"manudefect21/{self.category}: no image of the split {split} in {listing or root}; {_HOW}"
                )
        _check_counts(self.category, splits)
        train, validation = hold_out(splits["train"])
        return {"train": train, "validation": validation, "test": _normal_first(splits["test"])}

    def _mask(self, photograph: Photograph, size: tuple[int, int]) -> np.ndarray:
        if photograph.mask is not None and photograph.mask.suffix.lower() == ".json":
            return draw_mask(photograph.mask, size)
        return super()._mask(photograph, size)


def hold_out(photographs: Sequence[Photograph]) -> tuple[list[Photograph], list[Photograph]]:
    """(train, validation), each with the normal ones first; a tenth of each label is held out, at least one of two.

    The choice depends on the image ids only: those with the smallest SHA-256 are held out.
    """
    held_out: set[str] = set()
    for label in (0, 1):
        ids = [p.image_id for p in photographs if p.label == label]
        ids.sort(key=lambda each: hashlib.sha256(each.encode()).digest())
        held_out.update(ids[: max(len(ids) // 10, int(len(ids) > 1))])
    ordered = _normal_first(photographs)
    return [p for p in ordered if p.image_id not in held_out], [p for p in ordered if p.image_id in held_out]


def _normal_first(photographs: Sequence[Photograph]) -> list[Photograph]:
    return sorted(photographs, key=lambda p: (p.label, p.image_id))


def _check_counts(category: str, splits: Mapping[str, Sequence[Photograph]]) -> None:
    train, good, anomalous, *test = PUBLISHED[category]
    found = {split: Counter(p.label for p in photographs) for split, photographs in splits.items()}
    if good + anomalous != train:
        adds_up = train - anomalous
        logger.info(
            f"manudefect21/{category}: Table 3 prints {train} training images, but its {good} good and {anomalous} "
            f"anomalous ones are {good + anomalous}; with {adds_up} good ones it would add up: both count as published"
        )
        good = adds_up if found["train"][0] == adds_up else good
    names = ("good train", "anomalous train", "good test", "anomalous test")
    numbers = [found[split][label] for split in ("train", "test") for label in (0, 1)]
    check_counts(
        f"manudefect21/{category}",
        dict(zip(names, numbers, strict=True)),
        dict(zip(names, (good, anomalous, *test), strict=True)),
    )


def _is_root(folder: Path, manual_dir: Path | None) -> bool:
    """Whether the folder holds the categories, splits with the categories in them, or a list."""
    own = folder == manual_dir or folder.name.lower().replace("-", "").replace("_", "") == "manudefect21"
    if own and _list_in(folder):  # folders of other data sets may have a meta.json, too
        return True
    around = [folder, *(f for f in (_child(folder, split) for split in ("train", "test")) if f)]
    return any(category_of(f.name) for each in around for f in folders_in(each))


def _list_in(root: Path) -> Path | None:
    return next((root / name for name in FILES if (root / name).is_file()), None)


def _child(folder: Path, name: str) -> Path | None:
    """The folder of that name in `folder`, in upper or lower case."""
    return next((f for f in folders_in(folder) if f.name.lower() == name), None)


def _category_folder(folder: Path, category: str) -> Path | None:
    found = [f for f in folders_in(folder) if category_of(f.name) == category]
    if len(found) > 1:
        raise UserError(f"two folders of the category {category}: {found[0]} and {found[1]}; merge them")
    return found[0] if found else None


def _in_folders(root: Path, category: str) -> dict[str, list[Photograph]]:
    """The photographs in ROOT/CATEGORY/SPLIT/TYPE, or ROOT/SPLIT/CATEGORY/TYPE."""
    splits = {}
    home = _category_folder(root, category)
    for split in ("train", "test"):
        outer = home or _child(root, split)
        folder = (_child(home, split) if home else _category_folder(outer, category)) if outer else None
        if folder is None:
            names = ", ".join(f.name for f in folders_in(outer or root)) or "no folder"
            expected = home / split if home else f"{root / category / split} or {root / split / category}"
            raise UserError(f"manudefect21/{category}: no folder {expected}; found {names} in {outer or root}; {_HOW}")
        if home:
            truths = [home / "ground_truth" / split, home / "ground_truth", folder / "ground_truth"]
        else:
            around = root / "ground_truth"
            truths = [folder / "ground_truth" / split, folder / "ground_truth", around / split / folder.name]
            truths += [around / folder.name / split, around / folder.name]
        splits[split] = _labelled(folder, root, truths)
    return splits


def _labelled(folder: Path, root: Path, truths: Sequence[Path]) -> list[Photograph]:
    """The photographs of one split; masks are in the first of `truths` with a folder of that type, or beside images."""
    photographs = []
    for type_folder in folders_in(folder):
        if type_folder.name.lower() == "ground_truth":
            continue
        defect_type = defect_type_of(type_folder.name, str(type_folder))
        files = images_in(type_folder)
        stems = {(f.parent, f.stem) for f in files}
        images = [f for f in files if (f.parent, f.stem.removesuffix("_mask")) not in stems - {(f.parent, f.stem)}]
        if defect_type == "good":
            photographs += [Photograph(f, image_id(f, root), 0, "good") for f in images]
            continue
        masks = _masks(truths, defect_type)
        for image in images:
            stem = image.relative_to(type_folder).with_suffix("")
            among = masks.get(stem, []) + masks.get(stem.with_name(f"{stem.name}_mask"), [])
            mask = find_mask(image, among, str(truths[0] / type_folder.name))
            photographs.append(Photograph(image, image_id(image, root), 1, defect_type, mask))
    return photographs


def _masks(truths: Sequence[Path], defect_type: str) -> dict[Path, list[Path]]:
    """The masks of one type by their path, without suffix, in the type's folder of the first of `truths` with one."""
    masks: dict[Path, list[Path]] = {}
    for type_folder in (f for truth in truths for f in folders_in(truth)):
        if defect_type_of(type_folder.name, str(type_folder)).lower() == defect_type.lower():
            for mask in images_in(type_folder):
                masks.setdefault(mask.relative_to(type_folder).with_suffix(""), []).append(mask)
            break
    return masks
