"""The mesh, where arrays live on it, and runs of many processes: one code path for a CPU, eight GPUs and a TPU pod."""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxad import processes
from jaxad.errors import UserError

logger = logging.getLogger(__name__)

COORDINATOR, PROCESSES, PROCESS = "JAXAD_COORDINATOR", "JAXAD_PROCESSES", "JAXAD_PROCESS"
CLUSTER_MARKS = (
    "SLURM_JOB_ID",
    "MEGASCALE_COORDINATOR_ADDRESS",
    "TPU_WORKER_HOSTNAMES",
    "JOB_COMPLETION_INDEX",
    "OMPI_COMM_WORLD_SIZE",
)


def start_processes(distributed: str = "auto") -> None:
    """Joins this process to the others of the run; does nothing for a single process.

    The variables JAXAD_COORDINATOR (host:port), JAXAD_PROCESSES and JAXAD_PROCESS, if set, say who takes part
    (launch/local). Otherwise, under Slurm, GKE, MPI or on a TPU pod of several workers, JAX detects it by itself.

    Args:
      distributed: "auto"; "on", to let JAX look for a cluster even where no sign of one is seen; or "off".

    Raises:
      UserError: the variables are incomplete, or no cluster answers.
    """
    given = [name for name in (COORDINATOR, PROCESSES, PROCESS) if os.environ.get(name)]
    if distributed == "off" or (distributed == "auto" and not given and not _in_cluster()):
        return
    if 0 < len(given) < 3:
        raise UserError(
            f"only {', '.join(given)} is set: a run of many processes needs {COORDINATOR}, {PROCESSES} and {PROCESS}"
        )
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from jaxad.stopping
    if os.environ.get("JAX_PLATFORMS", "") == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if given:
            jax.distributed.initialize(os.environ[COORDINATOR], int(os.environ[PROCESSES]), int(os.environ[PROCESS]))
        else:
            jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"cannot join the other processes: {str(error).splitlines()[0]}; --distributed=off runs alone"
        ) from error


def _in_cluster() -> bool:
    if os.environ.get("SLURM_JOB_ID") and os.environ.get("SLURM_NTASKS", "1") == "1":
        return False
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES")
    return any(os.environ.get(mark) for mark in CLUSTER_MARKS if mark != "TPU_WORKER_HOSTNAMES") or bool(
        hosts and "," in hosts
    )


def processes_of_this_host() -> int:
    """How many processes of the run share this machine, as far as is known: all of a local launch, else this one."""
    host, _, _ = os.environ.get(COORDINATOR, "").rpartition(":")
    return int(os.environ.get(PROCESSES, 1)) if host in ("127.0.0.1", "localhost", "[::1]") else 1


def use_compilation_cache(directory: str | os.PathLike | None = None) -> None:
    """Keeps compiled programs between runs, by default in $JAX_COMPILATION_CACHE_DIR or ~/.cache/jaxad/xla."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR") and directory is None:
        return
    path = Path(directory or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "jaxad" / "xla")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("No compilation cache: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def set_precision(precision: str) -> None:
    """Sets how exact products of float32 arrays are in this process, on devices that can trade exactness for speed.

    Args:
      precision: `config.precision`: "highest" is float32, "high" TF32 or three passes of bfloat16, "default" the
        platform's fastest.
    """
    jax.config.update("jax_default_matmul_precision", precision)


def part_of(mesh: Mesh) -> tuple[int, int]:
    """This process's place among the processes that own devices of the mesh, and their number.

    Raises:
      ValueError: it owns none.
    """
    owners = list(dict.fromkeys(device.process_index for device in mesh.devices.flat))
    return owners.index(jax.process_index()), len(owners)


def gather_rows(mesh: Mesh, rows: np.ndarray, batch: int) -> np.ndarray:
    """The rows of all processes of the mesh, each of which read its own part of every batch of `batch` rows, in global
    order.
    """
    count = part_of(mesh)[1]
    if count == 1:
        return rows
    parts = to_host(put_batch(mesh, {"rows": rows}))["rows"]
    cut = parts.reshape(count, -1, batch // count, *rows.shape[1:])
    return cut.swapaxes(0, 1).reshape(-1, *rows.shape[1:])


def make_mesh(model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """All devices as a ("data", "model") mesh; `model` devices share one copy of the partitioned parameters.

    The axes are Auto: the compiler places intermediate arrays, given where inputs and outputs live.

    Raises:
      UserError: `model` does not divide the number of devices of a process.
    """
    devices = list(devices if devices is not None else jax.devices())
    local = min(len(devices), jax.local_device_count())
    if model < 1 or local % model:
        raise UserError(
            f"config.mesh.model is {model}; expected a number that divides the {local} devices of a process"
        )
    shape = (len(devices) // model, model)
    return jax.make_mesh(shape, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def fitting(mesh: Mesh, spec: PartitionSpec, shape: Sequence[int]) -> NamedSharding:
    """`spec` on the mesh, except that array axes not divisible by their mesh axes are left whole."""
    kept = []
    for size, names in zip(shape, tuple(spec) + (None,) * (len(shape) - len(spec)), strict=True):
        axes = (names,) if isinstance(names, str) else names or ()
        parts = int(np.prod([mesh.shape[a] for a in axes]))
        kept.append(names if size % parts == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*kept))


def path_names(tree: Any, prefix: str = "") -> Any:
    """The tree with every leaf replaced by its path, "params/decoder/kernel"."""

    def name(key) -> str:
        return str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))))

    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join([prefix] * bool(prefix) + [name(k) for k in path]), tree
    )


def shardings(mesh: Mesh, tree: Any, rules: Sequence[tuple[str, PartitionSpec]], prefix: str = "") -> Any:
    """Where every array of the tree lives: as the first rule that matches its path says, or else replicated."""

    def place(path, leaf):
        spec = next((spec for match, spec in rules if re.search(match, path)), PartitionSpec())
        return fitting(mesh, spec, np.shape(leaf))

    return jax.tree.map(place, path_names(tree, prefix), tree)


def beside_parameters(optimizer_state: Any, trained: Any, mesh: Mesh) -> Any:
    """Where an optimizer's state lives: moments beside the parameter they belong to, the rest replicated."""
    places: dict[tuple, Any] = dict(traverse_util.flatten_dict(trained))

    def within(owner: tuple, keys: tuple) -> bool:
        """Whether the parameter's path is part of the keys, in its order: optimizers put their own keys between."""
        left = iter(keys)
        return all(key in left for key in owner)

    def place(path, leaf):
        keys = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        owners = [owner for owner in places if owner[-1:] == keys[-1:] and places[owner].shape == np.shape(leaf)]
        owner = max((owner for owner in owners if within(owner, keys)), key=len, default=None)
        return NamedSharding(mesh, PartitionSpec()) if owner is None else places[owner].sharding

    return jax.tree_util.tree_map_with_path(place, optimizer_state)


def put(tree: Any, where: Any) -> Any:
    """Puts host arrays, the same in every process, on the devices of their shardings."""

    def place(leaf, sharding):
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree, where)


def put_batch(mesh: Mesh, batch: Mapping[str, Any], whole: bool = False) -> dict[str, Any]:
    """Puts one batch on the devices: each process gives its part of the rows, or, with `whole`, all rows, which every
    device then holds.
    """
    spec = PartitionSpec() if whole else PartitionSpec("data")
    sharding = NamedSharding(mesh, spec)

    def place(leaf):
        leaf = np.asarray(leaf)
        if whole:
            return put(leaf, sharding)
        return jax.make_array_from_process_local_data(sharding, leaf)

    return jax.tree.map(place, dict(batch))


def to_host(tree: Any) -> Any:
    """NumPy copies of the arrays; rows of other processes are fetched from them, so every process must call it."""

    def fetch(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return np.asarray(leaf)
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(fetch, tree)


def wait_for_all(name: str, mesh: Mesh | None = None) -> None:
    """Returns once every process of the mesh (of the run, without one) has got here, however long that takes.

    Args:
      mesh: of this process alone, or of all processes.

    Raises:
      UserError: another process ended.
    """
    if mesh is None or part_of(mesh)[1] > 1:
        processes.from_all(name, "")


def from_first(value: Any, name: str, mesh: Mesh) -> Any:
    """The value that the first process of the mesh gives, in all of them; it is passed on as JSON.

    Arguments and errors as in `wait_for_all`.
    """
    if part_of(mesh)[1] == 1:
        return value
    return json.loads(processes.from_first(name, lambda: json.dumps(value)))


def in_any_process(mesh: Mesh, flag: bool) -> bool:
    """Whether `flag` holds in any of the processes that share the mesh, all of which call this."""
    if part_of(mesh)[1] == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))
