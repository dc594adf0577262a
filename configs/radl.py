"""RADL, setting C of its Table 1 (HCELoss and FDFA).

python -m jaxad.main --config=configs/radl.py:magnetic_tile --workdir=runs/radl
Setting A: --config.model.loss=hinge --config.model.noise=fixed; setting B: --config.model.noise=fixed.

Published, MVTec AD, I-AUROC / P-AUROC / AUPRO (RADL, Table 1): A 99.50 / 97.75 / 90.97, B 99.51 / 97.82 / 91.47,
C 99.53 / 97.85 / 91.60. "Ours" marks what the paper leaves open.
"""

from ml_collections import ConfigDict

from configs import simplenet


def get_config(dataset: str = "magnetic_tile") -> ConfigDict:
    config = simplenet.get_config(dataset)
    config.method = "radl"
    config.input.geometry = "pad"  # section III: padding in place of the crop; stretch, crop
    config.input.mask_interpolation = "nearest"

    config.model.adaptor = False  # ours: not in the equations; True as in SimpleNet's code
    config.model.loss = "hce"  # hinge
    config.model.tau = 0.5  # the best of Table 2
    config.model.noise = "fdfa"  # fixed: model.sigma
    config.model.sigma_low = 0.005  # ours: a range around SimpleNet's 0.015
    config.model.sigma_high = 0.025
    config.model.sigma_per = "patch"  # ours, eq. 4 is of one patch; image, batch
    config.model.score = "logit"  # prob: 1 - sigmoid(D / tau)
    config.model.image_score = "patch_max"

    config.train.epochs = 40
    config.train.batch_size = 8
    config.train.drop_last = False
    config.train.decay_biases = True  # Adam, learning rate 2e-4, decay 1e-5: as SimpleNet's
    config.train.clip_norm = None
    return config
