"""SimpleNet as its authors' code runs it (DonaldRR/SimpleNet, run.sh): cropped, scored by patches, no clipping.

python -m jaxad.main --config=configs/simplenet_official.py:folder --config.dataset.path=PHOTOS --workdir=runs/official

Published, MVTec AD, I-AUROC / P-AUROC: 99.6 / 98.1 (the paper; the best epoch on the test set, here the last).
"""

from ml_collections import ConfigDict

from configs import simplenet


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = simplenet.get_config(dataset)
    config.input.geometry = "crop"
    config.input.resize = 329
    config.input.size = (288, 288)
    config.model.image_score = "patch_max"
    config.train.epochs = 160  # 40 meta epochs of 4
    config.train.batch_size = 8
    config.train.drop_last = False
    config.train.decay_biases = True
    config.train.clip_norm = None
    return config
