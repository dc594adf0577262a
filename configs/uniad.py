"""UniAD as ADer's benchmark runs it (configs/benchmark/uniad, 256x256, 100 epochs), which is what MIRAD compares.

python -m jaxad.main --config=configs/uniad.py:elpv+magnetic_tile --config.dataset.manual_dir=RAW --workdir=runs/uniad

One model for all categories. 100 epochs are far from enough (MVTec AD: 92.5 after 100, 97.5 after 1000), so `epochs`
is the first thing to change. Published, I-AUROC / AUPRO: MIRAD 61.0 / 60.5 (MIRAD, Table 4); MVTec AD 92.5 / 89.3
after 100 epochs, 96.8 / 91.0 after 300 (ADer's benchmark).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference

from configs import common


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
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
    config.train.learning_rate_drop = 0.8  # after this share of the training a tenth of it
    config.train.weight_decay = 1e-4
    config.train.decay_biases = False  # and LayerNorm
    config.train.clip_norm = 5.0
    return config
