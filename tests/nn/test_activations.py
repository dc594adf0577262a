import numpy as np
import pytest
import scipy.special

from jaxad.errors import UserError
from jaxad.nn.activations import activation

X = np.float32([-2, -0.5, 0, 0.3, 3])


def test_gelu_is_the_exact_one():
    np.testing.assert_allclose(
        activation("gelu")(X), [-0.04550028, -0.15426877, 0, 0.18537344, 2.9959497], rtol=1e-5, atol=1e-7
    )


def test_quick_gelu_is_a_scaled_sigmoid():
    np.testing.assert_allclose(activation("quick_gelu")(X), X * scipy.special.expit(1.702 * X), rtol=1e-5)


def test_unknown_activation_names_the_near_one():
    with pytest.raises(UserError, match="'gelu'"):
        activation("gleu")
