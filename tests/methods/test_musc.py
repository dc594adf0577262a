"""MuSc against the official code, and its run over whole sets of images."""

import re
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad import sharding
from jaxad.backbones.clip import VisionConfig, VisionTower
from jaxad.data.geometry import Geometry
from jaxad.methods.musc import MuSc
from jaxad.nn.mutual_scoring import aggregate, deal, image_layer_norm, mutual_scores, nearest_distances, rescore
from tests.golden.load import Case, cases, load
from tests.methods.golden import check_all, nhwc

TOWER = VisionConfig(
    width=64, layers=12, heads=2, mlp_width=256, embed_dim=32, patch_size=14, image_size=70, activation="gelu"
)


@dataclass(frozen=True)
class FedMuSc(MuSc):
    """MuSc that finds features in the batch."""

    def features(self, variables, batch):
        return batch["tokens"], batch["class_feature"]


def one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def grids(tokens):
    side = round(tokens.shape[1] ** 0.5)
    return np.asarray(tokens, np.float32).reshape(len(tokens), side, side, -1)


def set_of(method: MuSc, batches: list[dict], variables=None):
    """(maps, scores) of a whole set."""
    found = list(method.predict_all({} if variables is None else variables, batches))
    assert [len(p.score) for p in found] == [len(b["image"]) for b in batches]
    return np.concatenate([p.map for p in found]), np.concatenate([p.score for p in found])


def in_batches(columns: dict, size: int) -> list[dict]:
    count = len(columns["image"])
    return [jax.tree.map(lambda x: jnp.asarray(x[i : i + size]), columns) for i in range(0, count, size)]  # noqa: B023


def fed(case: Case, **changes) -> FedMuSc:
    s = case.settings
    tower = replace(TOWER, patch_size=s["image_size"] // s["grid"], width=s["C"])
    return FedMuSc(
        tower,
        "random",
        feature_layers=tuple(range(s["layers"])),
        r_list=tuple(s["r_list"]),
        interval=(s["topmin_min"], s["topmin_max"]),
        rscin_k=tuple(s["rscin_k"]),
        divide_num=s["divide_num"],
        seed=s["seed"],
        **changes,
    )


@pytest.mark.parametrize("path", cases("musc", "features"))
def test_scores_of_given_features_equal_the_reference(path):
    case = load(path)
    s, method = case.settings, fed(case)
    layers = [case.inputs[f"tokens_{i}"][:, 1:] for i in range(s["layers"])]
    types = np.array([list(dict.fromkeys(s["image_types"])).index(t) for t in s["image_types"]])
    columns = {
        "image": np.zeros((s["N"], s["image_size"], s["image_size"], 3), np.float32),
        "tokens": layers,
        "class_feature": case.inputs["cls"],
        "defect": types,
        "weight": np.ones(s["N"], np.float32),
    }
    batches = in_batches(columns, s["batch_size"])
    maps, scores = set_of(method, batches)
    _, raw = set_of(replace(method, rscin_k=(0,)), batches)
    found = deal(types, s["divide_num"], s["seed"])
    order = np.concatenate(found)
    got = {
        "order": order,
        "subset_sizes": [len(part) for part in found],
        "map": maps[order],
        "image_score_raw": raw[order],
        "image_score": scores[order],
    }
    normed = [np.asarray(image_layer_norm(jnp.asarray(grids(layer)))) for layer in layers]
    for r in s["r_list"]:
        pooled = [aggregate(jnp.asarray(layer[found[0][:2]]), r) for layer in normed]
        got[f"lnamd/r{r}"] = np.stack(pooled).reshape(s["layers"], 2, -1, s["C"])
    for t, part in enumerate(found):
        by_layer = [mutual_scores(layer[part], method.r_list, method.interval, one_device()) for layer in normed]
        got[f"msm/subset{t}"] = np.stack(by_layer, 1)
    for key in case.expected:
        if key.startswith("rscin/"):
            k_list = [int(k) for k in key.removeprefix("rscin/").split("_")]
            got[key] = rescore(case.expected["image_score_raw"], case.inputs["cls"][order], k_list)
    check_all(case, got)


@pytest.mark.parametrize("path", cases("musc", "interval_average"))
def test_interval_of_the_sorted_distances_equals_the_reference(path):
    case = load(path)
    tokens = case.inputs["tokens_0"]
    unit = grids(tokens / np.linalg.norm(tokens, axis=-1, keepdims=True))
    got = {
        "min_dist_0": next(nearest_distances(unit, (1,), one_device()))[:, 0].T,
        "features0": aggregate(jnp.asarray(unit), 1)[0].reshape(-1, unit.shape[-1]),
    }
    for low, high in case.settings["intervals"]:
        scores = mutual_scores(unit, (1,), (low, high), one_device())[0]
        got[f"msm_{low:g}_{high:g}"] = scores
    check_all(case, got)


@pytest.mark.parametrize("path", cases("musc", "subset_division"))
def test_subsets_equal_the_reference(path):
    case = load(path)
    types = np.repeat(np.arange(len(case.settings["types"])), [count for _, count in case.settings["types"]])
    for key in case.expected:
        seed, count, part = map(int, re.findall(r"\d+", key))
        case.check(key, deal(types, count, seed)[part])


@pytest.mark.parametrize("path", cases("musc", "pos_embed_resize"))
def test_resized_positions_equal_the_reference(path):
    case = load(path)
    s, table = case.settings, case.inputs["pos_embed"]
    assert s["mode"] == MuSc(TOWER, "random").tower.position_resize
    tower = VisionTower(replace(TOWER, width=s["C"], image_size=s["old_grid"] * TOWER.patch_size))
    embeddings = {"position_embedding": {"embedding": table}, "class_embedding": np.zeros(s["C"], np.float32)}
    variables = {"params": {"vision_model": {"embeddings": embeddings}}}
    check_all(case, {"pos_embed": tower.apply(variables, s["new_grid"], s["new_grid"], method="positions")})


@pytest.mark.parametrize("path", cases("musc", "preprocess"))
def test_preprocessing_equals_the_reference(path):
    case = load(path)
    mean, std = MuSc(TOWER, "random").normalization
    got = {}
    for size in case.settings["sizes"]:
        image, _ = Geometry(size=(size, size), interpolation="bicubic").apply(case.inputs["image_uint8"])
        got[f"size{size}"] = ((image / 255 - np.array(mean)) / np.array(std)).transpose(2, 0, 1)
    check_all(case, got)


@pytest.mark.parametrize("path", cases("musc", "clip"))
def test_images_to_scores_equal_the_reference(path):
    case = load(path)
    s, quick = case.settings, "quick" in case.settings["activation"]
    grid = round((case.state_dict["positional_embedding"].shape[0] - 1) ** 0.5)
    tower = VisionConfig(
        width=s["width"],
        layers=s["layers"],
        heads=s["heads"],
        mlp_width=s["mlp_ratio"] * s["width"],
        embed_dim=s["embed_dim"],
        patch_size=s["patch"],
        image_size=grid * s["patch"],
        activation="quick_gelu" if quick else "gelu",
        epsilon=s["layer_norm_eps"],
    )
    layers, r_list = tuple(s["feature_layers"]), tuple(s["r_list"])
    method = MuSc(tower, "random", feature_layers=layers, r_list=r_list, rscin_k=tuple(s["rscin_k"]))
    variables = method.from_torch(case.state_dict)
    image = nhwc(case.inputs["images"])
    apply = jax.jit(lambda weights, x: VisionTower(tower).apply(weights, x, layers))
    found = apply({"params": variables["params"]["backbone"]}, image)
    maps, scores = set_of(method, in_batches({"image": image}, 3), variables)
    normed, features = jax.jit(method.encode)(variables, {"image": image})
    by_layer = [mutual_scores(np.asarray(x), method.r_list, method.interval, one_device()) for x in normed]
    unit = features / jnp.linalg.norm(features, axis=1, keepdims=True)
    got = {
        "cls": features,
        "cls_similarity": unit @ unit.T,
        "map": maps,
        "image_score": scores,
        "image_score_raw": set_of(replace(method, rscin_k=(0,)), [{"image": image}], variables)[1],
        "msm": np.stack(by_layer, 1),
    }
    check_all(case, got | {f"tokens/block{i}": found["tokens"][i] for i in layers})
