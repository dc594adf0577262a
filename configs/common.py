"""What all configs share: the argument after the colon, and the settings that no method knows about."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from jaxad.errors import UserError, did_you_mean

Variant = Callable[[ConfigDict], None]
GRAMMAR = "DATASET[/CATEGORY[+CATEGORY...]][,VARIANT...]"


def parse(argument: str, variants: Mapping[str, Variant]) -> tuple[str, list[Variant]]:
    """The data set and the variants that a config's argument asks for.

    Args:
      argument: as `GRAMMAR`: "magnetic_tile", "elpv+magnetic_tile,lite", "mvtec_ad/bottle+cable,official".
      variants: those of the config file, by name.

    Returns:
      The data set with its categories, for `base`, and the variants in the order given.

    Raises:
      UserError: no data set is named, or the file has no such variant.
    """
    dataset, *names = (part.strip() for part in argument.split(","))
    if not dataset or dataset in variants:
        raise UserError(f"{argument!r} begins with no data set; expected {GRAMMAR} after the config file's colon")
    for name in names:
        if name not in variants:
            known = f"expected one of {', '.join(variants)}" if variants else "this config has none"
            near = did_you_mean(name, variants)
            raise UserError(
                f"{argument!r}: there is no variant {name!r}; {known}.{near} Several categories are joined by '+'"
            )
    return dataset, [variants[name] for name in names]


def base(dataset: str) -> ConfigDict:
    """The settings around a method, for "elpv", "elpv+magnetic_tile", "elpv/mono" or "mvtec_ad/bottle+cable"."""
    name, _, category = dataset.partition("/")
    config = ConfigDict()
    config.seed = 42
    config.dtype = "float32"  # of the computation: float32 or bfloat16; parameters stay float32
    # of float32 products on GPU and TPU: highest (float32), high (TF32, bfloat16 x 3), default (the platform's fastest)
    config.precision = "highest"
    # one_class: one model per category; multi_class: one for all; zero_shot: one for all, trained on auxiliary data or
    # not at all
    config.protocol = "one_class"

    config.dataset = ConfigDict()
    config.dataset.name = name  # or several joined by "+"
    config.dataset.category = category.replace("+", ",") or "all"  # one, several separated by commas, or all
    config.dataset.train_split = "train"  # of the prepared data
    config.dataset.where = ""  # which of its images, by their factors: "node!=3,background=wood|paper"
    config.dataset.path = ""  # folder: where the photographs are
    config.dataset.manual_dir = ""  # other data sets: where the raw files are; of several, each in its own folder there
    config.dataset.data_dir = ""  # where prepared data goes; "" is $TFDS_DATA_DIR or ~/tensorflow_datasets

    config.input = ConfigDict()
    config.input.size = (256, 256)  # height and width of the network's input
    config.input.geometry = "stretch"  # stretch (ADer), pad (RADL), crop (official PatchCore, SimpleNet)
    config.input.resize = 256  # crop: length of the shorter side before the crop
    config.input.interpolation = "bilinear"
    config.input.antialias = True  # False: bilinear without antialias, as OpenCV resizes (DRAEM, DeSTSeg)
    config.input.mask_interpolation = "nearest"  # or bilinear, as in ADer's evaluation
    config.input.cache_gib = 4.0  # decoded images kept in memory
    config.input.threads = 0  # that read and decode images; 0: as many as this process has cores for its devices

    config.auxiliary = ConfigDict()  # another data set, with masks, that a zero-shot method is trained on
    config.auxiliary.name = ""  # or several joined by "+"
    config.auxiliary.category = "all"
    config.auxiliary.split = "test"
    config.auxiliary.holdout = 0.0  # share kept out of training for methods that watch their progress
    config.auxiliary.path = ""
    config.auxiliary.manual_dir = ""
    config.auxiliary.data_dir = ""

    config.threshold = ConfigDict()
    config.threshold.holdout = 0.1  # share of the normal training images kept out of training to set the threshold
    config.threshold.false_alarm_rate = 0.05  # share of normal images that may be called anomalous

    config.evaluation = ConfigDict()
    config.evaluation.batch_size = 16
    config.evaluation.metrics = "exact"  # or ader: the approximations behind MIRAD's tables
    config.evaluation.split = "test"  # of the prepared data
    config.evaluation.where = ""  # which of its images, "node=3"
    config.evaluation.corruptions = ""  # of the test images, "motion:3+noise:1": jaxad/data/corruptions.py
    config.evaluation.name = ""  # results go to WORKDIR/evaluations/NAME; "" is WORKDIR for the plain test split
    config.evaluation.every_epochs = 0  # 0: at the end only
    config.evaluation.published = ""  # table of published results to show beside ours, "mirad_table4:patchcore"

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


def textures() -> ConfigDict:
    """`config.textures` of the methods that train on synthetic defects; see `jaxad.synthesis.textures`."""
    config = ConfigDict()
    config.name = "auto"  # dtd, procedural, or auto: DTD where it is prepared or in dataset.manual_dir, else procedural
    config.number = 5640  # how many procedural ones; DTD has as many
    config.seed = 0  # of the procedural ones
    return config


def as_in_mirad(config: ConfigDict, method: str) -> None:
    """On the data set mirad, follows its paper: no holdout, ADer's metrics, results beside row `method` of Table 4."""
    if config.dataset.name == "mirad":
        config.threshold.holdout = 0.0
        config.evaluation.metrics = "ader"
        config.evaluation.published = f"mirad_table4:{method}"
