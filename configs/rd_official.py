"""RD as its authors' code runs it (hq-deng/RD4AD): a wider embedding, torchvision's teacher, no clipping, no decay.

python -m jaxad.main --config=configs/rd_official.py:folder --config.dataset.path=PHOTOS --workdir=runs/official

Published, MVTec AD, I-AUROC / P-AUROC / AUPRO: 98.5 / 97.8 / 93.9 (the paper, one model a class).
"""

from ml_collections import ConfigDict

from configs import rd


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = rd.get_config(dataset)
    config.backbone.weights = "timm/wide_resnet50_2.tv_in1k"  # torchvision's V1
    config.model.wide_embedding = True
    config.model.fusion = "sum"
    config.train.epochs = 200
    config.train.drop_last = False
    config.train.decay_at = None
    config.train.clip_norm = None
    return config
