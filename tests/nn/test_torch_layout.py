import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxad.errors import UserError
from jaxad.nn.conv import Conv, ConvTranspose
from jaxad.nn.linear import Dense
from jaxad.nn.norm import BatchNorm
from jaxad.nn.torch_layout import from_state_dict, to_state_dict


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = BatchNorm(name="bn_0")(Conv(4, 3, name="conv_0")(x), train=False)
        return Dense(5, name="fc")(ConvTranspose(3, 2, name="up")(x))


SHAPES = jax.eval_shape(Net().init, jax.random.key(0), jnp.zeros((1, 8, 8, 2)))
STATE = {
    "net.conv.0.weight": np.arange(4 * 2 * 3 * 3.0).reshape(4, 2, 3, 3),
    "net.conv.0.bias": np.arange(4.0),
    "net.bn.0.weight": np.arange(4.0),
    "net.bn.0.bias": np.arange(4.0),
    "net.bn.0.running_mean": np.arange(4.0),
    "net.bn.0.running_var": np.arange(4.0),
    "net.up.weight": np.arange(4 * 3 * 2 * 2.0).reshape(4, 3, 2, 2),
    "net.up.bias": np.arange(3.0),
    "net.fc.weight": np.arange(15.0).reshape(5, 3),
    "net.fc.bias": np.arange(5.0),
}


def name(path):
    return "net." + path.replace("_0", ".0")


def test_each_layer_is_laid_out_for_flax():
    params = from_state_dict(SHAPES, STATE, name)["params"]
    weight, up = STATE["net.conv.0.weight"], STATE["net.up.weight"]
    assert params["conv_0"]["kernel"][2, 1, 0, 3] == weight[3, 0, 2, 1]
    assert params["up"]["transposed_kernel"][1, 0, 3, 2] == up[3, 2, 0, 1]
    assert params["fc"]["kernel"][2, 4] == STATE["net.fc.weight"][4, 2]
    assert params["fc"]["kernel"].dtype == jnp.float32


def test_names_and_layouts_go_back_unchanged():
    back = to_state_dict(from_state_dict(SHAPES, STATE, name), name)
    assert back.keys() == STATE.keys()
    for key, value in STATE.items():
        np.testing.assert_array_equal(back[key], value)


def test_a_missing_entry_and_a_wrong_shape_are_named():
    rest = {key: value for key, value in STATE.items() if key != "net.up.weight"}
    with pytest.raises(UserError, match=r"w\.pth: no entry 'net\.up\.weight' \(expected shape \(4, 3, 2, 2\)\)"):
        from_state_dict(SHAPES, rest, name, "w.pth")
    wrong = {**STATE, "net.fc.weight": np.zeros((3, 5))}
    with pytest.raises(UserError, match=r"'net\.fc\.weight' has shape \(3, 5\), expected \(5, 3\)"):
        from_state_dict(SHAPES, wrong, name)
