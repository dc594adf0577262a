"""What every config shares: the data set named after the colon, and the settings that no method knows of."""

from ml_collections import ConfigDict


def base(dataset: str) -> ConfigDict:
    """The settings around a method; `dataset` is "name" or "name/category" ("elpv/mono", "elpv+magnetic_tile")."""
    name, _, category = dataset.partition("/")
    config = ConfigDict()
    config.seed = 42
    config.dtype = "float32"  # of the backbone: float32 or bfloat16
    config.protocol = "one_class"  # a model a category; multi_class: one for all; zero_shot: no training image

    config.dataset = ConfigDict()
    config.dataset.name = name  # or several joined by "+"
    config.dataset.category = category or "all"  # one, several separated by commas, or all
    config.dataset.train_split = "train"  # of the prepared data
    config.dataset.where = ""  # which of its images, by their factors: "node!=3,background=wood|paper"
    config.dataset.path = ""  # folder: where the photographs are
    config.dataset.manual_dir = ""  # other data sets: where the raw files are, of several each in a folder of it
    config.dataset.data_dir = ""  # where prepared data goes; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets

    config.input = ConfigDict()
    config.input.size = (256, 256)  # height, width of what the network sees
    config.input.geometry = "stretch"  # stretch (ADer), pad (RADL), crop (official PatchCore, SimpleNet)
    config.input.resize = 256  # crop: length of the shorter side before the crop
    config.input.interpolation = "bilinear"
    config.input.mask_interpolation = "nearest"  # or bilinear, as ADer's evaluation
    config.input.cache_gib = 4.0  # decoded images kept in memory

    config.auxiliary = ConfigDict()  # another data set, with masks, that a zero-shot method is trained on
    config.auxiliary.name = ""  # or several joined by "+"
    config.auxiliary.category = "all"
    config.auxiliary.split = "test"
    config.auxiliary.path = ""
    config.auxiliary.manual_dir = ""
    config.auxiliary.data_dir = ""

    config.threshold = ConfigDict()
    config.threshold.holdout = 0.1  # share of the normal training images kept out of training to set the threshold
    config.threshold.false_alarm_rate = 0.05  # of normal images

    config.evaluation = ConfigDict()
    config.evaluation.batch_size = 16
    config.evaluation.metrics = "exact"  # or ader: the approximations behind MIRAD's tables
    config.evaluation.split = "test"  # of the prepared data
    config.evaluation.where = ""  # which of its images, "node=3"
    config.evaluation.corruptions = ""  # of the test images, "motion:3+noise:1": jaxad/data/corruptions.py
    config.evaluation.name = ""  # results go to WORKDIR/evaluations/NAME; "" is WORKDIR for the plain test split
    config.evaluation.every_epochs = 0  # 0: at the end only
    config.evaluation.published = ""  # table of the published results to set beside, "mirad_table4:patchcore"

    config.features = ConfigDict()
    config.features.memory_gib = 6.0  # cached features kept in memory; beyond that on disk
    config.features.disk_gib = 100.0

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 500
    config.checkpoint.keep_last = 2
    config.checkpoint.keep_best = ""  # a metric's name; needs evaluation.every_epochs

    config.log = ConfigDict()
    config.log.every_steps = 20

    config.mesh = ConfigDict()
    config.mesh.model = 1  # devices that share one copy of the parameters; the rest of the devices share the batch
    return config


def as_in_mirad(config: ConfigDict, method: str) -> None:
    """On MIRAD's products: every training image is trained on, ADer's metrics, beside the row `method` of Table 4."""
    if config.dataset.name == "mirad":
        config.threshold.holdout = 0.0
        config.evaluation.metrics = "ader"
        config.evaluation.published = f"mirad_table4:{method}"
