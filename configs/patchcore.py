"""PatchCore as ADer's benchmark runs it (configs/benchmark/patchcore), which is what MIRAD compares.

python -m jaxad.main --config=configs/patchcore.py:magnetic_tile --workdir=runs/patchcore
python -m jaxad.main --config=configs/patchcore.py:folder --config.dataset.path=PHOTOS --workdir=runs/mine

The weights come from the Hugging Face hub once; configs/patchcore_lite.py needs no hub and less arithmetic.
Published, I-AUROC / AUPRO: MIRAD 71.1 / 74.4 (MIRAD, Table 4, one model a product); MVTec AD 98.8 / 94.2 (ADer's
benchmark).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from configs import common


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = common.base(dataset)
    common.as_in_mirad(config, "patchcore")
    config.method = "patchcore"
    config.input.mask_interpolation = "bilinear"  # ADer

    config.backbone = ConfigDict()
    config.backbone.name = "wide_resnet50_2"
    config.backbone.weights = "timm/wide_resnet50_2.tv_in1k"  # torchvision's V1; or a .safetensors or .pth file
    config.backbone.taps = ("layer2", "layer3")  # strides 8 and 16

    config.model = ConfigDict()
    config.model.pretrain_dim = FieldReference(1024)  # None, as target_dim: the taps are concatenated
    config.model.target_dim = FieldReference(1024)
    config.model.coreset = "approximate"  # greedy (exact), anomalib, random, identity
    config.model.coreset_ratio = 0.1  # of all training patches; the paper has 0.25, 0.1 and 0.01
    config.model.projection_dim = FieldReference(128)  # of the rows, for the selection; None: as they are
    config.model.starts = 10  # random rows that the approximate selection starts from
    config.model.neighbours = 1  # the paper's search for the nearest row; more: their mean distance
    config.model.distance = "squared"  # plain: the root, as the paper writes and anomalib does
    config.model.image_score = "map_max"  # patch_max (official), reweighted (the paper's eq. 7)
    config.model.reweight_neighbours = 9  # b of eq. 7 (anomalib)
    config.model.upsample = "bilinear"  # nearest (anomalib)
    config.model.border = "symmetric"  # of the Gaussian, sigma 4: symmetric (scipy), reflect (anomalib)
    return config
