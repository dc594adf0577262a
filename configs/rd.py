"""RD (reverse distillation) as ADer's benchmark runs it (configs/benchmark/rd), which is what MIRAD compares.

python -m jaxad.main --config=configs/rd.py:magnetic_tile --workdir=runs/rd

Published, I-AUROC / AUPRO: MIRAD 79.8 / 87.7 (MIRAD, Table 4, one model a product: the best of its methods); MVTec AD
93.6 / 91.2 (ADer's benchmark, one model for all classes).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from configs import common


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
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
    config.model.loss = "flattened"  # one vector an image and scale; pixel (the paper's equations 1 and 2)
    config.model.fusion = "add"  # a ninth of the scales' sum; sum (official), mul: their product

    config.train = ConfigDict()
    config.train.epochs = 100
    config.train.batch_size = 16
    config.train.drop_last = True
    config.train.learning_rate = 5e-3  # Adam, betas 0.5 and 0.999
    config.train.decay_at = FieldReference(0.8)  # share of the steps with the full learning rate, a tenth after; None
    config.train.clip_norm = FieldReference(5.0)  # bottleneck and decoder together; None: never
    config.train.cache_features = True  # the teacher runs once an image; False: in every step
    return config
