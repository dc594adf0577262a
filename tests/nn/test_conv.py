import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.nn import conv

FORMS = (conv._shifted_multiples, conv._grouped)
CYCLE = np.float32((np.arange(18) % 7) - 3)


def random(shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_depthwise_equals_torch():
    x = np.float32(np.arange(40) % 6).reshape(1, 2, 4, 5).transpose(0, 2, 3, 1)
    y = conv.depthwise(jnp.asarray(x), jnp.asarray(CYCLE.reshape(2, 1, 3, 3).transpose(2, 3, 1, 0)), 2, 1)
    want = np.float32([-13, 1, 1, -13, -5, -13, -4, -4, -3, -6, 0, 7]).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(np.transpose(y, (0, 3, 1, 2)), want)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, (8, 9)), (3, 2, (8, 9)), (5, 2, (7, 12))])
def test_both_depthwise_forms_agree(kernel, stride, size):
    x, k = random((2, *size, 6)), random((kernel, kernel, 1, 6))
    pairs = tuple(conv.same_padding(n, kernel, stride) for n in size)
    mine, xla = (jax.jit(form, static_argnums=(2, 3))(x, k, stride, pairs) for form in FORMS)
    np.testing.assert_allclose(mine, xla, rtol=1e-5, atol=1e-5)


def test_both_depthwise_forms_have_the_same_gradients():
    x, k = random((2, 6, 5, 4)), random((3, 3, 1, 4))

    def gradients(form):
        return jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.sin(form(x, k, 2, ((0, 1), (1, 1))))), (0, 1)))(x, k)

    for mine, xla in zip(*map(gradients, FORMS), strict=True):
        np.testing.assert_allclose(mine, xla, rtol=1e-5, atol=1e-5)


def test_the_fast_depthwise_form_is_taken_on_cpu_only(monkeypatch):
    x, k = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 1, 2))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(conv.depthwise)(x, k))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "conv_general_dilated" in str(jax.make_jaxpr(lambda x, k: conv.depthwise(x, k))(x, k))


@pytest.mark.parametrize("size", [7, 8, 15, 16])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_same_padding_is_that_of_xla(size, kernel, stride):
    (want,) = jax.lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")
    assert conv.same_padding(size, kernel, stride) == want


def test_conv_pads_as_told():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))

    def output(padding):
        module = conv.Conv(4, 3, stride=2, padding=padding)
        return module.apply(module.init(jax.random.key(1), x), x)

    np.testing.assert_array_equal(output(1), output(((1, 1), (1, 1))))
    np.testing.assert_array_equal(output("SAME"), output(((0, 1), (0, 1))))
    assert not np.allclose(output("SAME"), output(1))
    with pytest.raises(ValueError, match="'VALID'"):
        output("VALID")


def test_conv_starts_as_torch_does():
    module = conv.Conv(64, 3)
    params = module.init(jax.random.key(0), jnp.zeros((1, 3, 3, 16)))["params"]
    bound = (16 * 9) ** -0.5
    for values in params.values():
        assert 0.9 * bound < np.max(np.abs(values)) <= bound
    assert np.std(params["kernel"]) == pytest.approx(bound / np.sqrt(3), rel=0.03)


def test_transposed_convolution_without_overlap_equals_its_general_form():
    """The general form, of a kernel padded to overlap, is the one compared with PyTorch."""
    x, kernel = random((2, 3, 4, 5)), random((2, 2, 5, 6))
    padded = np.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))  # rows run backwards: a zero after the last tap
    params = {"params": {"transposed_kernel": kernel}}
    tiled = conv.ConvTranspose(6, 2, stride=2, use_bias=False).apply(params, x)
    general = conv.ConvTranspose(6, 3, stride=2, use_bias=False).apply({"params": {"transposed_kernel": padded}}, x)
    assert tiled.shape == (2, 6, 8, 6)
    np.testing.assert_allclose(general[:, :6, :8], tiled, rtol=1e-5, atol=1e-5)


def test_transposed_convolution_equals_torch():
    weight = np.float32((np.arange(54) % 7) - 3).reshape(2, 3, 3, 3) / 4
    x = np.float32(np.arange(12) % 5).reshape(1, 2, 2, 3).transpose(0, 2, 3, 1)
    kernel = weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    module = conv.ConvTranspose(3, 3, stride=2, padding=1, output_padding=1)
    y = module.apply({"params": {"transposed_kernel": kernel, "bias": np.float32([0.5, -1, 0])}}, x)
    assert y.shape == (1, 4, 6, 3)
    want = [
        [[0.5, 0.75, 1.0], [-3.25, -0.75, 0.5], [1.25, 1.5, 0.5], [1.25, -2.5, 1.25]],
        [[-0.5, 0.75, 2.0], [-2.5, -2.25, -3.25], [3.25, 2.0, -0.5], [-3.75, -2.0, -1.5]],
        [[-0.75, -2.0, -3.25], [2.5, 2.25, 0.75], [-4.5, -2.0, -0.75], [0.75, 1.0, 0.0]],
    ]
    np.testing.assert_allclose(np.transpose(y, (0, 3, 1, 2))[0, :, :, ::2], want, atol=1e-6)


@pytest.mark.parametrize(
    "module",
    [
        conv.Conv(6, 3, stride=2, padding="SAME"),
        conv.Conv(4, 3, padding=1, groups=4),
        conv.Conv(4, 3, padding=1, groups=2),
        conv.ConvTranspose(6, 3, stride=2, padding=1, output_padding=1),
        conv.ConvTranspose(6, 2, stride=2),
    ],
    ids=["plain", "depthwise", "grouped", "transposed", "transposed without overlap"],
)
def test_convolutions_compute_in_the_type_of_their_input_with_float32_parameters(module):
    x = jnp.asarray(random((2, 8, 8, 4)))
    variables = module.init(jax.random.key(0), x.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    y, want = module.apply(variables, x.astype(jnp.bfloat16)), module.apply(variables, x)
    assert (y.dtype, want.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(y.astype(jnp.float32), want, atol=0.02)


def test_shifted_multiples_are_summed_in_float32():
    x, k = jnp.full((1, 7, 7, 1), 1.0, jnp.bfloat16), jnp.full((7, 7, 1, 1), 0.00390625, jnp.bfloat16).at[0, 0].set(1)
    y = conv._shifted_multiples(x, k, 1, ((0, 0), (0, 0)))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y.ravel(), jnp.bfloat16(1 + 48 / 256))
