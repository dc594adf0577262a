"""Data sets with defective images only: a folder of images, and a folder of masks with the same names."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets_tfds.archives import raw_folder
from datasets_tfds.core import Photograph, check_counts, folders_in, image_id, images_in, match_masks
from jaxad.errors import UserError

Pair = tuple[str, str]  # names of the folders of images and masks


def paired_photographs(
    name: str,
    manual_dir: Path | None,
    downloads: Path,
    pairs: Sequence[Pair],
    defect_type: str,
    published: int,
    how: str,
) -> Mapping[str, Sequence[Photograph]]:
    """The split `test`: all images, each with its mask.

    Args:
      name: the data set's name.
      manual_dir: where the user put the raw data; None where there is none.
      downloads: see `raw_folder`.
      pairs: possible names of the two folders; upper and lower case are the same.
      defect_type: what the masks show.
      published: the published number of images.
      how: the end of error messages: what is expected, and how to get it.

    Raises:
      UserError: a folder or a mask is missing, or there is no image.
    """
    if manual_dir is not None:  # CVC-ClinicDB beside CVC-ColonDB: both have images and masks
        own = [f for f in folders_in(manual_dir) if f.name.lower().replace("-", "_") == name]
        manual_dir = own[0] if own else manual_dir
    root = raw_folder(name, manual_dir, downloads, lambda f: any(_folder(f, images) for images, _ in pairs), None, how)
    images_name, masks_name = next(pair for pair in pairs if _folder(root, pair[0]))
    images_folder, masks_folder = _folder(root, images_name), _folder(root, masks_name)
    if images_folder is None or masks_folder is None:
        raise UserError(f"{name}: no folder {root / masks_name}; {how}")
    images = images_in(images_folder)
    if not images:
        raise UserError(f"{name}: no image in {images_folder}; {how}")
    masks = match_masks(images, images_folder, images_in(masks_folder), masks_folder)
    check_counts(name, {"images": len(images)}, {"images": published})
    pairs_found = zip(images, masks, strict=True)
    return {"test": [Photograph(image, image_id(image, root), 1, defect_type, mask) for image, mask in pairs_found]}


def _folder(root: Path, name: str) -> Path | None:
    return next((f for f in folders_in(root) if f.name.lower() == name.lower()), None)
