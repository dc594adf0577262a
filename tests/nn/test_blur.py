import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from jaxad.nn.blur import gaussian_blur

MAPS = np.random.default_rng(0).normal(size=(2, 40, 25)).astype(np.float32)


@pytest.mark.parametrize(("border", "scipy_mode"), [("symmetric", "reflect"), ("reflect", "mirror")])
@pytest.mark.parametrize(("sigma", "truncate"), [(4.0, 4.0), (1.3, 2.0), (12.0, 4.0)])
def test_blur_equals_scipy(border, scipy_mode, sigma, truncate):
    want = [gaussian_filter(m.astype(np.float64), sigma, mode=scipy_mode, truncate=truncate) for m in MAPS]
    got = gaussian_blur(jnp.asarray(MAPS), sigma, truncate=truncate, border=border)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_radius_overrides_truncation():
    want = [gaussian_filter(m.astype(np.float64), 4.0, radius=2) for m in MAPS]
    np.testing.assert_allclose(gaussian_blur(jnp.asarray(MAPS), 4.0, radius=2), want, atol=1e-6)
