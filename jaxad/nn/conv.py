"""Convolutions with PyTorch's or TensorFlow's padding, NHWC."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

LAYOUT = ("NHWC", "HWIO", "NHWC")
Pairs = tuple[tuple[int, int], tuple[int, int]]
Padding = int | str | Pairs

# The initial kernels of `torch.nn.Conv2d` and `torch.nn.Linear`: uniform in +-1 / sqrt(fan in).
torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# The initial kernels of torchvision's and timm's ResNets.
kaiming_normal_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
    """The initial biases of `torch.nn.Conv2d` and `torch.nn.Linear`: uniform in +-1 / sqrt(fan in)."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's 'SAME' for one axis: ceil(size / stride) outputs, the smaller half of the padding first."""
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


class Conv(nn.Module):
    """2-D convolution in the input's floating type; the parameters are float32.

    `padding` is a number for all sides (PyTorch), pairs (before, after) for rows and columns, or "SAME" (TensorFlow).
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: Padding = 0
    dilation: int = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = torch_uniform

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        k, fan = self.kernel_size, x.shape[-1] // self.groups
        kernel = self.param("kernel", self.kernel_init, (k, k, fan, self.features), jnp.float32)
        y = convolve(x, kernel.astype(x.dtype), self.stride, self.padding, self.dilation, self.groups)
        if self.use_bias:
            y += self.param("bias", torch_bias(k * k * fan), (self.features,)).astype(x.dtype)
        return y


class ConvTranspose(nn.Module):
    """2-D transposed convolution in the input's floating type, as `torch.nn.ConvTranspose2d`.

    n pixels become (n - 1) * stride - 2 * padding + kernel_size + output_padding. The parameter `transposed_kernel`
    [kh, kw, i, o] is the kernel of the equivalent convolution over the input with `stride - 1` zeros between its
    pixels: PyTorch's (i, o, kh, kw) weight with rows and columns reversed.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    output_padding: int = 0
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        k = self.kernel_size
        # PyTorch counts the outputs as fan in: they are the second axis of its (i, o, kh, kw) weight.
        init = torch_bias(k * k * self.features)
        kernel = self.param("transposed_kernel", init, (k, k, x.shape[-1], self.features))
        if self.stride == k and not self.padding and not self.output_padding:
            y = _tiles(x, kernel.astype(x.dtype))
        else:
            sides = (k - 1 - self.padding, k - 1 - self.padding + self.output_padding)
            y = lax.conv_general_dilated(
                x,
                kernel.astype(x.dtype),
                window_strides=(1, 1),
                padding=(sides, sides),
                lhs_dilation=(self.stride, self.stride),
                dimension_numbers=LAYOUT,
            )
        if self.use_bias:
            y += self.param("bias", init, (self.features,)).astype(x.dtype)
        return y


def _tiles(x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"]) -> Float[Array, "b h*k w*k o"]:
    """The transposed convolution of stride k: its tiles do not overlap, so it is one matrix product per pixel."""
    b, h, w, _ = x.shape
    k, _, _, o = kernel.shape
    return jnp.einsum("bhwi,klio->bhkwlo", x, kernel[::-1, ::-1]).reshape(b, h * k, w * k, o)


def convolve(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw ig o"],
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Float[Array, "b h2 w2 o"]:
    """Convolution with a given kernel; `padding` as in `Conv`."""
    pairs = _pairs(padding, x.shape[1:3], kernel.shape[:2], stride, dilation)
    if groups == x.shape[-1] == kernel.shape[-1] and dilation == 1:
        return depthwise(x, kernel, stride, pairs)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=pairs,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=LAYOUT,
        feature_group_count=groups,
    )


def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], stride: int = 1, padding: Padding = 0
) -> Float[Array, "b h2 w2 c"]:
    """Each channel convolved with its own kernel.

    On CPU this is a sum of shifted multiples, some 50 times faster than XLA's grouped convolution there.
    """
    pairs = _pairs(padding, x.shape[1:3], kernel.shape[:2], stride, 1)
    form = _shifted_multiples if jax.default_backend() == "cpu" else _grouped
    return form(x, kernel, stride, pairs)


def _grouped(x: Array, kernel: Array, stride: int, pairs: Pairs) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pairs, dimension_numbers=LAYOUT, feature_group_count=x.shape[-1]
    )


def _shifted_multiples(x: Array, kernel: Array, stride: int, pairs: Pairs) -> Array:
    kh, kw = kernel.shape[:2]
    dtype, wide = x.dtype, jnp.promote_types(x.dtype, jnp.float32)  # sums in float32, as those of a convolution
    x, kernel = jnp.pad(x, ((0, 0), *pairs, (0, 0))).astype(wide), kernel.astype(wide)
    rows, columns = (x.shape[1] - kh) // stride * stride + 1, (x.shape[2] - kw) // stride * stride + 1
    total = jnp.zeros((), wide)
    for i in range(kh):
        for j in range(kw):
            total += x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
    return total.astype(dtype)


def _pairs(padding: Padding, size, kernel, stride: int, dilation: int) -> Pairs:
    if padding == "SAME":
        rows, columns = (same_padding(n, k, stride, dilation) for n, k in zip(size, kernel, strict=True))
        return rows, columns
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    if isinstance(padding, str):
        raise ValueError(f"padding {padding!r}: expected a number, pairs or 'SAME'")
    return padding
