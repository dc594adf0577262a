"""PatchCore as anomalib 2.7 runs it: features not pooled over channels, plain distances, re-weighted image scores.

python -m jaxad.main --config=configs/patchcore_anomalib.py:folder --config.dataset.path=PHOTOS --workdir=runs/anomalib

Published, MVTec AD, image / pixel AUROC: 98.0 / 98.0 (anomalib's README, WR50).
"""

from ml_collections import ConfigDict

from configs import patchcore


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = patchcore.get_config(dataset)
    config.backbone.weights = "timm/wide_resnet50_2.racm_in1k"  # timm's default, another training than torchvision's
    config.model.pretrain_dim = None
    config.model.target_dim = None
    config.model.coreset = "anomalib"
    config.model.distance = "plain"
    config.model.image_score = "reweighted"
    config.model.upsample = "nearest"
    config.model.border = "reflect"
    return config
