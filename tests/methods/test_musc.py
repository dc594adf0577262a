"""MuSc against the official code, and its scoring of whole sets of images."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

import jaxad
from configs import musc as config_musc
from jaxad import sharding
from jaxad.backbones import architecture
from jaxad.backbones.clip.towers import VisionConfig, VisionTower
from jaxad.backbones.frozen import FrozenBackbone
from jaxad.data.geometry import Geometry
from jaxad.errors import UserError
from jaxad.methods import musc
from jaxad.methods.musc import MuSc
from jaxad.nn.mutual_scoring import aggregate, deal, image_layer_norm, mutual_scores, nearest_distances, rescore
from tests import runs
from tests.golden.load import Case, cases, load
from tests.methods.golden import check_all, make, nhwc

CONFIG = config_musc.get_config()


@dataclass(frozen=True)
class FedMuSc(MuSc):
    """MuSc that finds the patch tokens and the class features in the batch."""

    def encode(self, variables, batch):
        return [image_layer_norm(tokens) for tokens in batch["tokens"]], batch["class_feature"]


def one_device() -> Mesh:
    return sharding.make_mesh(devices=jax.devices()[:1])


@dataclass(frozen=True)
class Given:
    """Batches of one category that are in memory already."""

    batches: list[dict]
    mesh: Mesh

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def set_of(method: MuSc, batches: list[dict], variables=None, mesh: Mesh | None = None):
    """(maps, scores) of a whole set."""
    found = list(method.predict_all(variables or {}, Given(batches, mesh or one_device())))
    assert [len(p.score) for p in found] == [len(b["image"]) for b in batches]
    return np.concatenate([p.map for p in found]), np.concatenate([p.score for p in found])


def in_batches(columns: dict, size: int) -> list[dict]:
    count = len(columns["image"])
    columns = {"weight": np.ones(count, np.float32), **columns}
    return [jax.tree.map(lambda x: jnp.asarray(x[i : i + size]), columns) for i in range(0, count, size)]  # noqa: B023


def grids(tokens):
    side = round(tokens.shape[1] ** 0.5)
    return np.asarray(tokens, np.float32).reshape(len(tokens), side, side, -1)


def tower(*taps: int, **options) -> FrozenBackbone:
    """A tower with random weights, tapped after these blocks."""
    named = (*(f"block{i}" for i in taps), "class_feature")
    return FrozenBackbone("clip_vit_nano14", "random", named, options=tuple(sorted(options.items())))


def fed(case: Case) -> FedMuSc:
    s = case.settings
    return make(
        CONFIG,
        FedMuSc,
        backbone=tower(*range(s["layers"])),
        r_list=tuple(s["r_list"]),
        interval=(s["topmin_min"], s["topmin_max"]),
        rscin_k=tuple(s["rscin_k"]),
        divide_num=s["divide_num"],
        seed=s["seed"],
    )


@pytest.mark.parametrize("path", cases("musc", "features"))
def test_scores_of_given_features_equal_the_reference(path):
    case = load(path)
    s, method = case.settings, fed(case)
    layers = [grids(case.inputs[f"tokens_{i}"][:, 1:]) for i in range(s["layers"])]
    types = np.array([list(dict.fromkeys(s["image_types"])).index(t) for t in s["image_types"]])
    columns = {
        "image": np.zeros((s["N"], s["image_size"], s["image_size"], 3), np.float32),
        "tokens": layers,
        "class_feature": case.inputs["cls"],
        "defect": types,
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
    normed = [np.asarray(image_layer_norm(jnp.asarray(layer))) for layer in layers]
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


@pytest.mark.parametrize("group", [1, 3, 7])
def test_groups_bound_what_waits_and_change_no_distance(group):
    tokens = np.random.default_rng(3).normal(size=(8, 4, 4, 6)).astype(np.float32)
    tokens = np.asarray(image_layer_norm(jnp.asarray(tokens)))
    whole = list(nearest_distances(tokens, (1, 3), one_device()))
    grouped = list(nearest_distances(tokens, (1, 3), one_device(), group=group))
    for one, other in zip(whole, grouped, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-6)


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
    backbone = musc.create(CONFIG, ("parts",)).backbone
    config = architecture(backbone.name, dict(backbone.options))
    assert s["mode"] == config.position_resize
    resized = VisionTower(replace(config, width=s["C"], image_size=s["old_grid"] * config.patch_size))
    embeddings = {"position_embedding": {"embedding": table}, "class_embedding": np.zeros(s["C"], np.float32)}
    variables = {"params": {"vision_model": {"embeddings": embeddings}}}
    check_all(case, {"pos_embed": resized.apply(variables, s["new_grid"], s["new_grid"], method="positions")})


@pytest.mark.parametrize("path", cases("musc", "preprocess"))
def test_preprocessing_equals_the_reference(path):
    case = load(path)
    mean, std = musc.create(CONFIG, ("parts",)).normalization
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
    layers = tuple(s["feature_layers"])
    backbone = tower(
        *layers,
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
    method = make(CONFIG, MuSc, backbone=backbone, r_list=tuple(s["r_list"]), rscin_k=tuple(s["rscin_k"]))
    variables = method.from_torch(case.state_dict)
    image = nhwc(case.inputs["images"])
    plain = VisionTower(VisionConfig(**dict(backbone.options)))
    apply = jax.jit(lambda weights, x: plain.apply(weights, x, layers))
    found = apply({"params": variables["params"]["backbone"]}, image)
    batches = in_batches({"image": image}, 3)
    maps, scores = set_of(method, batches, variables)
    normed, features = jax.jit(method.encode)(variables, {"image": image})
    by_layer = [mutual_scores(np.asarray(x), method.r_list, method.interval, one_device()) for x in normed]
    unit = features / jnp.linalg.norm(features, axis=1, keepdims=True)
    got = {
        "cls": features,
        "cls_similarity": unit @ unit.T,
        "map": maps,
        "image_score": scores,
        "image_score_raw": set_of(replace(method, rscin_k=(0,)), batches, variables)[1],
        "msm": np.stack(by_layer, 1),
    }
    check_all(case, got | {f"tokens/block{i}": found["tokens"][i] for i in layers})


def made(count=10, side=4, width=24, seed=0, odd=()):
    """Tokens of images that are alike, with one strange patch in those of `odd`."""
    draw = np.random.default_rng(seed)
    tokens = draw.normal(size=(1, side, side, width)) + 0.3 * draw.normal(size=(count, side, side, width))
    tokens[list(odd), 1, 2] = 2 * draw.normal(size=(len(odd), width))
    return tokens.astype(np.float32)


def small(**changes) -> FedMuSc:
    return make(CONFIG, FedMuSc, **{"backbone": tower(0), "r_list": (1, 3), **changes})


def batches_of(tokens, size=4, **more):
    count = len(tokens)
    columns = {
        "image": np.zeros((count, 8 * tokens.shape[1], 8 * tokens.shape[2], 3), np.float32),
        "tokens": [tokens],
        "class_feature": np.random.default_rng(1).uniform(0.5, 1, (count, 6)).astype(np.float32),
    }
    return in_batches(columns | more, size)


def direct_scores(tokens, r, interval=(0, 0.3)):
    """The definition, in float64: pooled patch by pooled patch, distance by distance."""
    n, h, w, c = tokens.shape
    x = tokens.astype(np.float64)
    padded = np.pad(x, ((0, 0), (r // 2,) * 2, (r // 2,) * 2, (0, 0)))
    pooled = sum(padded[:, i : i + h, j : j + w] for i in range(r) for j in range(r)).reshape(n, h * w, c)
    pooled /= np.linalg.norm(pooled, axis=-1, keepdims=True)
    scores = np.empty((n, h * w))
    for i in range(n):
        others = [np.linalg.norm(pooled[i][:, None] - pooled[j], axis=-1).min(1) for j in range(n) if j != i]
        scores[i] = np.sort(others, axis=0)[int((n - 1) * interval[0]) : int((n - 1) * interval[1])].mean(0)
    return scores


@pytest.mark.parametrize("shape", [(5, 4), (3, 7)])
def test_one_product_for_all_neighbourhoods_equals_the_definition(shape):
    tokens = np.random.default_rng(3).normal(size=(8, *shape, 16)).astype(np.float32)
    got = mutual_scores(tokens, (1, 3, 5), (0.1, 0.6), one_device())
    for r, scores in zip((1, 3, 5), got, strict=True):
        np.testing.assert_allclose(scores, direct_scores(tokens, r, (0.1, 0.6)), rtol=2e-6)


def test_fast_products_stay_near_the_exact_ones():
    tokens = made(9, width=512)
    exact, fast = (mutual_scores(tokens, (1, 3), (0, 0.3), one_device(), p) for p in ("highest", "fast"))
    assert 1e-6 < np.abs(fast / exact - 1).max() < 0.01


def test_strange_patches_score_highest_in_map_and_image():
    maps, scores = set_of(small(rscin_k=(0,)), batches_of(made(odd=(2, 7))))
    assert set(np.argsort(scores)[-2:]) == {2, 7}
    row, column = np.unravel_index(maps[2].argmax(), maps[2].shape)
    assert abs(row / 31 * 3 - 1) < 0.6
    assert abs(column / 31 * 3 - 2) < 0.6


def test_filling_and_unreadable_images_take_no_part():
    tokens = made(9, odd=(4,))
    alone = set_of(small(), batches_of(tokens))
    keep = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9])
    more = np.full((12, *tokens.shape[1:]), np.nan, np.float32)
    more[keep] = tokens
    weight = np.isin(np.arange(12), keep).astype(np.float32)
    filled = batches_of(more, weight=weight)
    features = np.full((12, 6), np.nan, np.float32)
    features[keep] = np.concatenate([batch["class_feature"] for batch in batches_of(tokens)])
    for batch, part in zip(filled, np.split(features, 3), strict=True):
        batch["class_feature"] = jnp.asarray(part)
    maps, scores = set_of(small(), filled)
    np.testing.assert_allclose(maps[keep], alone[0], rtol=1e-5)
    np.testing.assert_allclose(scores[keep], alone[1], rtol=1e-5, atol=1e-6)
    assert not maps[[3, 10, 11]].any()


def test_subsets_without_labels_are_those_of_one_type():
    types = np.repeat([0, 1, 2], [9, 6, 5])
    tokens = made(20)
    blind = set_of(small(divide_num=2, stratify=False), batches_of(tokens, defect=types))
    one_type = set_of(small(divide_num=2), batches_of(tokens))
    np.testing.assert_array_equal(blind[1], one_type[1])
    assert np.any(blind[0] != set_of(small(divide_num=2), batches_of(tokens, defect=types))[0])


def test_equal_scores_stay_equal_numbers():
    features = np.random.default_rng(0).uniform(size=(6, 4))
    np.testing.assert_array_equal(rescore(np.full(6, 0.4), features, (1, 2, 3)), np.zeros(6))
    assert np.isfinite(rescore(np.arange(6.0), features, (1, 8, 9))).all()


@pytest.mark.parametrize(
    ("count", "changes", "message"),
    [
        (4, {}, "4 found, expected at least 5: give more"),
        (12, {"divide_num": 3}, "4 found, expected at least 5 in each of config.model.divide_num = 3 subsets"),
        (3, {"interval": (2, 5)}, "3 found, expected at least 4"),
    ],
)
def test_too_few_images_are_reported(count, changes, message):
    with pytest.raises(UserError, match=message):
        set_of(small(**changes), batches_of(made(count)))


def test_features_that_are_no_numbers_name_the_image():
    batches = batches_of(made(8))
    batches[1]["class_feature"] = batches[1]["class_feature"].at[2].set(jnp.nan)
    with pytest.raises(UserError, match="image number 6 are not finite"):
        set_of(small(), batches)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.r_list", (1, 2), r"config.model.r_list is \(1, 2\); expected odd numbers"),
        (
            "model.interval",
            (0.3, 0.3),
            r"config.model.interval is \(0.3, 0.3\); expected .* a range between",
        ),
        ("backbone.name", "wide_resnet50_2", "config.backbone.name is 'wide_resnet50_2'; expected one of clip_vit_b32"),
        ("backbone.activation", "relu", "config.backbone.activation is 'relu'; expected one of auto, gelu, quick_gelu"),
        ("backbone.taps", ("block5", "block24"), "config.backbone.taps has 'block24'; clip_vit_l14_336 has block0"),
        ("backbone.taps", ("class_feature",), "config.backbone.taps has 'class_feature'"),
        ("input.size", (518, 500), r"config.input.size is \(518, 500\); expected multiples of the patch size, 14"),
    ],
)
def test_values_that_do_not_fit_name_their_fields(field, value, message):
    config = config_musc.get_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        musc.create(config, ("parts",))


@pytest.mark.parametrize(
    ("size", "asked", "activation"),
    [
        ((518, 518), "auto", "gelu"),
        ((336, 336), "auto", "quick_gelu"),
        ((336, 518), "auto", "gelu"),
        ((336, 336), "gelu", "gelu"),
        ((518, 518), "quick_gelu", "quick_gelu"),
    ],
)
def test_activation_is_that_of_the_official_loader(size, asked, activation):
    config = config_musc.get_config()
    config.update_from_flattened_dict({"input.size": size, "backbone.activation": asked})
    assert dict(musc.create(config, ("parts",)).backbone.options) == {"activation": activation}


def test_settings_are_those_of_the_official_code():
    method = musc.create(CONFIG, ("parts",))
    assert method.backbone.name == "clip_vit_l14_336"
    assert method.backbone.taps == ("block5", "block11", "block17", "block23", "class_feature")
    assert (method.r_list, method.interval, method.divide_num) == ((1, 3, 5), (0.0, 0.3), 1)
    visa, mirad = (
        musc.create(config_musc.get_config(name), ("parts",)) for name in ("visa/candle", "mirad/rabbit_pendant")
    )
    assert (visa.rscin_k, mirad.rscin_k) == ((1, 8, 9), (1, 2, 3))


EIGHT_DEVICES = """
import sys
import jax, numpy as np
from jaxad import sharding
from tests.methods.test_musc import batches_of, made, set_of, small
assert len(jax.devices()) == 8
for model in (1, 2):
    maps, scores = set_of(small(), batches_of(made(21, side=5), size=8), mesh=sharding.make_mesh(model))
    np.savez(f"{sys.argv[1]}/{model}.npz", maps=maps, scores=scores)
"""


@pytest.mark.slow
def test_eight_devices_give_the_scores_of_one(tmp_path):
    command = [sys.executable, "-c", EIGHT_DEVICES, str(tmp_path)]
    subprocess.run(command, env=runs.environment(8), check=True, timeout=300)
    maps, scores = set_of(small(), batches_of(made(21, side=5), size=8))
    for model in (1, 2):
        with np.load(tmp_path / f"{model}.npz") as found:
            np.testing.assert_allclose(found["maps"], maps, rtol=1e-5)
            np.testing.assert_allclose(found["scores"], scores, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_run_has_no_threshold_and_says_why_and_predictions_have_no_decision(tmp_path):
    photographs = runs.write_photographs(tmp_path / "parts", train=1, good=4, bad=5)
    settings = {
        "backbone.name": "clip_vit_nano14",
        "backbone.weights": "random",
        "backbone.taps": ("block1", "block3"),
        "input.size": (56, 56),
        "dataset.path": str(photographs),
        "dataset.data_dir": str(tmp_path / "data"),
    }
    config, workdir = jaxad.load_config(f"{runs.ROOT}/configs/musc.py:folder", settings), tmp_path / "run"
    jaxad.run(config, workdir)
    (stored,) = json.loads((workdir / "results.json").read_text())["categories"]
    assert stored["threshold"] is None
    assert stored["no_threshold"] == MuSc.no_threshold
    found = list(jaxad.predict(config, workdir, photographs / "test"))
    assert [prediction.decision for prediction in found] == [None] * 9
    with pytest.raises(UserError, match="4 found, expected at least 5"):
        list(jaxad.predict(config, workdir, photographs / "test" / "good"))
