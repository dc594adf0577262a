"""What each factor of imaging heterogeneity alone does to a method's I-AUROC and AUPRO.

python -m jaxad.main --config=configs/benchmarks/heterogeneity.py:patchcore,lite --workdir=runs/heterogeneity
python -m jaxad.main --config=configs/benchmarks/heterogeneity.py:radl,lite/magnetic_tile --workdir=runs/corruptions

The argument is METHOD[,VARIANT...][/DATA[/CATEGORY]]: a config file, its variants, and the data set. On mirad_mini, the
default, the same scenes are photographed again with one factor varied, and nodes are held out of training; on any other
data set the test images are corrupted. --config.benchmark.only=factors leaves the nodes out.
"""

import importlib
from pathlib import Path

from ml_collections import ConfigDict

from jaxad.config import split_variant
from jaxad.errors import UserError, did_you_mean

METHODS = Path(__file__).parent.parent
GRAMMAR = "METHOD[,VARIANT...][/DATA[/CATEGORY]]"
FACTORS = ("view", "illumination", "resolution", "background", "motion", "noise")
NODES = range(1, 7)
SEVERITIES = (1, 3, 5)


def get_config(argument: str = "patchcore,lite") -> ConfigDict:
    chosen, _, dataset = argument.partition("/")
    method, *variants = chosen.split(",")
    known = [path.stem for path in METHODS.glob("*.py") if path.stem not in ("__init__", "common")]
    if method not in known:
        found = split_variant(METHODS / f"{method}.py")
        near = did_you_mean(method, known)
        if found:
            near = f" Did you mean {argument.replace(method, f'{found[0].stem},{found[1]}', 1)!r}?"
        raise UserError(f"{argument!r}: there is no configs/{method}.py; expected {GRAMMAR}.{near}")
    if "," in dataset:
        raise UserError(
            f"{argument!r}: {dataset!r} has a comma; expected {GRAMMAR}, with several categories joined by '+'"
        )
    name, slash, category = (dataset or "mirad_mini").partition("/")
    rendered = name == "mirad_mini"
    base = importlib.import_module(f"configs.{method}")
    config = base.get_config(",".join([("mirad_mini_factors" if rendered else name) + slash + category, *variants]))
    trained = config.protocol != "zero_shot"
    config.benchmark = ConfigDict()
    config.benchmark.title = f"Imaging heterogeneity: {chosen} on {dataset or name}"
    config.benchmark.only = ""  # names of figures, separated by commas; "" means all
    if rendered:
        config.benchmark.cells = (*_factors(trained), *(_nodes() if trained else ()))
        config.benchmark.figures = (FACTOR_FIGURE, NODE_FIGURE) if trained else (FACTOR_FIGURE,)
    else:
        config.benchmark.cells = tuple(_severities())
        config.benchmark.figures = (SEVERITY_FIGURE,)
    return config


FACTOR_FIGURE = {
    "name": "factors",
    "title": "One factor varied in the test images",
    "note": "The same products, defects and positions in every row, photographed again with one factor redrawn over "
    "the range of all nodes. Changes are against training and testing under the reference imaging.",
    "rows": "varied",
    "arms": "trained on",
}
NODE_FIGURE = {
    "name": "nodes",
    "title": "One node held out of training",
    "note": "Tested on the images of one node. Changes are against training on all six nodes, a fifth more images, and "
    "testing on the same ones.",
    "rows": "tested on",
    "arms": "trained on",
}
SEVERITY_FIGURE = {
    "name": "severity",
    "title": "One corruption of the test images",
    "note": "Trained on the images as they are. Changes are against the test images as they are.",
    "lines": "corruption",
    "x": "severity",
}


def _factors(trained: bool):
    arms = (("", "train", "reference imaging"), ("_after_mixed", "train_mixed", "all factors varied"))
    for suffix, split, imaging in arms if trained else arms[:1]:
        for factor in ("", *FACTORS, "mixed"):
            varied = {"": "nothing", "mixed": "all factors"}.get(factor, factor)
            yield {
                "name": (factor or "reference") + suffix,
                "figure": "factors",
                "labels": {"varied": varied, "trained on": imaging},
                "against": "reference",
                "set": {"dataset.train_split": split, "evaluation.split": f"test_{factor}" if factor else "test"},
            }


def _nodes():
    for node in NODES:
        for name, where, trained in (("all_nodes", "", "all nodes"), ("held_out", f"node!={node}", "the other nodes")):
            yield {
                "name": f"node_{node}_{name}",
                "figure": "nodes",
                "labels": {"tested on": f"node {node}", "trained on": trained},
                "against": f"node_{node}_all_nodes",
                "set": {"dataset.name": "mirad_mini", "dataset.where": where, "evaluation.where": f"node={node}"},
            }


def _severities():
    for factor, severity in (("", 0), *((factor, severity) for factor in FACTORS for severity in SEVERITIES)):
        yield {
            "name": f"{factor}_{severity}" if factor else "clean",
            "figure": "severity",
            "labels": {"corruption": factor or "none", "severity": severity},
            "against": "clean",
            "set": {"evaluation.corruptions": f"{factor}:{severity}" if factor else ""},
        }
