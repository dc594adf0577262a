"""The demo: PatchCore on photographs of solar cells (ELPV), one model for monocrystalline cells, one for the others.

python -m jaxad.main --config=configs/demo.py --workdir=runs/demo
"""

from ml_collections import ConfigDict

from configs import patchcore


def get_config(argument: str = "elpv") -> ConfigDict:
    return patchcore.get_config(f"{argument},lite")
