import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxad.errors import UserError
from jaxad.nn.resize import interpolation_matrix, resize

IMAGE = np.float32([[0, 1, 4, 2], [3, -1, 0.5, 7], [2, 2, 5, -3]])

# torch.nn.functional.interpolate of IMAGE: method, align_corners, antialias, size, values.
REFERENCE = [
    ("nearest", False, False, (2, 3), [0, 1, 4, 3, -1, 0.5]),
    ("nearest", False, False, (5, 2), [0, 4, 0, 4, 3, 0.5, 3, 0.5, 2, 5]),
    ("bilinear", False, False, (2, 3), [0.708333, 1.8125, 3.22917, 2.08333, 2.5625, 0.229166]),
    ("bilinear", False, False, (5, 2), [0.5, 3, 0.7, 3.3, 1, 3.75, 1.6, 2.1, 2, 1]),
    ("bilinear", False, True, (2, 3), [0.8625, 1.46875, 3.51875, 1.925, 2.09375, 1.51875]),
    (
        "bilinear",
        False,
        True,
        (5, 2),
        [1, 2.71429, 0.971429, 2.85714, 0.928571, 3.07143, 1.82857, 1.91429, 2.42857, 1.14286],
    ),
    ("bilinear", True, False, (2, 3), [0, 2.5, 2, 2, 3.5, -3]),
    ("bilinear", True, False, (5, 2), [0, 2, 1.5, 4.5, 3, 7, 2.5, 2, 2, -3]),
    ("bicubic", False, False, (2, 3), [0.630333, 1.67865, 3.46713, 2.13147, 2.86627, 0.120454]),
    (
        "bicubic",
        False,
        False,
        (5, 2),
        [0.15725, 3.22275, 0.405437, 3.70556, 0.859375, 3.89062, 1.43144, 2.33756, 1.80125, 1.03075],
    ),
    ("bicubic", False, True, (2, 3), [0.726809, 1.30042, 3.90444, 1.93665, 2.11211, 1.47687]),
    (
        "bicubic",
        False,
        True,
        (5, 2),
        [0.874708, 2.84648, 0.73031, 3.08522, 0.716942, 3.20868, 1.89754, 1.84342, 2.68346, 0.922189],
    ),
    ("bicubic", True, False, (2, 3), [0, 2.78125, 2, 2, 4.25, -3]),
    ("bicubic", True, False, (5, 2), [0, 2, 1.59375, 5.4375, 3, 7, 2.78125, 2.46875, 2, -3]),
]


@pytest.mark.parametrize(("method", "align_corners", "antialias", "size", "want"), REFERENCE)
def test_resize_equals_torch(method, align_corners, antialias, size, want):
    y = resize(jnp.asarray(IMAGE)[None, :, :, None], size, method, align_corners, antialias)
    assert y.shape == (1, *size, 1)
    np.testing.assert_allclose(np.ravel(y), want, rtol=4e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "filter"), [("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)]
)
@pytest.mark.parametrize("size", [(7, 30), (33, 11)])
def test_antialiased_resize_equals_pillow(method, filter, size):
    image = np.random.default_rng(0).normal(size=(20, 17)).astype(np.float32)
    y = resize(jnp.asarray(image)[None, :, :, None], size, method, antialias=True)[0, :, :, 0]
    want = Image.fromarray(image).resize(size[::-1], filter)
    np.testing.assert_allclose(y, np.asarray(want), atol=2e-6)


def test_every_channel_and_image_is_resized_alike():
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)
    rows, columns = interpolation_matrix(5, 8, "bicubic"), interpolation_matrix(6, 4, "bicubic")
    want = np.einsum("oh,bhwc,pw->bopc", rows, x.astype(np.float64), columns)
    np.testing.assert_allclose(resize(jnp.asarray(x), (8, 4), "bicubic"), want, atol=2e-6)


def test_a_constant_stays_constant():
    for method in ("nearest", "bilinear", "bicubic"):
        for old, new in [(7, 3), (3, 7), (1, 4), (4, 1)]:
            np.testing.assert_allclose(interpolation_matrix(old, new, method).sum(1), 1, rtol=1e-12)


def test_unknown_method_names_the_near_one():
    with pytest.raises(UserError, match="'bilinear'"):
        resize(jnp.zeros((1, 2, 2, 1)), (3, 3), "bilinaer")
