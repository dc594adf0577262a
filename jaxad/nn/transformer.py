"""Parts of transformers over image tokens: dropout, attention, post-norm layers, positions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxad.nn.linear import Dense
from jaxad.nn.norm import LayerNorm

xavier_uniform = nn.initializers.xavier_uniform()
linear = functools.partial(Dense, kernel_init=xavier_uniform)


class Dropout(nn.Module):
    """Dropout with the rng stream "dropout"; the rate is rounded to a multiple of 2^-16.

    Each random number decides for two elements: on a CPU, drawing one per element would take half of a transformer's
    training step.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*n c"], train: bool) -> Float[Array, "*n c"]:
        if not train or not self.rate:
            return x
        bits = jax.random.bits(self.make_rng("dropout"), (*x.shape[:-1], -(-x.shape[-1] // 2)), jnp.uint32)
        halves = jnp.concatenate([bits & 0xFFFF, bits >> 16], axis=-1)[..., : x.shape[-1]]
        return jnp.where(halves >= round(self.rate * 2**16), x / (1 - self.rate), 0)


class MultiheadAttention(nn.Module):
    """`torch.nn.MultiheadAttention`, batch first; a query of batch 1 serves the whole batch.

    It computes in the floating type of its inputs, but for the logits and their softmax, which are float32.

    Attributes:
      heads: number of heads; it divides the width.
      dropout: rate on the attention weights.
    """

    heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "#b q c"],
        key: Float[Array, "b k c"],
        value: Float[Array, "b k c"],
        blocked: Bool[np.ndarray, "q k"],
        train: bool = False,
    ) -> Float[Array, "b q c"]:
        """`blocked` is True where a query must not see a key; no row may be all True."""
        dtype, width = query.dtype, query.shape[-1]
        kernel = self.param("in_proj_kernel", xavier_uniform, (width, 3 * width), jnp.float32).astype(dtype)
        bias = self.param("in_proj_bias", nn.initializers.zeros, (3 * width,), jnp.float32).astype(dtype)

        def project(x: Array, part: int) -> Float[Array, "b heads t d"]:
            columns = slice(part * width, (part + 1) * width)
            y = x @ kernel[:, columns] + bias[columns]
            return y.reshape(*y.shape[:-1], self.heads, -1).swapaxes(1, 2)

        q, k, v = (project(x, part) for part, x in enumerate((query, key, value)))
        wide = jnp.promote_types(dtype, jnp.float32)
        logits = jnp.matmul(q * q.shape[-1] ** -0.5, k.swapaxes(2, 3), preferred_element_type=wide)
        weights = jax.nn.softmax(jnp.where(blocked, -jnp.inf, logits)).astype(dtype)
        attended = (Dropout(self.dropout)(weights, train) @ v).swapaxes(1, 2)
        merged = attended.reshape(*attended.shape[:2], width)
        return linear(width, name="out_proj")(merged)


class PostNormLayer(nn.Module):
    """The sublayers of `torch.nn.TransformerEncoderLayer` and `TransformerDecoderLayer`, post-norm.

    Attributes:
      heads: number of attention heads.
      feedforward: width between the two linear layers.
      dropout: rate on the attention weights and after every sublayer and activation.
    """

    heads: int
    feedforward: int
    dropout: float

    def attend(self, name: str, norm: str, x: Array, query: Array, key: Array, value: Array, blocked, train) -> Array:
        """LayerNorm(x + attention); see `MultiheadAttention`."""
        y = MultiheadAttention(self.heads, self.dropout, name=name)(query, key, value, blocked, train)
        return LayerNorm(name=norm)(x + Dropout(self.dropout)(y, train))

    def feed(self, norm: str, x: Array, train: bool) -> Array:
        """LayerNorm(x + two linear layers with a ReLU between)."""
        y = nn.relu(linear(self.feedforward, name="linear1")(x))
        y = Dropout(self.dropout)(y, train)
        y = linear(x.shape[-1], name="linear2")(y)
        return LayerNorm(name=norm)(x + Dropout(self.dropout)(y, train))


class EncoderLayer(PostNormLayer):
    """Masked self-attention and feed-forward; positions are added to query and key, as in DETR.

    `position` [t, c] may be float32 whatever the type of `x`; `blocked` is that of `MultiheadAttention`.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"], position, blocked, train: bool) -> Float[Array, "b t c"]:
        placed = x + position.astype(x.dtype)
        x = self.attend("self_attn", "norm1", x, placed, placed, x, blocked, train)
        return self.feed("norm2", x, train)


class LearnedPosition(nn.Module):
    """Learned positions, float32: the column's embedding in the first half of the channels, the row's in the second."""

    grid: tuple[int, int]
    width: int

    @nn.compact
    def __call__(self) -> Float[Array, "t width"]:
        rows, columns = (
            nn.Embed(length, self.width // 2, embedding_init=nn.initializers.uniform(1.0), name=name).embedding
            for length, name in zip(self.grid, ("row_embed", "col_embed"), strict=True)
        )
        shape = (*self.grid, self.width // 2)
        both = [jnp.broadcast_to(columns[None], shape), jnp.broadcast_to(rows[:, None], shape)]
        return jnp.concatenate(both, -1).reshape(-1, self.width)


def sine_position(grid: tuple[int, int], width: int) -> Float[np.ndarray, "t width"]:
    """Interleaved sines and cosines of the row in the first half of the channels, of the column in the second.

    As in DETR (Carion et al., ECCV 2020), normalised: positions 1 to n become angles up to 2 pi.
    """
    half = width // 2
    waves = 10000.0 ** (2 * (np.arange(half) // 2) / half)
    tables = []
    for length in grid:
        angle = (2 * np.pi * np.arange(1, length + 1) / (length + 1e-6))[:, None] / waves
        tables.append(np.where(np.arange(half) % 2, np.cos(angle), np.sin(angle)))
    y, x = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return np.concatenate([tables[0][y], tables[1][x]], axis=1).astype(np.float32)


def neighbour_mask(grid: tuple[int, int], size: tuple[int, int]) -> Bool[np.ndarray, "t t"]:
    """True for the key tokens (second axis) that a query token must not see: itself and its neighbourhood, which
    reaches `size // 2` rows and columns to each side.
    """
    y, x = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    near = [np.abs(place[:, None] - place) <= reach // 2 for place, reach in zip((y, x), size, strict=True)]
    return near[0] & near[1]
