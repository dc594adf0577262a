"""MuSc as its authors run it: zero-shot, the test images of a category score each other.

python -m jaxad.main --config=configs/musc.py:magnetic_tile --workdir=runs/musc
python -m jaxad.main --config=configs/musc.py:folder --config.dataset.path=PHOTOS --workdir=runs/mine

Nothing is trained, and there is no threshold: no image is known to be normal. `--mode=predict --images=NEW_PHOTOS`
scores the given photographs (at least five) against each other. Time grows with the square of their number.
Published, I-AUROC / AUPRO: MIRAD 64.2 / 79.3 (MIRAD, Table 5); MVTec AD 97.8 / 93.5, VisA 92.6 / 92.4 (official code).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "magnetic_tile") -> ConfigDict:
    dataset, _ = common.parse(argument, {})
    config = common.base(dataset)
    common.as_in_mirad(config, "musc")
    if config.dataset.name == "mirad":
        config.evaluation.published = "mirad_table5:musc"
    config.method = "musc"
    config.protocol = "zero_shot"
    config.input.size = (518, 518)  # 37 x 37 patches
    config.input.interpolation = "bicubic"
    config.evaluation.batch_size = 4  # of CLIP; results do not depend on it

    config.backbone = ConfigDict()
    config.backbone.name = "clip_vit_l14_336"
    config.backbone.weights = "openai/clip-vit-large-patch14-336"
    config.backbone.taps = ("block5", "block11", "block17", "block23")  # patch tokens after these blocks, from 0
    # gelu, quick_gelu; auto: quick_gelu at the size that CLIP was trained at, else gelu, as the official code loads it
    config.backbone.activation = "auto"

    config.model = ConfigDict()
    config.model.r_list = (1, 3, 5)  # sides of LNAMD's neighbourhoods
    config.model.interval = (0.0, 0.3)  # of the sorted distances to the other images; 1 and more are numbers of images
    config.model.rscin_k = (1, 8, 9) if config.dataset.name == "visa" else (1, 2, 3)  # (0,): no re-scoring
    config.model.divide_num = 1  # subsets scored separately; more take less time
    config.model.stratify = True  # subsets get equal shares of the defect types, which are labels (official code)
    config.model.precision = "highest"  # float32; fast: bfloat16 products for accelerators, some 0.4 % off
    return config
