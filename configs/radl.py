"""RADL, setting C of its Table 1 (HCELoss and FDFA).

python -m jaxad.main --config=configs/radl.py:magnetic_tile --workdir=runs/radl
Setting A: --config.model.loss=hinge --config.model.noise=fixed; setting B: --config.model.noise=fixed.

Published, MVTec AD, I-AUROC / P-AUROC / AUPRO (RADL, Table 1): A 99.50 / 97.75 / 90.97, B 99.51 / 97.82 / 91.47,
C 99.53 / 97.85 / 91.60. "Ours" marks what the paper leaves open.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from configs import common


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = common.base(dataset)
    config.method = "radl"
    config.input.geometry = "pad"  # section III: padding in place of the crop; stretch, crop

    config.backbone = ConfigDict()
    config.backbone.name = "wide_resnet50_2"
    config.backbone.weights = "timm/wide_resnet50_2.tv_in1k"  # torchvision's V1; or a .safetensors or .pth file
    config.backbone.taps = ("layer2", "layer3")  # strides 8 and 16

    config.model = ConfigDict()
    config.model.pretrain_dim = FieldReference(1536)  # None, as target_dim: the taps are concatenated
    config.model.target_dim = FieldReference(1536)
    config.model.adaptor = False  # ours: not in the equations; True as in SimpleNet's code
    config.model.loss = "hce"  # hinge
    config.model.tau = 0.5  # the best of Table 2
    config.model.margin = 0.5  # of the hinge loss
    config.model.noise = "fdfa"  # fixed: model.sigma
    config.model.sigma = 0.015
    config.model.sigma_low = 0.005  # ours: a range around SimpleNet's 0.015
    config.model.sigma_high = 0.025
    config.model.sigma_per = "patch"  # ours, eq. 4 is of one patch; image, batch
    config.model.score = "logit"  # prob: 1 - sigmoid(D / tau)
    config.model.image_score = "patch_max"  # map_max

    config.train = ConfigDict()
    config.train.epochs = 40
    config.train.batch_size = 8
    config.train.drop_last = False
    config.train.adaptor_learning_rate = 1e-4  # AdamW, with model.adaptor
    config.train.adaptor_decay = 0.01
    config.train.discriminator_learning_rate = 2e-4  # Adam
    config.train.discriminator_decay = 1e-5  # L2 in the gradient
    config.train.decay_biases = True  # and BatchNorm
    config.train.clip_norm = placeholder(float)  # None: never
    config.train.cancelled_biases = False  # train biases that BatchNorm cancels: only noise moves them
    return config
