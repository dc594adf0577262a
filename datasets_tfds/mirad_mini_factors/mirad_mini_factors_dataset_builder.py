"""The products of mirad_mini under reference imaging, and the same scenes with one imaging factor varied."""

from collections.abc import Sequence

from datasets_tfds.mirad_mini import generate
from datasets_tfds.mirad_mini.mirad_mini_dataset_builder import GeneratedBuilder

TRAIN, GOOD, ANOMALOUS = 80, 30, 30


class Builder(GeneratedBuilder):
    """TFDS builder; the splits are `train` and `test` under the reference imaging; `test_view`, `test_illumination`,
    `test_resolution`, `test_background`, `test_motion` and `test_noise` with that factor varied; `train_mixed` and
    `test_mixed` with all of them varied. All splits whose names begin with test show the same scenes in the same order.
    """

    @property
    def parts(self) -> Sequence[generate.Part]:
        return generate.factor_parts(TRAIN, GOOD, ANOMALOUS)
