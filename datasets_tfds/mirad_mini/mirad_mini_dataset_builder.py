"""Generated individualised products, photographed at six imaginary nodes, with exact masks; in MIRAD's raw layout."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from datasets_tfds.core import Photograph, PhotographBuilder, labelled_images
from datasets_tfds.mirad.factors import FILE, IMAGING, read_factors
from datasets_tfds.mirad_mini import generate
from datasets_tfds.mirad_mini.products import FAMILIES
from jaxad.errors import UserError

TRAIN, GOOD, ANOMALOUS = 120, 40, 60

_HOW = (
    "a folder for each family, made by `python -m datasets_tfds.mirad_mini.generate FOLDER`; without manual_dir the "
    "data set is generated with the default settings"
)


class GeneratedBuilder(PhotographBuilder, skip_registration=True):
    """A builder of generated products, one config per family: read from manual_dir where it holds the family, else
    generated in DATA_DIR/downloads/generated.
    """

    HOMEPAGE = "https://github.com/wu33learn/MIRAD"
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Nothing needs to be downloaded. For other settings: {_HOW}."
    VERSION = tfds.core.Version(generate.VERSION)
    RELEASE_NOTES = {generate.VERSION: "First version."}  # noqa: RUF012
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in FAMILIES]  # noqa: RUF012
    FACTORS = {  # noqa: RUF012
        **IMAGING,
        **dict.fromkeys(generate.IMAGING_NUMBERS, np.float32),
        "products": np.int32,
        "defects": tfds.features.Text(doc="Kinds of defects, joined by +."),
        "scene": np.int32,
        "designs": tfds.features.Text(doc="Attributes of each product, name=value;..., products separated by |."),
    }

    @property
    @abc.abstractmethod
    def parts(self) -> Sequence[generate.Part]:
        """The splits."""

    def photographs(self, manual_dir: Path | None):
        folder = self._raw_folder(manual_dir)
        factors = read_factors(folder, self.FACTORS)
        splits = {}
        for part in self.parts:
            masks = [folder / "ground_truth" / part.name, folder / "ground_truth"]
            found = labelled_images(folder / part.name, folder, masks)
            if len(found) == 0:
                raise UserError(f"{self.name}: no image in {folder / part.name}; expected {_HOW}")
            splits[part.name] = [_with_factors(photograph, factors, folder) for photograph in found]
        return splits

    def _raw_folder(self, manual_dir: Path | None) -> Path:
        if manual_dir is not None and (manual_dir / self.category).is_dir():
            return manual_dir / self.category
        root = Path(self.data_dir_root) / "downloads" / "generated" / f"{self.name}-{generate.VERSION}"
        folder = root / self.category
        return folder if folder.is_dir() else generate.generate(root, self.category, self.parts)


class Builder(GeneratedBuilder):
    """TFDS builder with MIRAD's splits, photographed at all six nodes."""

    @property
    def parts(self) -> Sequence[generate.Part]:
        return generate.mirad_parts(TRAIN, GOOD, ANOMALOUS)


def _with_factors(photograph: Photograph, factors: Mapping[str, Mapping], folder: Path) -> Photograph:
    """The photograph with its factors; its defect type is the kind of its defects, or "compound" if they differ."""
    if photograph.image_id not in factors:
        raise UserError(f"{folder / FILE} does not name {photograph.image_id}; expected {_HOW}")
    known = factors[photograph.image_id]
    kinds = str(known["defects"]).split("+")
    defect_type = photograph.defect_type if not photograph.label else kinds[0] if len(kinds) == 1 else "compound"
    return dataclasses.replace(photograph, factors=known, defect_type=defect_type)
