"""A user's own photographs, in MVTec AD's layout."""

import dataclasses
import os
import re
from pathlib import Path

import tensorflow_datasets as tfds

from datasets_tfds.core import NORMAL_NAMES, PhotographBuilder, fingerprint, folders_in, labelled_images
from jaxad.errors import UserError

LAYOUT = "expected PATH/train/good, PATH/test/good, PATH/test/DEFECT and PATH/ground_truth/DEFECT (masks, optional)"


@dataclasses.dataclass(eq=False)
class FolderConfig(tfds.core.BuilderConfig):
    """One category; the name holds a fingerprint of the files, so that a changed folder is prepared again.

    Attributes:
      path: the category's folder.
      root: what ids are relative to: `path`, or the folder of all categories.
      category: the folder's name.
    """

    path: str = ""
    root: str = ""
    category: str = ""


def folder_configs(path: str | Path) -> dict[str, FolderConfig]:
    """The categories at `path`, by name: `path` itself if it has a folder `train`, else each folder in it that has one.

    Raises:
      UserError: there is no such folder, or no category in it.
    """
    root = Path(os.path.abspath(Path(path).expanduser()))  # links keep their names
    if not root.is_dir():
        raise UserError(f"config.dataset.path is {str(path)!r}, which is not a folder; {LAYOUT}")
    folders = [root] if (root / "train").is_dir() else [f for f in folders_in(root) if (f / "train").is_dir()]
    if not folders:
        raise UserError(f"no folder 'train' in {root}, nor in any folder in it; {LAYOUT}, or a folder of such folders")
    return {f.name: _config(f, root) for f in folders}


class Builder(PhotographBuilder):
    """TFDS builder of one category; made with a config from `folder_configs`."""

    def _create_builder_config(self, builder_config, version=None):
        del version
        if not isinstance(builder_config, FolderConfig):
            raise UserError("the data set 'folder' needs a config from folder_configs(path)")
        return builder_config

    @property
    def category(self) -> str:
        return self.folder.category

    @property
    def folder(self) -> FolderConfig:
        """The config."""
        assert isinstance(self.builder_config, FolderConfig)
        return self.builder_config

    def photographs(self, manual_dir: Path | None):
        del manual_dir  # the config says where
        path, root = Path(self.folder.path), Path(self.folder.root)
        masks = path / "ground_truth"
        train = labelled_images(path / "train", root, [])
        test = labelled_images(path / "test", root, [masks / "test", masks])
        if defective := sorted({p.defect_type for p in train if p.label}):
            raise UserError(
                f"{path / 'train'} has the folder {defective[0]!r}: training photographs must be normal, in a folder "
                f"named {', '.join(NORMAL_NAMES[:-1])} or {NORMAL_NAMES[-1]}; move defective ones to {path / 'test'}"
            )
        for split, photographs in (("train", train), ("test", test)):
            if not photographs:
                folder = path / split / ("good" if split == "train" else "")
                raise UserError(f"category {self.category!r} is empty: no image in {folder}; {LAYOUT}")
        return {"train": train, "test": test}


def _config(path: Path, root: Path) -> FolderConfig:
    slug = re.sub(r"[^A-Za-z0-9]+", "_", path.name).strip("_")[:40] or "category"
    return FolderConfig(f"{slug}-{fingerprint(path)}", path=str(path), root=str(root), category=path.name)
