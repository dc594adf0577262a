"""PatchCore as its authors' code runs it (amazon-science/patchcore-inspection): cropped, scored by patches.

python -m jaxad.main --config=configs/patchcore_official.py:folder --config.dataset.path=PHOTOS --workdir=runs/official

Published, MVTec AD, I-AUROC / P-AUROC / AUPRO: 99.2 / 98.1 / 94.4 (its README: WR50, 10 %, 224, seed 0).
"""

from ml_collections import ConfigDict

from configs import patchcore


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = patchcore.get_config(dataset)
    config.input.geometry = "crop"
    config.input.resize = 256  # 366 for their 320
    config.input.size = (224, 224)
    config.model.image_score = "patch_max"
    return config
