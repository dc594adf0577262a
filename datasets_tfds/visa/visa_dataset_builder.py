"""VisA: Visual Anomaly dataset, 12 objects with pixel masks (Zou et al. 2022), in its one-class split."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import tensorflow_datasets as tfds

from datasets_tfds.archives import Source, raw_folder
from datasets_tfds.core import Photograph, PhotographBuilder, check_counts, image_id, labelled_images
from datasets_tfds.listing import csv_rows, listed_file
from jaxad.errors import UserError

# Normal images, those among them in the test set, anomalous images: 9,621, 962 and 1,200 in all.
PUBLISHED = {
    "candle": (1000, 100, 100),
    "capsules": (602, 60, 100),
    "cashew": (500, 50, 100),
    "chewinggum": (503, 50, 100),
    "fryum": (500, 50, 100),
    "macaroni1": (1000, 100, 100),
    "macaroni2": (1000, 100, 100),
    "pcb1": (1004, 100, 100),
    "pcb2": (1001, 100, 100),
    "pcb3": (1006, 101, 100),
    "pcb4": (1005, 101, 100),
    "pipe_fryum": (500, 50, 100),
}

_ARCHIVE = Source(
    file="VisA_20220922.tar",
    url="https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
    pages="https://github.com/amazon-science/spot-diff",
)
_LIST = Path("split_csv", "1cls.csv")
_COLUMNS = ("object", "split", "label", "image", "mask")
_HOW = (
    f"get {_ARCHIVE.file} from {_ARCHIVE.url} and set config.dataset.manual_dir to the folder that holds it or "
    f"its content, {_LIST} and CATEGORY/Data/{{Images/{{Normal,Anomaly}},Masks/Anomaly}}; or to a re-arrangement as "
    "CATEGORY/{train/good,test/good,test/bad,ground_truth/bad}"
)


class Builder(PhotographBuilder):
    """TFDS builder; one config per object. Mask values are type numbers: any above 0 is a defect."""

    HOMEPAGE = "https://github.com/amazon-science/spot-diff"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Downloaded automatically, or by hand: {_HOW}."
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name, description=f"Photographs of {name}.") for name in PUBLISHED
    ]

    def photographs(self, manual_dir: Path | None):
        root = raw_folder("visa", manual_dir, Path(self.data_dir_root) / "downloads", _is_root, _ARCHIVE, _HOW)
        home = root / self.category
        if not home.is_dir():
            raise UserError(f"visa: no folder {home}; {_HOW}")
        splits = _rearranged(home, root) if (home / "train").is_dir() else _listed(root, self.category)
        for split, label, what in (("train", 0, "training"), ("test", 0, "normal test"), ("test", 1, "anomalous")):
            if not any(p.label == label for p in splits[split]):
                raise UserError(f"visa/{self.category}: no {what} image in {root}; {_HOW}")
        normal, normal_test, anomalous = PUBLISHED[self.category]
        test = Counter(p.label for p in splits["test"])
        check_counts(
            f"visa/{self.category}",
            {"train": len(splits["train"]), "normal test": test[0], "anomalous test": test[1]},
            {"train": normal - normal_test, "normal test": normal_test, "anomalous test": anomalous},
        )
        return splits


def _is_root(folder: Path) -> bool:
    """Whether the folder holds the list or an object, whatever else may be missing."""
    return (folder / _LIST).is_file() or any(
        (folder / category / part).is_dir() for category in PUBLISHED for part in ("Data", "train")
    )


def _listed(root: Path, category: str) -> dict[str, list[Photograph]]:
    """The splits of one object as published, by the list."""
    if not (root / _LIST).is_file():
        raise UserError(f"visa: no file {root / _LIST}, which says what is trained on and what is tested; {_HOW}")
    splits: dict[str, list[Photograph]] = {"train": [], "test": []}
    for where, row in csv_rows(root / _LIST, _COLUMNS):
        if row["object"] not in PUBLISHED:
            raise UserError(f"{where}: object is {row['object']!r}; expected one of {', '.join(PUBLISHED)}")
        if row["split"] not in splits or row["label"] not in ("normal", "anomaly"):
            found = f"split is {row['split']!r} and label {row['label']!r}"
            raise UserError(f"{where}: {found}; expected train or test and normal or anomaly")
        if row["split"] == "train" and row["label"] == "anomaly":
            raise UserError(f"{where}: an anomaly in the training set; expected the one-class split")
        if row["object"] != category:
            continue
        image = listed_file(root, row["image"], f"{where}: image")
        label = int(row["label"] == "anomaly")
        mask = listed_file(root, row["mask"], f"{where}: mask") if label else None
        photograph = Photograph(image, image_id(image, root), label, "anomaly" if label else "good", mask)
        splits[row["split"]].append(photograph)
    return {split: sorted(each, key=lambda p: (p.label, p.image_id)) for split, each in splits.items()}


def _rearranged(home: Path, root: Path) -> dict[str, list[Photograph]]:
    """The splits of one object in MVTec AD's layout, as many tools arrange it."""
    train = labelled_images(home / "train", root, [])
    if defective := [p for p in train if p.label]:
        raise UserError(f"{defective[0].path} is not a normal image: expected no folder but good in {home / 'train'}")
    test = labelled_images(home / "test", root, [home / "ground_truth"])
    for photograph in test:
        if not photograph.has_mask:
            raise UserError(f"no mask for {photograph.path}: expected one in {home / 'ground_truth' / 'bad'}; {_HOW}")
    test = [replace(p, defect_type="anomaly") if p.label else p for p in test]
    return {"train": train, "test": sorted(test, key=lambda p: (p.label, p.image_id))}
