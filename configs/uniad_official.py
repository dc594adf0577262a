"""UniAD with the official repository's settings for MVTec AD, on timm's EfficientNet-B4.

python -m jaxad.main --config=configs/uniad_official.py:folder --config.dataset.path=PHOTOS --workdir=runs/official

Its own EfficientNet-B4 pads for an input of 380 pixels at every size, so its two deepest taps lie a pixel aside.
Published, I-AUROC / P-AUROC: MVTec AD 96.5 / 96.8 (You et al. 2022, one model for all classes).
"""

from ml_collections import ConfigDict

from configs import uniad


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = uniad.get_config(dataset)
    config.seed = 133
    config.input.size = (224, 224)
    config.input.mask_interpolation = "nearest"
    config.train.epochs = 1000
    config.train.drop_last = False
    config.train.decay_biases = True
    config.train.clip_norm = 0.1
    return config
