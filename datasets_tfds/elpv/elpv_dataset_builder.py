"""ELPV: electroluminescence photographs of solar cells (Buerhop-Lutz et al. 2018)."""

import importlib.util
from pathlib import Path

import tensorflow_datasets as tfds

from datasets_tfds.core import Photograph, PhotographBuilder, check_counts, every_fifth
from jaxad.errors import UserError

# Photographs in labels.csv by cell type; those of probability 1/3 and 2/3 are left out.
PUBLISHED = {"mono": {"normal": 588, "anomalous": 313}, "poly": {"normal": 920, "anomalous": 402}}

_HOW = (
    "install it with `pip install elpv-dataset==1.0.0.post1`, or clone github.com/zae-bayern/elpv-dataset and set "
    "config.dataset.manual_dir to its folder src/elpv_dataset/data, which holds labels.csv and images/cell0001.png, ..."
)


class Builder(PhotographBuilder):
    """TFDS builder; one config per cell type."""

    HOMEPAGE = "https://github.com/zae-bayern/elpv-dataset"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"The photographs come with a Python package: {_HOW}."
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="mono", description="Monocrystalline cells."),
        tfds.core.BuilderConfig(name="poly", description="Polycrystalline cells."),
    ]

    def photographs(self, manual_dir: Path | None):
        root = _raw_folder(manual_dir)
        normal, anomalous = [], []
        for path, probability in _labels(root / "labels.csv", self.category):
            if not (root / path).is_file():
                raise UserError(f"{root / 'labels.csv'} names {path}, which is missing in {root}; {_HOW}")
            if probability == 0:
                normal.append(Photograph(root / path, path, 0, "good"))
            elif probability == 1:
                anomalous.append(Photograph(root / path, path, 1, "defective"))
        found = {"normal": len(normal), "anomalous": len(anomalous)}
        check_counts(f"elpv/{self.category}", found, PUBLISHED[self.category])
        if not normal or not anomalous:
            raise UserError(f"category {self.category!r} is empty: {root / 'labels.csv'} names {found}; {_HOW}")
        test, train = every_fifth(normal)
        return {"train": train, "test": test + sorted(anomalous, key=lambda p: p.path.name)}


def _raw_folder(manual_dir: Path | None) -> Path:
    """The folder of labels.csv: in `manual_dir`, else in the installed package."""
    if manual_dir is not None:
        for folder in (manual_dir, manual_dir / "elpv", manual_dir / "src" / "elpv_dataset" / "data"):
            if (folder / "labels.csv").is_file():
                return folder
    spec = importlib.util.find_spec("elpv_dataset")
    for location in (spec and spec.submodule_search_locations) or ():
        if (Path(location) / "data" / "labels.csv").is_file():
            return Path(location) / "data"
    looked = f" in {manual_dir} or" if manual_dir is not None else ""
    raise UserError(f"elpv: no labels.csv{looked} in an installed package elpv-dataset: {_HOW}")


def _labels(file: Path, cell_type: str) -> list[tuple[str, float]]:
    """(image path, defect probability) of each cell of one type."""
    labels = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        fields = line.split()
        try:
            path, probability, kind = fields[0], float(fields[1]), fields[2]
        except (IndexError, ValueError):
            expected = "expected 'images/cell0001.png 1.0 mono'"
            raise UserError(f"{file}, line {number}: found {line!r}; {expected}; copy the file again") from None
        if kind == cell_type:
            labels.append((path, probability))
    return labels
