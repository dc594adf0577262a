"""MuSc: the images of an unlabelled test set score each other; no training, no text, no normal references.

Li et al., "MuSc: Zero-Shot Industrial Anomaly Classification and Segmentation with Mutual Scoring of the Unlabeled
Images", ICLR 2024. Patch tokens of a frozen CLIP tower are averaged over neighbourhoods of several sizes (LNAMD). Each
patch is compared with the nearest patch of every other image; its score is the mean of the smallest of these distances
(MSM). Image scores are smoothed over images with similar class features (RsCIN).

The details follow the official code, as do the settings in configs/musc.py. A prediction depends on all images that are
predicted together, so there is only `predict_all`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxad import backbones, sharding
from jaxad.backbones.clip.vision import CLASS_FEATURE
from jaxad.backbones.frozen import FrozenBackbone, frozen_backbone
from jaxad.errors import UserError
from jaxad.method import Batch, Batches, Method, Normalization, Prediction, Stage, Variables
from jaxad.nn.mutual_scoring import Precision, deal, image_layer_norm, least_images, mutual_scores, rescore, upsampled
from jaxad.nn.scoring import largest
from jaxad.settings import Count, NonNegative, Seed, Size, Whole, choice, read, setting


class ImageSet(NamedTuple):
    """What the host keeps of the images that are scored together, in order.

    Attributes:
      tokens: for each tapped layer, image by image, after the norm over the image.
      real: False for images that only fill a batch or could not be read.
    """

    tokens: list[list[Float[np.ndarray, "gh gw c"]]]
    class_features: Float[np.ndarray, "n d"]
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
      backbone: CLIP's image tower; the tokens of its taps are compared, its class features smooth the scores.
      r_list: odd sizes of LNAMD's neighbourhoods.
      interval: the places, among the sorted distances to the other images, that are averaged to the score; a bound
        below 1 is a share of these images, any other a number of images.
      rscin_k: RsCIN's window sizes; with 0 among them, there is no re-scoring.
      divide_num: number of subsets that are scored separately, to save time; RsCIN spans all of them.
      stratify: whether every subset gets its share of each defect type, as in the official code, which looks at labels
        to do so.
      seed: for the division into subsets.
      precision: of the dot products of tokens: highest (float32), or fast (bfloat16, summed in float32; scores differ
        by about 0.4 %).
    """

    backbone: FrozenBackbone
    r_list: tuple[Size, ...]
    interval: tuple[NonNegative, NonNegative]
    rscin_k: tuple[Whole, ...]
    divide_num: Count
    stratify: bool
    seed: Seed
    precision: Precision

    no_threshold = "MuSc scores the images of a set against each other"

    def __post_init__(self):
        if not all(r % 2 for r in self.r_list):
            raise UserError(f"config.model.r_list is {self.r_list!r}; expected odd numbers")
        if not least_images(self.interval):
            raise UserError(
                f"config.model.interval is {self.interval!r}; expected two numbers from 0 on, with a range between"
            )

    @property
    def normalization(self) -> Normalization:
        return self.backbone.normalization

    def init(self, key: Array) -> Variables:
        return self.backbone.init(key)

    def stages(self) -> Sequence[Stage]:
        return []  # nothing is trained

    def encode(self, variables: Variables, batch: Batch) -> tuple[list[Float[Array, "b gh gw c"]], Float[Array, "b d"]]:
        """(patch tokens of each tapped layer, normed over each image; class features), in float32."""
        taps = self.backbone(variables, batch["image"])
        class_features = taps.pop(CLASS_FEATURE)
        return [image_layer_norm(tokens) for tokens in taps.values()], class_features

    def encode_all(self, variables: Variables, batches: Batches) -> ImageSet:
        """One pass of the tower over the whole set.

        Raises:
          UserError: the features of an image are not finite.
        """
        tokens: list[list[np.ndarray]] = [[] for _ in self.backbone.taps[:-1]]
        rows, size = [], (0, 0)
        for batch in batches:
            layers, class_features = sharding.to_host(_jitted_encode(self)(variables, batch))
            for images, layer in zip(tokens, layers, strict=True):
                images.extend(layer)
            defect = batch.get("defect", np.zeros(len(class_features), int))
            rows.append([class_features, *sharding.to_host([defect, batch["weight"]])])
            size = batch["image"].shape[1:3]
        class_features, defect, weight = (np.concatenate(column) for column in zip(*rows, strict=True))
        bad = np.flatnonzero((weight > 0) & ~np.isfinite(class_features).all(1))
        if len(bad):
            where = "look at this image and at config.backbone.weights"
            raise UserError(f"MuSc: the features of image number {bad[0]} are not finite; expected numbers: {where}")
        return ImageSet(tokens, class_features, defect, weight > 0, [len(row[0]) for row in rows], size, batches.mesh)

    def groups(self, images: ImageSet, members: Int[np.ndarray, " m"]) -> list[Int[np.ndarray, " _"]]:
        """The members, divided into the subsets that are scored together.

        Raises:
          UserError: there are too few images.
        """
        types = images.defect[members] if self.stratify else np.zeros_like(members)
        groups = [members[places] for places in deal(types, self.divide_num, self.seed)]
        smallest, least = min(map(len, groups)), least_images(self.interval)
        if smallest < least:
            parts = f" in each of config.model.divide_num = {self.divide_num} subsets" * (self.divide_num > 1)
            counts = f"{smallest} found, expected at least {least}{parts}"
            raise UserError(f"MuSc scores images against each other: {counts}: give more images in one run")
        return groups

    def patch_scores(self, images: ImageSet, groups: Sequence[Int[np.ndarray, " _"]]) -> Float[np.ndarray, "n gh gw"]:
        """Mutual scores within each group, averaged over layers and r; 0 for images outside all groups."""
        scores = np.zeros((len(images.real), *images.tokens[0][0].shape[:2]))
        pairs = len(images.tokens) * sum(len(group) * (len(group) - 1) // 2 for group in groups)
        with tqdm(total=pairs, desc="mutual scoring", unit="pair", disable=jax.process_index() > 0) as bar:
            for group in groups:
                for layer in images.tokens:
                    chosen, mesh = [layer[i] for i in group], images.mesh
                    by_r = mutual_scores(chosen, self.r_list, self.interval, mesh, self.precision, bar.update)
                    scores[group] += by_r.mean(0).reshape(len(group), *scores.shape[1:]) / len(images.tokens)
        return scores

    def predict_all(self, variables: Variables, batches: Batches) -> Iterator[Prediction]:
        """Predictions for a set of images, scored against each other; images of weight 0 take no part and get zeros.

        Raises:
          UserError: there are too few images, or the features of one are not finite.
        """
        images = self.encode_all(variables, batches)
        members = np.flatnonzero(images.real)
        patches = self.patch_scores(images, self.groups(images, members))
        images = images._replace(tokens=[])  # the maps need the memory
        ends = np.cumsum(images.batch_sizes)
        cut = [slice(end - count, end) for end, count in zip(ends, images.batch_sizes, strict=True)]

        def maps(rows: slice) -> Float[Array, "b h w"]:
            return upsampled(jnp.asarray(patches[rows], jnp.float32), images.size)

        raw = np.concatenate([np.asarray(largest(maps(rows)), np.float64) for rows in cut])
        scores = np.zeros(len(raw))
        scores[members] = rescore(raw[members], images.class_features[members], self.rscin_k)
        for rows in cut:
            yield Prediction(maps(rows), jnp.asarray(scores[rows], jnp.float32))

    def from_torch(self, state_dict: Mapping[str, np.ndarray]) -> Variables:
        """From a CLIP state dict with OpenAI's names; the text tower is left out."""
        return self.backbone.from_torch(state_dict)


def create(config: ConfigDict, categories: Sequence[str]) -> MuSc:
    """The MuSc that `config` (see configs/musc.py) describes.

    Raises:
      UserError: a wrong value; the message names the field.
    """
    name = choice(config, "backbone.name", [name for name in backbones.names() if name.startswith("clip_")])
    tower, size = backbones.architecture(name), setting(config, "input.size")
    if any(side % tower.patch_size for side in size):
        raise UserError(f"config.input.size is {size}; expected multiples of the patch size, {tower.patch_size}")
    activation = choice(config, "backbone.activation", ("auto", "gelu", "quick_gelu"))
    if activation == "auto":  # as in the official code: exact GELU at every size but the tower's own
        activation = "quick_gelu" if tuple(size) == (tower.image_size,) * 2 else "gelu"
    backbone = frozen_backbone(config, also=(CLASS_FEATURE,), activation=activation)
    return read(MuSc, config, backbone=backbone)
