"""PatchCore against ADer's and anomalib's code, and its memory bank by itself."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import patchcore as config_patchcore
from jaxad.backbones.frozen import FrozenBackbone, PatchFeatures
from jaxad.errors import NotFiniteError, UserError
from jaxad.methods import patchcore
from jaxad.methods.patchcore import PatchCore, sparse_projection
from jaxad.nn.coreset import mean_distances
from jaxad.nn.scoring import anomaly_map, largest
from tests.golden.load import Case, cases, load
from tests.methods.golden import check_all, make, nhwc, run_fit

ADER, ANOMALIB = config_patchcore.get_config(), config_patchcore.get_config("magnetic_tile,anomalib")


@dataclass(frozen=True)
class FedPatchCore(PatchCore):
    """PatchCore that is given (projection, starting rows) in place of the key."""

    def draws(self, key, count, dim):
        return key


def patches_of(case: Case, *dims: int) -> PatchFeatures:
    """The fixture's features; without `dims` they are not pooled over channels."""
    return PatchFeatures(FrozenBackbone(case.settings["backbone"], "random", tuple(case.settings["layers"])), *dims)


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("patchcore", "pipeline"))
def test_pipeline_equals_the_reference(path):
    case = load(path)
    s = case.settings
    method = make(
        ADER,
        FedPatchCore,
        patches=patches_of(case, s["pretrain_embed_dimension"], s["target_embed_dimension"]),
        input_size=tuple(case.inputs["train"].shape[2:]),
        coreset_ratio=s["coreset_percentage"],
        projection_dim=s["projection_dim"],
        starts=s["starting_points"],
        neighbours=s["num_nn"],
    )
    variables = method.from_torch(case.state_dict)
    images, train = nhwc(case.inputs["x"]), nhwc(case.inputs["train"])
    matrix, starts = jnp.asarray(case.inputs["mapper.weight"].T), jnp.asarray(case.inputs["start_points"])

    every_row = run_fit(
        replace(method, coreset="identity").stages()[0],
        variables,
        [{"image": train[i : i + s["train_batch"]]} for i in range(0, len(train), s["train_batch"])],
        len(train),
        None,
    )
    count = len(train) * np.prod(jax.eval_shape(method.patches, variables, images).shape[1:3])
    bank = every_row["memory"]["bank"][:count]
    picks = np.asarray(method.select(bank, (matrix, starts)))
    # past the compared prefix near ties part two float32 runs: the stored picks make the scores comparable
    variables["memory"] = method.memory(bank, jnp.asarray(case.expected.get("coreset_index", picks)))

    @jax.jit
    def outputs(variables, images):
        taps = method.patches.backbone(variables, images)
        embedding = method.patches(variables, images)
        scores, index = method.patch_scores(variables, embedding)
        maps = anomaly_map(scores, images.shape[1:3], sigma=s["blur_sigma"])
        return {
            **{f"{name}/sub": tap.transpose(0, 3, 1, 2) for name, tap in taps.items()},
            "embedding/sub": embedding.reshape(-1, embedding.shape[-1]),
            "patch_score": scores,
            "nn_index": index,
            "image_score": largest(scores),
            "anomaly_map/sub": maps,
            "anomaly_map_max": largest(maps),
        }

    got = jax.device_get(outputs(variables, images))
    rows = got["embedding/sub"].astype(np.float64)
    got |= {"embedding/row_mean": rows.mean(1), "embedding/row_norm": np.linalg.norm(rows, axis=1)}
    got |= {"coreset_index": picks, "bank_reduced/sub": jnp.matmul(bank, matrix, precision="highest")}
    check_all(case, got)
    for name, score in (("map_max", "anomaly_map_max"), ("patch_max", "image_score")):
        prediction = jax.jit(replace(method, image_score=name).predict)(variables, {"image": images})
        np.testing.assert_allclose(prediction.score, got[score], rtol=1e-4)
        assert prediction.map.shape == images.shape[:3]


@pytest.mark.parametrize("path", cases("patchcore", "coreset"))
def test_coresets_and_scores_equal_the_reference(path):
    case = load(path)
    s = case.settings
    method = make(
        ADER,
        FedPatchCore,
        coreset_ratio=s["coreset_percentage"],
        projection_dim=s["projection_dim"],
        starts=s["starting_points"],
    )
    bank, matrix = jnp.asarray(case.inputs["bank"]), jnp.asarray(case.inputs["mapper.weight"].T)
    starts, query = jnp.asarray(case.inputs["start_points"]), jnp.asarray(case.inputs["query"])
    reduced = jnp.matmul(bank, matrix, precision="highest")
    picks = method.select(bank, (matrix, starts))
    variables = {"memory": method.memory(bank, picks)}
    score, nearest = method.patch_scores(variables, query)
    side = int(len(query) ** 0.5)
    size = tuple(
        step * n for step, n in zip(case.subsample["map/sub"][1:], case.expected["map/sub"].shape[1:], strict=True)
    )
    check_all(
        case,
        {
            "coreset_index": picks,
            "exact_greedy_index": replace(method, coreset="greedy").select(bank, (matrix, starts)),
            "bank_reduced/sub": reduced,
            "initial_anchor": mean_distances(reduced, starts),
            "query_score": score,
            "query_nn": nearest,
            "query_score_k3": replace(method, neighbours=3).patch_scores(variables, query)[0],
            "map/sub": anomaly_map(score.reshape(1, side, side), size),
        },
    )


@pytest.mark.slow
@pytest.mark.parametrize("path", cases("patchcore", "anomalib"))
def test_anomalibs_variant_equals_the_reference(path):
    case = load(path)
    method = make(ANOMALIB, PatchCore, patches=patches_of(case), reweight_neighbours=case.settings["num_neighbors"])
    images = nhwc(case.inputs["x"])
    variables = method.from_torch(case.state_dict)
    embedding = jax.jit(method.patches)(variables, images)
    rows = np.asarray(embedding).reshape(-1, embedding.shape[-1])
    bank = (rows[case.inputs["pick"]] * (1 + 0.2 * case.inputs["bank"])).astype(np.float32)
    variables = method.from_torch({**case.state_dict, "memory_bank": bank})
    scores, index = jax.jit(method.patch_scores)(variables, embedding)
    prediction = jax.jit(method.predict)(variables, {"image": images})
    flat = (len(images), -1)
    check_all(
        case,
        {
            "embedding/sub": rows,
            "patch_score": scores.reshape(flat),
            "nn_index": index.reshape(flat),
            "image_score": prediction.score,
            "image_score_plain_max": largest(scores),
            "anomaly_map/sub": prediction.map,
        },
    )


def small(**changes) -> PatchCore:
    patches = PatchFeatures(FrozenBackbone("resnet18", "random", ("layer1", "layer2")))
    settings = {"patches": patches, "input_size": (32, 32), "coreset": "greedy", "coreset_ratio": 0.25}
    return make(ADER, PatchCore, **{**settings, **changes})


@pytest.fixture(scope="module")
def started():
    method = small()
    image = jax.random.normal(jax.random.key(1), (6, 32, 32, 3))
    return method.init(jax.random.key(0)), image


def fitted(method: PatchCore, variables, image, rows: int, seed: int = 0):
    """The stage over all images in batches of `rows`, the last one filled up with zeros."""
    filled = jnp.pad(image, ((0, -len(image) % rows), (0, 0), (0, 0), (0, 0)))
    batches = [{"image": filled[i : i + rows]} for i in range(0, len(filled), rows)]
    return run_fit(method.stages()[0], variables, batches, len(image), jax.random.key(seed))


def test_bank_holds_the_patches_of_all_images_in_order_and_nothing_that_fills_a_batch(started):
    variables, image = started
    method = small(coreset="identity")
    memory = fitted(method, variables, image[:5], rows=2)["memory"]
    rows = method.patches(variables, image[:5]).reshape(-1, method.patches.dim)
    np.testing.assert_allclose(memory["bank"][: len(rows)], rows, atol=1e-5)
    assert len(memory["bank"]) % patchcore.BANK_MULTIPLE == 0
    assert np.isinf(memory["norms"]).sum() == len(memory["bank"]) - len(rows)


@pytest.mark.parametrize("coreset", ["approximate", "greedy", "anomalib", "random", "identity"])
def test_every_coreset_keeps_its_share_of_distinct_training_patches(started, coreset):
    variables, image = started
    method = small(coreset=coreset, projection_dim=16)
    rows = method.patches(variables, image).reshape(-1, method.patches.dim)
    picks = np.asarray(method.select(rows, jax.random.key(0)))
    assert len(set(picks.tolist())) == len(picks) == (len(rows) if coreset == "identity" else len(rows) // 4)


@pytest.mark.parametrize("coreset", ["approximate", "anomalib", "random"])
def test_same_key_gives_the_same_coreset_and_another_key_another(started, coreset):
    variables, image = started
    rows = small().patches(variables, image).reshape(-1, small().patches.dim)
    picks = [small(coreset=coreset).select(rows, jax.random.key(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(picks[0], picks[1])
    assert not np.array_equal(picks[0], picks[2])


def test_training_images_score_zero_with_the_whole_bank_and_others_do_not(started):
    variables, image = started
    method = small(coreset="identity")
    variables = fitted(method, variables, image[:4], rows=4)
    prediction = jax.jit(method.predict)(variables, {"image": image})
    assert np.all(np.abs(prediction.score[:4]) < 1e-3 * np.min(prediction.score[4:]))


@pytest.mark.parametrize(("distance", "power"), [("squared", 1.0), ("plain", 0.5)])
def test_reweighting_lowers_scores_by_the_formula(started, distance, power):
    variables, image = started
    method = small(image_score="reweighted", reweight_neighbours=3, distance=distance)
    variables = fitted(method, variables, image[:4], rows=4)
    features = method.patches(variables, image[4:])
    scores, _ = method.patch_scores(variables, features)
    got = method.predict(variables, {"image": image[4:]}).score
    memory = variables["memory"]
    bank = np.asarray(memory["bank"], np.float64)[np.isfinite(memory["norms"])]
    for i, patches in enumerate(np.asarray(features, np.float64).reshape(2, -1, features.shape[-1])):
        patch = patches[np.argmax(scores[i])]
        row = bank[np.argmin(((bank - patch) ** 2).sum(1))]
        around = bank[np.argsort(((bank - row) ** 2).sum(1), kind="stable")[:3]]
        lengths = ((around - patch) ** 2).sum(1) ** power
        weight = 1 - np.exp(lengths[0] - lengths.max()) / np.exp(lengths - lengths.max()).sum()
        np.testing.assert_allclose(got[i], weight * lengths[0], rtol=1e-3)


def test_features_that_are_not_finite_name_their_images(started):
    variables, image = started
    with pytest.raises(NotFiniteError, match=r"2 training images \(number 1, 4\) hold NaN") as raised:
        fitted(small(), variables, image.at[1, 0, 0, 0].set(jnp.nan).at[4, 3, 3].set(jnp.inf), rows=4)
    assert raised.value.images == (1, 4)
    assert isinstance(raised.value, UserError)


def test_bank_smaller_than_the_neighbours_asked_for_is_refused(started):
    variables, image = started
    with pytest.raises(UserError, match=r"has 3 rows, 9 nearest neighbours are asked for: raise config\.model"):
        fitted(small(coreset_ratio=0.01, image_score="reweighted"), variables, image, rows=6)


def test_sparse_projection_keeps_distances_on_average():
    matrix = sparse_projection(jax.random.key(0), 256, 10_000)
    assert matrix.shape == (256, int(4 * np.log(10_000) / (0.9**2 / 2 - 0.9**3 / 3)))
    assert abs(float(jnp.mean(matrix != 0)) - 1 / 16) < 0.005
    points = jax.random.normal(jax.random.key(1), (50, 256))
    ratio = jnp.linalg.norm(points @ matrix, axis=1) / jnp.linalg.norm(points, axis=1)
    assert abs(float(ratio.mean()) - 1) < 0.05


def test_variants_hold_the_settings_of_the_three_codes():
    ader, official, anomalib, lite = (
        patchcore.create(config_patchcore.get_config(f"magnetic_tile{variant}"), ("parts",))
        for variant in ("", ",official", ",anomalib", ",lite")
    )
    assert (ader.patches.dim, ader.coreset, ader.distance, ader.projection_dim) == (1024, "approximate", "squared", 128)
    assert ader.image_score == "map_max"
    assert replace(official, input_size=(256, 256), image_score="map_max") == ader
    assert (official.input_size, official.image_score) == ((224, 224), "patch_max")
    assert (anomalib.patches.dim, anomalib.coreset, anomalib.distance) == (1536, "anomalib", "plain")
    assert (anomalib.image_score, anomalib.upsample, anomalib.border) == ("reweighted", "nearest", "reflect")
    assert (lite.patches.dim, lite.coreset, lite.coreset_ratio) == (152, "greedy", 0.01)
    assert lite.normalization[0] == (127 / 255,) * 3


@pytest.mark.parametrize("field", ["pretrain_dim", "target_dim"])
def test_the_two_lengths_of_patch_features_are_given_together(field):
    config = config_patchcore.get_config()
    config.model[field] = None
    with pytest.raises(UserError, match=r"config\.model\.pretrain_dim is .*; expected two lengths, or None for both"):
        patchcore.create(config, ("parts",))
