"""PatchCore: a memory bank of patch features of normal images; a patch far from all of them is anomalous.

Roth et al., "Towards Total Recall in Industrial Anomaly Detection", CVPR 2022. A frozen backbone's feature maps are
averaged over 3x3 neighbourhoods. The patches of all training images are thinned to a greedy coreset that covers the
rest; a patch's anomaly score is its distance to the nearest rows of this memory bank.

configs/patchcore.py has the settings of ADer's benchmark (as run for MIRAD), whose code is the official one with
another image score, of the official code and of anomalib. Unlike in the references, rows have a fixed order, no image
is left out, and all random draws come from the run's key.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict
from tqdm import tqdm

from jaxad.backbones.frozen import PatchFeatures, patch_features
from jaxad.errors import NotFiniteError, UserError
from jaxad.method import Batch, Fit, Method, Normalization, Prediction, Variables
from jaxad.nn.coreset import k_center_greedy, mean_distances, projection, total_distances
from jaxad.nn.neighbours import nearest, squared_norms
from jaxad.nn.scoring import anomaly_map, largest
from jaxad.settings import Count, Size, Within, read, setting

BANK_MULTIPLE = 256  # the bank is padded to a multiple of this many rows, so that devices can share it


@dataclass(frozen=True)
class PatchCore(Method):
    """PatchCore's settings.

    Attributes:
      patches: patch features of the frozen backbone.
      input_size: (height, width) of the images.
      coreset: approximate: greedy from the mean distance to some random rows (the references' default); greedy: from
        the whole distance matrix (their exact sampler); anomalib: greedy from one random row, which is kept; random:
        random rows; identity: all rows.
      coreset_ratio: share of the rows to keep.
      projection_dim: dimension to which rows are randomly projected for the selection; None: no projection. anomalib's
        coreset has its own rule.
      starts: number of random rows in the approximate coreset.
      neighbours: number of nearest rows whose mean distance is the score.
      distance: squared or plain, between a patch and a row of the bank.
      image_score: map_max: the largest value of the smoothed map (ADer); patch_max: of the patches (official);
        reweighted: the latter, re-weighted (section 3.3, eq. 7).
      reweight_neighbours: b of eq. 7.
      upsample, border: as in `jaxad.nn.scoring.anomaly_map`.
    """

    patches: PatchFeatures
    input_size: tuple[int, int]
    coreset: Literal["approximate", "greedy", "anomalib", "random", "identity"]
    coreset_ratio: Annotated[float, Within(0, 1, above=True)]
    projection_dim: Size | None
    starts: Count
    neighbours: Count
    distance: Literal["squared", "plain"]
    image_score: Literal["map_max", "patch_max", "reweighted"]
    reweight_neighbours: Count
    upsample: Literal["bilinear", "nearest"]
    border: Literal["symmetric", "reflect"]

    partition = (
        (r"^memory/(bank|norms)$", PartitionSpec("data")),
        (r"^carry/rows$", PartitionSpec(None, "data")),  # a device writes the rows of its own images
    )

    @property
    def normalization(self) -> Normalization:
        return self.patches.backbone.normalization

    def init(self, key: Array) -> Variables:
        return self.patches.backbone.init(key)

    def stages(self) -> Sequence[Fit]:
        return [Fit("memory_bank", self.start, self.update, self.finish)]

    def start(self, variables: Variables, examples: int, batch_size: int) -> dict[str, Array]:
        """Room for the patches of all images; `finite` has one flag per image."""
        image = jax.ShapeDtypeStruct((batch_size, *self.input_size, 3), jnp.float32)
        b, gh, gw, d = jax.eval_shape(self.patches, variables, image).shape
        batches = -(-examples // batch_size)
        return {"rows": jnp.zeros((batches, b * gh * gw, d)), "finite": jnp.zeros((batches, b), bool)}

    def update(self, variables: Variables, carry: dict[str, Array], batch: Batch, step: Array) -> dict[str, Array]:
        features = self.patches(variables, batch["image"])
        rows = features.reshape(-1, features.shape[-1])
        new = {"rows": rows, "finite": jnp.isfinite(features).all((1, 2, 3))}
        return {name: jax.lax.dynamic_update_index_in_dim(carry[name], new[name], step, 0) for name in new}

    def finish(self, variables: Variables, carry: dict[str, Array], examples: int, key: Array) -> Variables:
        """Keeps the coreset (section 3.2).

        Raises:
          NotFiniteError: the features of some images hold NaN or infinity.
        """
        finite = np.asarray(carry["finite"]).reshape(-1)[:examples]
        if not finite.all():
            raise NotFiniteError(np.flatnonzero(~finite).tolist())
        rows = in_order(carry["rows"], examples * carry["rows"].shape[1] // carry["finite"].shape[1])
        return {**variables, "memory": self.memory(rows, self.select(rows, key))}

    def memory(self, rows: Float[Array, "n d"], kept: Int[Array, " m"]) -> Variables:
        """The collection "memory": the bank's rows and their squared norms, infinite for padding rows.

        Raises:
          UserError: there are fewer rows than nearest neighbours to look up.
        """
        needed = max(self.neighbours, self.reweight_neighbours if self.image_score == "reweighted" else 1)
        if len(kept) < needed:
            raise UserError(
                f"the memory bank has {len(kept)} rows, {needed} nearest neighbours are asked for: "
                f"raise config.model.coreset_ratio ({self.coreset_ratio}) or lower config.model.neighbours"
            )
        bank, fill = jax.jit(lambda rows, kept: rows[kept])(rows, kept), -len(kept) % BANK_MULTIPLE
        norms = jnp.pad(squared_norms(bank), (0, fill), constant_values=jnp.inf)
        return {"bank": jnp.pad(bank, ((0, fill), (0, 0))), "norms": norms}

    def nearest(
        self, variables: Variables, queries: Float[Array, "q d"], k: int
    ) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
        """(distances, row numbers) of the k nearest rows of the bank."""
        memory = variables["memory"]
        return nearest(queries, memory["bank"], k, squared=self.distance == "squared", norms=memory["norms"])

    def draws(self, key: Array, count: int, dim: int) -> tuple[Float[Array, "d p"] | None, Int[Array, " s"]]:
        """The projection for the selection, if any, and distinct starting rows out of `count`."""
        matrix_key, rows_key = jax.random.split(key)
        starts = jax.random.choice(rows_key, count, (min(self.starts, count),), replace=False)
        if self.coreset == "anomalib":
            return sparse_projection(matrix_key, dim, count), starts[:1]
        if self.projection_dim in (None, dim):
            return None, starts
        return projection(matrix_key, dim, self.projection_dim), starts

    def select(self, rows: Float[Array, "n d"], key: Array) -> Int[Array, " m"]:
        """The numbers of the rows to keep, in the order of selection."""
        count, dim = rows.shape
        size = max(1, int(count * self.coreset_ratio))
        if self.coreset == "identity":
            return jnp.arange(count)
        if self.coreset == "random":
            return jax.random.choice(key, count, (size,), replace=False)
        matrix, starts = self.draws(key, count, dim)
        points = rows if matrix is None else jnp.matmul(rows, matrix, precision=Precision.HIGHEST)
        with tqdm(total=size, desc="coreset", unit="row", disable=jax.process_index() > 0) as bar:

            def progress(picked: int) -> None:
                bar.update(picked - bar.n)

            if self.coreset == "greedy":
                return k_center_greedy(points, total_distances(points), size, progress=progress)
            distances = mean_distances(points, starts)
            if self.coreset == "approximate":
                return k_center_greedy(points, distances, size, progress=progress)
            rest = k_center_greedy(points, distances, size - 1, progress=progress) if size > 1 else starts[:0]
            return jnp.concatenate([starts, rest])

    def patch_scores(
        self, variables: Variables, features: Float[Array, "*n d"]
    ) -> tuple[Float[Array, "*n"], Int[Array, "*n"]]:
        """(mean distance to the nearest rows of the bank, number of the nearest one)."""
        queries = features.reshape(-1, features.shape[-1])
        distance, index = self.nearest(variables, queries, self.neighbours)
        return distance.mean(-1).reshape(features.shape[:-1]), index[:, 0].reshape(features.shape[:-1])

    def reweighted(
        self,
        variables: Variables,
        features: Float[Array, "b gh gw d"],
        scores: Float[Array, "b gh gw"],
        index: Int[Array, "b gh gw"],
    ) -> Float[Array, " b"]:
        """Image scores by eq. 7: smaller where the bank is dense around the farthest patch's nearest row."""
        b, bank = len(scores), variables["memory"]["bank"]
        flat = scores.reshape(b, -1)
        image, place = jnp.arange(b), jnp.argmax(flat, axis=1)
        patch, row = features.reshape(b, flat.shape[1], -1)[image, place], bank[index.reshape(b, -1)[image, place]]
        _, around = self.nearest(variables, row, self.reweight_neighbours)
        distances = jnp.sum((patch[:, None] - bank[around]) ** 2, -1)
        distances = distances if self.distance == "squared" else jnp.sqrt(distances)
        return (1 - jax.nn.softmax(distances, axis=1)[:, 0]) * flat.max(1)

    def predict(self, variables: Variables, batch: Batch) -> Prediction:
        features = self.patches(variables, batch["image"])
        scores, index = self.patch_scores(variables, features)
        maps = anomaly_map(scores, batch["image"].shape[1:3], upsample=self.upsample, border=self.border)
        if self.image_score == "reweighted":
            return Prediction(maps, self.reweighted(variables, features, scores, index))
        return Prediction(maps, largest(maps if self.image_score == "map_max" else scores))

    def from_torch(self, state_dict: Mapping[str, np.ndarray]) -> Variables:
        """The backbone, by torchvision's names, and the rows of "memory_bank" if there is one."""
        variables = self.patches.backbone.from_torch(state_dict)
        if "memory_bank" in state_dict:
            bank = jnp.asarray(state_dict["memory_bank"], jnp.float32)
            variables["memory"] = self.memory(bank, jnp.arange(len(bank)))
        return variables


def in_order(rows: Float[Array, "batches rows d"], count: int) -> Float[Array, "count d"]:
    """The rows of all batches, one after the other, without the last batch's padding; sharded over the same devices."""
    where = None
    if isinstance(rows.sharding, NamedSharding):
        mesh = rows.sharding.mesh
        where = NamedSharding(mesh, PartitionSpec("data" if count % mesh.shape["data"] == 0 else None))
    return jax.jit(lambda rows: rows.reshape(-1, rows.shape[-1])[:count], out_shardings=where)(rows)


def sparse_projection(key: Array, dim: int, count: int, eps: float = 0.9) -> Float[Array, "d p"]:
    """anomalib's projection: one entry in sqrt(d) is +-sqrt(sqrt(d) / p), the others are 0.

    p is the length that the Johnson-Lindenstrauss lemma gives for `count` rows and a distortion of `eps`.
    """
    length = max(1, int(4 * math.log(count) / (eps**2 / 2 - eps**3 / 3)))
    places, signs = jax.random.split(key)
    used = jax.random.bernoulli(places, dim**-0.5, (dim, length))
    return jnp.where(used, jax.random.rademacher(signs, (dim, length), jnp.float32) * (dim**0.5 / length) ** 0.5, 0.0)


def create(config: ConfigDict, categories: Sequence[str]) -> PatchCore:
    """The PatchCore that `config` (see configs/patchcore.py) describes.

    Raises:
      UserError: a wrong value; the message names the field.
    """
    return read(PatchCore, config, patches=patch_features(config), input_size=setting(config, "input.size"))
