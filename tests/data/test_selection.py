"""Images selected by their properties."""

import numpy as np
import pytest

from jaxad.data.selection import select
from jaxad.errors import UserError

INDEX = {
    "image_id": ["a.png", "b.png", "c.png", "d.png"],
    "label": [0, 0, 1, 1],
    "defect_type": ["good", "good", "scratch", "hole"],
    "has_mask": [True] * 4,
    "size": [[3, 4]] * 4,
    "node": ["1", "2", "3", "3"],
    "tilt": [0.0, 12.5, 30.0, 12.5],
}


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ("", [0, 1, 2, 3]),
        ("node=3", [2, 3]),
        ("node!=3", [0, 1]),
        ("node=1|3, label=anomalous", [2, 3]),
        ("tilt>=12.5,tilt<30", [1, 3]),
        ("tilt=12.5", [1, 3]),
        ("defect_type!=good|hole", [2]),
        ("image_id=b.png", [1]),
        ("label=normal,node=3", []),
    ],
)
def test_every_condition_must_hold(where, chosen):
    assert np.flatnonzero(select(where, INDEX, "config.dataset.where")).tolist() == chosen


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nod=3", r"config\.dataset\.where: images have no 'nod'; expected one of .*node.*Did you mean 'node'"),
        ("node=7", r"no image has node=7; there are 1, 2, 3$"),
        ("node", r"'node' is not a condition; expected NAME=VALUE"),
        ("node<2", r"node is text, which has no order"),
        ("tilt>steep", r"'tilt>steep' compares a number with 'steep'"),
        ("size=3", r"images have no 'size'"),
    ],
)
def test_a_mistake_names_the_field_and_what_there_is(where, message):
    with pytest.raises(UserError, match=message):
        select(where, INDEX, "config.dataset.where")
