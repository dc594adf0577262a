"""The demo: PatchCore on photographs of solar cells (ELPV), one model for the monocrystalline, one for the other ones.

python -m jaxad.main --config=configs/demo.py --workdir=runs/demo
"""

from ml_collections import ConfigDict

from configs import patchcore_lite


def get_config(dataset: str = "elpv") -> ConfigDict:
    return patchcore_lite.get_config(dataset)
