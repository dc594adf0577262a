"""SimpleNet, by default as ADer's benchmark runs it (configs/benchmark/simplenet), which is what MIRAD compares.

python -m jaxad.main --config=configs/simplenet.py:magnetic_tile --workdir=runs/simplenet
python -m jaxad.main --config=configs/simplenet.py:folder,official --config.dataset.path=PHOTOS --workdir=runs/official

Variants: official (its authors' code).
Published, I-AUROC / AUPRO: MIRAD 79.5 / 68.8 (MIRAD, Table 4, one model per product); MVTec AD 95.4 / 86.9 (ADer's
benchmark, one model for all classes).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from configs import common


def get_config(argument: str = "magnetic_tile") -> ConfigDict:
    dataset, variants = common.parse(argument, VARIANTS)
    config = common.base(dataset)
    common.as_in_mirad(config, "simplenet")
    config.method = "simplenet"
    config.input.mask_interpolation = "bilinear"  # ADer

    config.backbone = ConfigDict()
    config.backbone.name = "wide_resnet50_2"
    config.backbone.weights = "timm/wide_resnet50_2.tv_in1k"  # torchvision's V1; or a .safetensors or .pth file
    config.backbone.taps = ("layer2", "layer3")  # strides 8 and 16

    config.model = ConfigDict()
    config.model.pretrain_dim = FieldReference(1536)  # None, together with target_dim: the taps are concatenated
    config.model.target_dim = FieldReference(1536)
    config.model.adaptor = True
    config.model.margin = 0.5  # of the hinge loss
    config.model.sigma = 0.015  # of the feature noise
    config.model.image_score = "map_max"  # patch_max (official)

    config.train = ConfigDict()
    config.train.epochs = 100
    config.train.batch_size = 32
    config.train.drop_last = True
    config.train.adaptor_learning_rate = 1e-4  # AdamW
    config.train.adaptor_decay = 0.01
    config.train.discriminator_learning_rate = 2e-4  # Adam; ADer's schedule is tied to an optimizer that never steps
    config.train.discriminator_decay = 1e-5  # L2 in the gradient
    config.train.decay_biases = False  # and BatchNorm
    config.train.clip_norm = FieldReference(5.0)  # adaptor and discriminator each; None: never
    config.train.cancelled_biases = False  # True: train the biases that BatchNorm cancels; only noise moves them
    for change in variants:
        change(config)
    return config


def official(config: ConfigDict) -> None:
    """As its authors' code runs it (DonaldRR/SimpleNet, run.sh): cropped, scored by patches, no clipping.

    Published, MVTec AD, I-AUROC / P-AUROC: 99.6 / 98.1 (the paper; the best epoch on the test set, here the last).
    """
    config.input.geometry = "crop"
    config.input.resize = 329
    config.input.size = (288, 288)
    config.model.image_score = "patch_max"
    config.train.epochs = 160  # 40 meta epochs of 4
    config.train.batch_size = 8
    config.train.drop_last = False
    config.train.decay_biases = True
    config.train.clip_norm = None


VARIANTS = {"official": official}
