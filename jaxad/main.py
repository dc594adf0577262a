"""The command line: `python -m jaxad.main --config configs/patchcore.py:mirad/rabbit_pendant --workdir runs/x`.

Short on purpose: flags, one call, and errors reported in one line. Everything else can be imported and tested.
"""

import logging
import sys
import warnings

from absl import app, flags

from jaxad import stopping
from jaxad.config import checked_arguments, define_config_flag
from jaxad.errors import UserError, in_one_line

MODES = ("train_and_evaluate", "train", "evaluate", "predict")

_CONFIG = define_config_flag(
    "config", "Config file and, after a colon, the data set: configs/patchcore.py:mirad/rabbit_pendant"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, logs, results. The same folder resumes the run."
)
_MODE = flags.DEFINE_enum("mode", MODES[0], MODES, "What to do; evaluate and predict use the checkpoints in --workdir.")
_IMAGES = flags.DEFINE_string("images", None, "--mode=predict: an image, or a folder of images.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "--mode=predict: where to write; by default the folder predictions in --workdir."
)
_MAPS = flags.DEFINE_enum("map_format", "png16", ("png16", "npy"), "--mode=predict: file format of the anomaly maps.")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed", "auto", ("auto", "on", "off"), "Join other processes: if any are detected, always, never."
)


def main(arguments: list[str]) -> None:
    show_messages()
    if len(arguments) > 1:
        raise UserError(f"unexpected argument {arguments[1]!r}: options begin with --")
    for flag in (_CONFIG, _WORKDIR):
        if not flag.value:
            raise UserError(f"--{flag.name} is missing; python -m jaxad.main --help lists the options")
    config, workdir, images = _CONFIG.value, str(_WORKDIR.value), _IMAGES.value
    if (_MODE.value == "predict") != bool(images):
        raise UserError("--mode=predict and --images=DIR_OR_FILE go together")
    if images and "benchmark" in config:
        raise UserError("--mode=predict needs one model: give the --config of its method, and its folder as --workdir")

    from jaxad import benchmark, experiment, inference, sharding

    sharding.start_processes(_DISTRIBUTED.value)
    sharding.use_compilation_cache()
    experiment.describe_devices()
    if images:
        inference.predict_files(config, workdir, images, _OUTPUT.value, _MAPS.value)  # pyright: ignore[reportArgumentType]
    elif "benchmark" in config:
        benchmark.run(config, workdir, _MODE.value)
    else:
        experiment.run(config, workdir, _MODE.value)


def show_messages() -> None:
    """jaxad's own messages from INFO on, those of the libraries below it from WARNING on, Orbax's from ERROR on."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    logging.getLogger("jaxad").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)


def run() -> None:
    """Entry point: a UserError ends the program with its message and status 2, a request to stop with status 75, which
    launch scripts take for "start me again".
    """
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    try:
        stopping.catch_signals()
        app.run(main, flags_parser=_parse)
    except UserError as error:
        message = " ".join(str(error).split())
        print(f"jaxad: error: {message}", file=sys.stderr, flush=True)
        _leave(2, message)
    except stopping.Stopped as stopped:
        where = f" {stopped}" * bool(str(stopped))
        print(f"jaxad: stopped{where}; the same command continues from there", file=sys.stderr, flush=True)
        _leave(stopping.STATUS, "it was asked to stop")
    except KeyboardInterrupt:
        print("jaxad: stopped; the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _leave(status: int, message: str) -> None:
    """Ends this process; the other processes of the run, if there are any, learn why."""
    if "jax" in sys.modules:
        from jaxad import processes

        processes.leave(status, message)
    sys.exit(status)


def _parse(arguments: list[str]) -> list[str]:
    """Parses with absl, whose errors become UserErrors, as do those of Python's parser of values."""
    try:
        whole = flags.FLAGS.read_flags_from_files(arguments, force_gnu=False)
        return flags.FLAGS(checked_arguments(whole))
    except (flags.Error, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(in_one_line(error)) from error


if __name__ == "__main__":
    run()
