"""Raw data that comes as an archive: found or downloaded, then unpacked whole or not at all.

TFDS's own downloads need TensorFlow. Here gdown downloads (it handles Google Drive's confirmation pages, and resumes
what an interrupted run began), and zipfile and tarfile unpack. Only plain files and folders are written, all of them
below the target: this is stricter than `tarfile.data_filter`, which early releases of Python 3.11 do not have.
"""

import errno
import hashlib
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from jaxad.errors import UserError
from jaxad.files import locked

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")

_UNFINISHED = ".part"  # suffix of what is not complete yet
_CONNECT_SECONDS, _READ_SECONDS = 8.0, 30.0
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, UnicodeError, ValueError)
_PAGE, _EMPTY = "a web page", "an empty file"
_OTHERS = {b"rar!\x1a": "a RAR archive", b"7z\xbc\xaf\x27\x1c": "a 7z archive"}
_UNREADABLE_ZIP = (RuntimeError, NotImplementedError)  # encrypted, or compressed in a way that zipfile does not know


@dataclass(frozen=True)
class Source:
    """Where an archive comes from.

    Attributes:
      file: the archive's published name, for instance "MIRAD.zip".
      url: the archive's address, on Google Drive or anywhere else; "" where it can only be downloaded by hand.
      pages: the web page for people to visit.
    """

    file: str
    url: str = ""
    pages: str = ""


def raw_folder(
    name: str,
    manual_dir: Path | None,
    downloads: Path,
    is_root: Callable[[Path], bool],
    source: Source | None,
    how: str,
) -> Path:
    """The folder of a data set's raw data: the user's own, or else one that is unpacked, or downloaded and unpacked.

    These are tried in turn: `manual_dir`, `manual_dir/NAME`, folders in `manual_dir` and one level deeper; an archive
    in `manual_dir` or `manual_dir/NAME`; the archive an earlier run downloaded, or what it unpacked; a download.

    Args:
      name: the data set's name.
      manual_dir: where the user put raw data; None where there is none.
      downloads: the folder for archives; they are unpacked to `downloads/extracted/NAME-FINGERPRINT`.
      is_root: whether a folder is the root of the raw data.
      source: the archive; None where none was published.
      how: the end of error messages: what is expected, how to get it, and where to put it when there is no network.

    Raises:
      UserError: nothing is found and nothing can be downloaded; the archive is broken, unsafe or of something else;
        the disk is full.
    """
    if manual_dir is not None:
        if found := find_root(manual_dir, name, is_root):
            return found
        if archive := _archive_in(manual_dir, name, source):
            return _unpacked_root(archive, name, downloads, is_root, how)
    looked = f"in {manual_dir}" if manual_dir is not None else f"in {downloads / 'manual'}"
    if source is None:
        raise UserError(f"{name}: no raw data {looked}; {how}")
    archive = downloads / source.file
    if not archive.is_file():
        unpacked = [f for f in downloads.glob(f"extracted/{name}-*") if f.suffix != _UNFINISHED]
        for earlier in sorted(unpacked, key=lambda f: f.stat().st_mtime, reverse=True):
            if found := find_root(earlier, name, is_root):
                return found
        if not source.url:
            raise UserError(f"{name}: no raw data {looked}, and it cannot be downloaded automatically; {how}")
        with locked(downloads / f".{name}.lock"):
            if not archive.is_file():  # another process may just have downloaded it
                print(f"{name}: no raw data {looked}; downloading {source.url} to {archive}", flush=True)
                download(source, archive, name, how)
    return _unpacked_root(archive, name, downloads, is_root, how)


def find_root(folder: Path, name: str, is_root: Callable[[Path], bool]) -> Path | None:
    """The first of `folder`, `folder/NAME`, the folders in `folder` and those one level deeper that is a root."""
    children = _folders_in(folder)
    for candidate in (folder, folder / name, *children, *(g for c in children for g in _folders_in(c))):
        if candidate.is_dir() and is_root(candidate):
            return candidate
    return None


def download(source: Source, archive: Path, name: str, how: str) -> None:
    """Downloads to the file `archive`, which exists only when complete; until then a part beside it can be resumed.

    Raises:
      UserError: no network, no such file, a web page instead of an archive, a full disk.
    """
    import gdown
    import requests

    archive.parent.mkdir(parents=True, exist_ok=True)
    received = _received(archive)
    while not archive.is_file():
        try:
            with tqdm(desc=source.file, unit="B", unit_scale=True, delay=1) as bar:

                def show(so_far: int, total: int | None, bar: tqdm = bar) -> None:
                    bar.total = total
                    bar.update(so_far - bar.n)

                gdown.download(
                    source.url,
                    str(archive),
                    quiet=True,
                    use_cookies=False,
                    resume=True,
                    timeout=(_CONNECT_SECONDS, _READ_SECONDS),
                    progress=show,
                )
        except (requests.exceptions.RequestException, gdown.DownloadError) as error:
            before, received = received, _received(archive)
            if received > before:
                continue  # the connection broke, but some data arrived
            if isinstance(error, gdown.DownloadError) and received and "byte range" in str(error):
                _part(archive).unlink()  # the file has changed, or the server cannot resume
                received = 0
                continue
            raise UserError(f"{name}: the download of {source.url} failed ({_reason(error)}); {how}") from error
        except OSError as error:
            raise _disk_error(error, archive.parent, f"downloading {source.file}") from error
    what = _looks_like(archive)
    if what in (_PAGE, _EMPTY):
        archive.unlink()
        raise UserError(
            f"{name}: {source.url} sent {what} instead of the archive {source.file} (Google Drive does so when too "
            f"many people download a file): try again later, or use a browser at {source.pages or source.url}; {how}"
        )


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a zip or tar archive to `folder`, which then exists whole, or not at all.

    Permissions and owners are not kept. A link in a tar archive becomes a copy of the archived file that it names.

    Raises:
      UserError: the file is not an archive or is broken; a member would leave the folder or is not a plain file; the
        disk is full. Nothing is kept then.
    """
    kind = _kind(archive)
    if not kind:
        what = _looks_like(archive)
        todo = "delete it and get it again"
        if what in _OTHERS.values():
            todo = "unpack it with another program and set config.dataset.manual_dir to that folder"
        raise UserError(f"{archive} is {what}, expected a zip or tar archive: {todo}")
    part = folder.with_name(f"{folder.name}{_UNFINISHED}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if part.exists():  # left by a killed run
            shutil.rmtree(part)
        part.mkdir()
        members = _zip_members(archive) if kind == "zip" else _tar_members(archive, compressed=kind != "tar")
        for name, content in tqdm(members, desc=f"unpacking {archive.name}", unit=" files"):
            target = part / _inside(name, archive)
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
        part.rename(folder)
    except _UNREADABLE_ZIP as error:
        raise UserError(f"{archive} cannot be unpacked here ({error}): unpack it with another program") from error
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{archive} ({archive.stat().st_size} bytes) is broken or incomplete ({reason}): delete it and get it again"
        ) from error
    except OSError as error:
        raise _disk_error(error, folder.parent, f"unpacking {archive}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unpacked_root(archive: Path, name: str, downloads: Path, is_root: Callable[[Path], bool], how: str) -> Path:
    status = archive.stat()
    digest = hashlib.sha256(os.fsencode(archive.absolute()))
    digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}".encode())
    folder = downloads / "extracted" / f"{name}-{digest.hexdigest()[:12]}"
    with locked(downloads / f".{name}.lock"):
        if not folder.is_dir():
            print(f"{name}: unpacking {archive} to {folder}", flush=True)
            unpack(archive, folder)
    if found := find_root(folder, name, is_root):
        return found
    raise UserError(f"{name}: {archive} was unpacked to {folder}, which does not hold the data set; {how}")


def _archive_in(manual_dir: Path, name: str, source: Source | None) -> Path | None:
    """The data set's archive: in the folder `name`, with the published name or the data set's, or the only file."""
    own = [*_archives_in(manual_dir / name)]
    shared = _archives_in(manual_dir)
    if source is not None:
        own += [a for a in shared if a.name.lower() == source.file.lower()]
    own += [a for a in shared if letters(a.name).startswith(letters(name))]
    if not own and len(shared) == 1 and len([f for f in manual_dir.iterdir() if not f.name.startswith(".")]) == 1:
        own = shared
    return own[0] if own else None


def _archives_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.name.lower().endswith(SUFFIXES) and f.is_file())


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    except OSError:  # not a folder, or not readable
        return []


def letters(name: str) -> str:
    """The name's letters and digits in lower case: equal for "Metal Nut", "metal_nut" and "metal-nut"."""
    return "".join(c for c in name.lower() if c.isalnum())


def _kind(archive: Path) -> str:
    """The type by the file's first bytes: "zip", "tar", "tar.gz", "tar.bz2" or "tar.xz"; "" for anything else."""
    try:
        with archive.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise UserError(f"{archive} cannot be read ({error.strerror}): check the file and its permissions") from error
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return "zip"
    for kind, magic in (("tar.gz", b"\x1f\x8b"), ("tar.bz2", b"BZh"), ("tar.xz", b"\xfd7zXZ\0")):
        if start.startswith(magic):
            return kind
    return "tar" if tarfile.is_tarfile(archive) else ""


def _looks_like(archive: Path) -> str:
    with archive.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        return _EMPTY
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return _PAGE
    return next((what for magic, what in _OTHERS.items() if start.startswith(magic)), "not an archive")


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, info.filename, "is a link or a device")
            name = info.filename.replace("\\", "/")  # some programs on Windows write these
            yield name, None if name.endswith("/") or kind == stat.S_IFDIR else file.open(info)


def _tar_members(archive: Path, compressed: bool) -> Iterator[tuple[str, IO[bytes] | None]]:
    if not compressed:  # a compressed file that was cut short raises by itself
        with archive.open("rb") as file:
            file.seek(max(archive.stat().st_size - 512, 0))
            if file.read() != bytes(512):
                raise tarfile.ReadError("the end of the archive is missing")
    with tarfile.open(archive) as file:
        for member in file:
            if member.isdir():
                yield member.name, None
                continue
            if not (member.isfile() or member.issym() or member.islnk()):
                raise _refused(archive, member.name, "is a device")
            try:
                content = file.extractfile(member)
            except (KeyError, RecursionError):
                content = None
            if content is None:
                why = f"is a link to {member.linkname}, which is not a file in the archive"
                raise _refused(archive, member.name, why)
            yield member.name, content


def _inside(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise _refused(archive, name, "would be written outside the folder")
    return path


def _refused(archive: Path, member: str, why: str) -> UserError:
    return UserError(
        f"{archive} is refused: its member {member!r} {why}; get the archive from where it was published, or unpack it "
        "yourself, with care, and set config.dataset.manual_dir to that folder"
    )


def _disk_error(error: OSError, folder: Path, doing: str) -> UserError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    reason = "is full" if full else f"cannot be written ({error.strerror or error})"
    return UserError(f"{folder} {reason} while {doing}: set config.dataset.data_dir to a folder with free space")


def _reason(error: Exception) -> str:
    """What went wrong with a download, on one line, without the names of urllib3's classes."""
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return re.sub(r"^HTTPS?Connection(Pool)?\([^)]*\): ", "", " ".join(str(cause).split()))[:300]


def _part(archive: Path) -> Path:
    """The file in which gdown collects the archive; a path that does not exist until it has begun."""
    names = [f for f in archive.parent.glob(f"*{_UNFINISHED}") if f.name.startswith(archive.name)]
    return names[0] if names else archive.with_name(f"{archive.name}{_UNFINISHED}")


def _received(archive: Path) -> int:
    part = _part(archive)
    return part.stat().st_size if part.is_file() else 0
