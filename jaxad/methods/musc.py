"""MuSc: the images of an unlabelled test set score each other; no training, no text, no normal reference.

Li et al., "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual Scoring of the Unlabeled
Images", ICLR 2024. Patch tokens of a frozen CLIP tower are averaged over neighbourhoods of several sizes (LNAMD); the
score of a patch is its mean distance to its nearest patches in those other images that have the most alike (MSM); image
scores are smoothed over images with similar class features (RsCIN).

Defaults and details are those of the official code (configs/musc.py). A prediction depends on all images that are
predicted together, each category by itself, so there is only `predict_all`.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxad import sharding
from jaxad.backbones.clip.names import from_openai
from jaxad.backbones.clip.towers import NORMALIZATION, VisionConfig, VisionTower
from jaxad.errors import UserError
from jaxad.method import Batch, Method, Normalization, Prediction, Stage, Variables
from jaxad.nn.mutual_scoring import Precision, deal, image_layer_norm, least_images, mutual_scores, rescore, upsampled
from jaxad.nn.scoring import largest
from jaxad.settings import choice, number, setting

FACTS = {"category": 0, "defect": 0, "weight": 1}  # read from a batch, and what holds where it says nothing
TOWER_SIZES = ("width", "layers", "heads", "mlp_width", "embed_dim", "patch_size", "image_size")


class ImageSet(NamedTuple):
    """What is kept, on the host, of all images that are predicted together, in order.

    Attributes:
      tokens: of every tapped layer, image by image, after the norm over the image.
      real: False for images that only fill a batch or could not be read.
    """

    tokens: list[list[Float[np.ndarray, "gh gw c"]]]
    class_features: Float[np.ndarray, "n d"]
    category: Int[np.ndarray, " n"]
    defect: Int[np.ndarray, " n"]
    real: Bool[np.ndarray, " n"]
    batch_sizes: list[int]
    size: tuple[int, int]
    mesh: Mesh


@functools.lru_cache(maxsize=16)
def _jitted_encode(method: "MuSc") -> Callable[[Variables, Batch], tuple[list[Array], Array]]:
    return jax.jit(method.encode)


@dataclass(frozen=True)
class MuSc(Method):
    """MuSc's settings.

    Attributes:
      tower: CLIP's image tower.
      weights: where `init` takes them from.
      dtype: of the tower.
      feature_layers: blocks whose output tokens are compared, from 0.
      r_list: odd sizes of LNAMD's neighbourhoods.
      interval: places among the sorted distances to the other images whose mean is the score; a bound below 1 is a
        share of these images, any other a number of images.
      rscin_k: RsCIN's window sizes; with 0 among them, no re-scoring.
      divide_num: subsets that are scored apart, to save time; RsCIN joins them again.
      stratify: whether every subset gets its share of each defect type, as in the official code: that looks at labels.
      seed: of the subsets.
      precision: of the products of tokens: highest (float32), or fast (bfloat16, summed in float32; scores differ by
        some 0.4 %).
    """

    tower: VisionConfig
    weights: str
    dtype: str = "float32"
    feature_layers: tuple[int, ...] = (5, 11, 17, 23)
    r_list: tuple[int, ...] = (1, 3, 5)
    interval: tuple[float, float] = (0.0, 0.3)
    rscin_k: tuple[int, ...] = (1, 2, 3)
    divide_num: int = 1
    stratify: bool = True
    seed: int = 42
    precision: Precision = "highest"

    @property
    def normalization(self) -> Normalization:
        return NORMALIZATION

    def init(self, key: Array) -> Variables:
        if self.weights == "random":
            return {"params": {"backbone": jax.jit(self.random)(key)}}
        from jaxad.backbones.clip.weights import load_clip

        clip = load_clip(self.weights, towers=("vision",))
        for name in TOWER_SIZES:
            own, found = getattr(self.tower, name), getattr(clip.vision, name)
            if own != found:
                raise UserError(f"config.backbone.{name} is {own}; {self.weights} has {found}: set that")
        return {"params": {"backbone": clip.variables["params"]}}

    def random(self, key: Array) -> dict[str, Any]:
        """The tower's parameters before any training."""
        image = jnp.zeros((1, self.tower.patch_size, self.tower.patch_size, 3))
        return dict(VisionTower(self.tower).init(key, image)["params"])

    def stages(self, examples: int) -> Sequence[Stage]:
        return []  # nothing is trained

    def features(self, variables: Variables, batch: Batch) -> tuple[list[Float[Array, "b p c"]], Float[Array, "b d"]]:
        """Patch tokens after each block of `feature_layers`, and the class features."""
        weights = {"params": variables["params"]["backbone"]}
        found: dict = VisionTower(self.tower, self.dtype).apply(weights, batch["image"], self.feature_layers)  # type: ignore
        return [found["tokens"][layer][:, 1:] for layer in self.feature_layers], found["class_feature"]

    def encode(self, variables: Variables, batch: Batch) -> tuple[list[Float[Array, "b gh gw c"]], Float[Array, "b d"]]:
        """What is compared: patch tokens, normed over each image, and class features, in float32."""
        tokens, class_features = self.features(variables, batch)
        gh, gw = (side // self.tower.patch_size for side in batch["image"].shape[1:3])
        grids = [layer.astype(jnp.float32).reshape(len(layer), gh, gw, -1) for layer in tokens]
        return [image_layer_norm(grid) for grid in grids], class_features.astype(jnp.float32)

    def encode_all(self, variables: Variables, batches: Iterable[Batch]) -> ImageSet:
        """One pass of the tower over the whole set.

        Raises:
          UserError: the features of an image are not finite.
        """
        tokens: list[list[np.ndarray]] = [[] for _ in self.feature_layers]
        rows, size, mesh = [], (0, 0), None
        for batch in batches:
            layers, class_features = sharding.to_host(_jitted_encode(self)(variables, batch))
            for images, layer in zip(tokens, layers, strict=True):
                images.extend(layer)
            facts = [batch.get(name, np.full(len(class_features), usual)) for name, usual in FACTS.items()]
            rows.append([class_features, *sharding.to_host(facts)])
            size, mesh = batch["image"].shape[1:3], getattr(batch["image"].sharding, "mesh", None)
        class_features, category, defect, weight = (np.concatenate(column) for column in zip(*rows, strict=True))
        bad = np.flatnonzero((weight > 0) & ~np.isfinite(class_features).all(1))
        if len(bad):
            where = "look at this image and at config.backbone.weights"
            raise UserError(f"MuSc: the features of image number {bad[0]} are not finite; expected numbers: {where}")
        mesh = mesh or sharding.make_mesh(devices=jax.devices()[:1])
        return ImageSet(tokens, class_features, category, defect, weight > 0, [len(row[0]) for row in rows], size, mesh)

    def groups(self, images: ImageSet, members: Int[np.ndarray, " m"]) -> list[Int[np.ndarray, " _"]]:
        """The images of one category, in the subsets that are scored together.

        Raises:
          UserError: too few images.
        """
        types = images.defect[members] if self.stratify else np.zeros_like(members)
        groups = [members[places] for places in deal(types, self.divide_num, self.seed)]
        smallest, least = min(map(len, groups)), least_images(self.interval)
        if smallest < least:
            parts = f" in each of config.model.divide_num = {self.divide_num} subsets" * (self.divide_num > 1)
            found = f"{smallest} found, expected at least {least}{parts}"
            raise UserError(f"MuSc scores images against each other: {found}: give more images in one run")
        return groups

    def patch_scores(self, images: ImageSet, groups: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, "n gh gw"]:
        """Mutual scores inside each group, averaged over layers and r; 0 for images of no group."""
        scores = np.zeros((len(images.real), *images.tokens[0][0].shape[:2]))
        pairs = len(self.feature_layers) * sum(len(group) * (len(group) - 1) // 2 for group in groups)
        with tqdm(total=pairs, desc="mutual scoring", unit="pair", disable=jax.process_index() > 0) as bar:
            for group in groups:
                for layer in images.tokens:
                    chosen, mesh = [layer[i] for i in group], images.mesh
                    found = mutual_scores(chosen, self.r_list, self.interval, mesh, self.precision, bar.update)
                    scores[group] += found.mean(0).reshape(len(group), *scores.shape[1:]) / len(images.tokens)
        return scores

    def predict_all(self, variables: Variables, batches: Iterable[Batch]) -> Iterator[Prediction]:
        """Predictions of a whole set, each category scored by itself.

        Images of weight 0 take no part and get zeros.

        Raises:
          UserError: a category has too few images, or the features of an image are not finite.
        """
        images = self.encode_all(variables, batches)
        names = np.unique(images.category[images.real])
        categories = [np.flatnonzero(images.real & (images.category == name)) for name in names]
        patches = self.patch_scores(images, [group for each in categories for group in self.groups(images, each)])
        images = images._replace(tokens=[])  # the maps need room
        ends = np.cumsum(images.batch_sizes)
        cut = [slice(end - count, end) for end, count in zip(ends, images.batch_sizes, strict=True)]
        maps = lambda rows: upsampled(jnp.asarray(patches[rows], jnp.float32), images.size)  # noqa: E731
        raw = np.concatenate([np.asarray(largest(maps(rows)), np.float64) for rows in cut])
        scores = np.zeros(len(raw))
        for members in categories:
            scores[members] = rescore(raw[members], images.class_features[members], self.rscin_k)
        for rows in cut:
            yield Prediction(maps(rows), jnp.asarray(scores[rows], jnp.float32))

    def from_torch(self, state_dict: Mapping[str, np.ndarray]) -> Variables:
        """From CLIP by OpenAI's names; the text tower is left out."""
        found: dict[str, Any] = traverse_util.flatten_dict(from_openai(state_dict)["params"], sep="/")
        expected: dict[str, Any] = traverse_util.flatten_dict(jax.eval_shape(self.random, jax.random.key(0)), sep="/")
        for path, leaf in expected.items():
            if (shape := np.shape(found.get(path, ()))) != leaf.shape:
                raise UserError(f"CLIP's weights: {path} has shape {shape}, expected {leaf.shape} (config.backbone)")
        return {"params": {"backbone": traverse_util.unflatten_dict({path: found[path] for path in expected}, sep="/")}}


def create(config: ConfigDict) -> MuSc:
    """MuSc as `config` (configs/musc.py) says.

    Raises:
      UserError: a wrong value; the message names the field.
    """
    sizes = {name: number(config, f"backbone.{name}", 1, whole=True) for name in TOWER_SIZES}
    size, kind = setting(config, "input.size"), choice(config, "backbone.activation", ("auto", "gelu", "quick_gelu"))
    if any(side % sizes["patch_size"] for side in size):
        raise UserError(f"config.input.size is {size}; expected multiples of the patch size, {sizes['patch_size']}")
    interval = setting(config, "model.interval")
    numbers = len(interval) == 2 and all(type(bound) in (int, float) and bound >= 0 for bound in interval)
    if not numbers or not least_images(interval):
        raise UserError(f"config.model.interval is {interval!r}; expected two numbers from 0 on, with a range between")
    if kind == "auto":
        kind = "quick_gelu" if tuple(size) == (sizes["image_size"],) * 2 else "gelu"
    return MuSc(
        tower=VisionConfig(**sizes, activation=kind),
        weights=setting(config, "backbone.weights"),
        dtype=choice(config, "dtype", ("float32", "bfloat16")),
        feature_layers=_numbers(config, "model.feature_layers", lambda n: 0 <= n < sizes["layers"], "blocks of CLIP"),
        r_list=_numbers(config, "model.r_list", lambda n: n > 0 and n % 2, "odd numbers"),
        interval=interval,
        rscin_k=_numbers(config, "model.rscin_k", lambda n: n >= 0, "whole numbers"),
        divide_num=number(config, "model.divide_num", 1, whole=True),
        stratify=setting(config, "model.stratify"),
        seed=number(config, "seed", 0, whole=True),
        precision=choice(config, "model.precision", get_args(Precision)),
    )


def _numbers(config: ConfigDict, name: str, right: Callable[[int], object], what: str) -> tuple[int, ...]:
    values = setting(config, name)
    if not values or not all(type(value) is int and right(value) for value in values):
        raise UserError(f"config.{name} is {values!r}; expected a tuple of {what}, not empty")
    return values
