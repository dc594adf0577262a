"""Archives: found, or downloaded from a local server; unpacked whole or not at all, and never outside the target."""

import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datasets_tfds import archives
from datasets_tfds.archives import Source, raw_folder, unpack
from jaxad.errors import UserError

ROOT = Path(__file__).parents[2]
FILES = {"set/bottle/train/good/000.png": b"photograph" * 100, "set/readme.txt": b"read"}
MODES = {".zip": "", ".tar": "w", ".tar.gz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
HOW = "put it there"


def make_archive(path: Path, files: dict[str, bytes] = FILES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, MODES["".join(path.suffixes)]) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def is_root(folder: Path) -> bool:
    return (folder / "bottle" / "train").is_dir()


def find(tmp_path: Path, manual_dir: Path | None = None, source: Source | None = None, name: str = "bottles") -> Path:
    return raw_folder(name, manual_dir, tmp_path / "downloads", is_root, source, HOW)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Server:
    """Serves one file locally; records requests, can cut connections, stall, send a page, ignore ranges."""

    def __init__(self, content: bytes):
        self.content, self.ranges, self.break_after = content, True, 0
        self.asked: list[str] = []
        self.stall_after, self.go_on = 0, threading.Event()
        self.content_type = "application/octet-stream"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range", "")
                outer.asked.append(asked)
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and outer.ranges else 0
                if self.path != "/set.zip":
                    return self.send_error(404)
                body = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Type", outer.content_type)
                self.send_header("Content-Length", str(len(body)))
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(outer.content) - 1}/{len(outer.content)}")
                self.end_headers()
                if outer.break_after:
                    body, outer.break_after = body[: outer.break_after], 0
                if outer.stall_after:
                    self.wfile.write(body[: outer.stall_after])
                    outer.go_on.wait(60)
                    return None
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def source(self, path: str = "set.zip") -> Source:
        return Source(file="set.zip", url=f"http://127.0.0.1:{self.server.server_port}/{path}", pages="example.org/set")


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    server = Server(make_archive(tmp_path / "served" / "set.zip").read_bytes())
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.mark.parametrize("suffix", MODES)
def test_unpacked_files_are_those_that_were_packed(tmp_path, suffix):
    unpack(make_archive(tmp_path / f"set{suffix}"), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", f"set{suffix}"]


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["../outside.png", "/outside.png", "a/../../outside.png", "a/../b.png"])
def test_members_that_leave_the_folder_are_refused_by_name(tmp_path, suffix, name):
    archive = make_archive(tmp_path / "in" / f"set{suffix}", {"ok.png": b"1", name: b"2"})
    with pytest.raises(UserError, match=rf"set{suffix} is refused: its member '{name}' would be written outside"):
        unpack(archive, tmp_path / "in" / "out")
    assert list(tmp_path.rglob("*")) == [tmp_path / "in", archive]


def test_backslashes_of_windows_do_not_hide_a_way_out(tmp_path):
    with pytest.raises(UserError, match="would be written outside"):
        unpack(make_archive(tmp_path / "set.zip", {"..\\outside.png": b"2"}), tmp_path / "out")
    unpack(make_archive(tmp_path / "set.zip", {"set\\bottle\\000.png": b"2"}), tmp_path / "out")
    assert contents(tmp_path / "out") == {"set/bottle/000.png": b"2"}


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"1" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "..", "missing.png", "way out"])
def test_links_to_anything_but_files_of_the_archive_are_refused(tmp_path, kind, target):
    archive = tar_of(tmp_path / "set.tar", member("way out", kind, target), member("way out/file.png", size=1))
    with pytest.raises(UserError, match=rf"its member 'way out' is a link to {target}, which is not a file"):
        unpack(archive, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["set.tar"]


def test_link_within_a_tar_archive_becomes_the_file_it_names(tmp_path):
    unpack(
        tar_of(tmp_path / "s.tar", member("a.png", size=3), member("b.png", tarfile.SYMTYPE, "a.png")), tmp_path / "o"
    )
    assert contents(tmp_path / "o") == {"a.png": b"111", "b.png": b"111"}
    assert not (tmp_path / "o" / "b.png").is_symlink()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_are_refused(tmp_path, kind):
    with pytest.raises(UserError, match="its member 'null' is a device"):
        unpack(tar_of(tmp_path / "set.tar", member("null", kind)), tmp_path / "out")


def test_links_in_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("way out")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(link, "/etc")
    with pytest.raises(UserError, match="its member 'way out' is a link or a device"):
        unpack(tmp_path / "set.zip", tmp_path / "out")


@pytest.mark.parametrize("suffix", MODES)
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_an_archive_that_was_cut_short_leaves_nothing(tmp_path, suffix, share):
    rng = random.Random(0)
    archive = make_archive(tmp_path / f"set{suffix}", {f"{i}.png": rng.randbytes(3000) for i in range(9)})
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * share) // 512 * 512])
    with pytest.raises(UserError, match=rf"set{suffix} \(\d+ bytes\) is broken or incomplete \(.+\): delete it"):
        unpack(archive, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == [f"set{suffix}"]


def test_a_changed_byte_is_found(tmp_path):
    archive = make_archive(tmp_path / "set.zip", {"a.png": os.urandom(5000)})
    content = bytearray(archive.read_bytes())
    content[2000] ^= 255
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"set\.zip .* is broken"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"\n<!DOCTYPE html><html>", "a web page"), (b"", "an empty file"), (b"hello" * 200, "not an archive")],
)
def test_what_is_not_an_archive_is_reported(tmp_path, content, what):
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(UserError, match=rf"set\.zip is {what}, expected a zip or tar archive: delete it and get it"):
        unpack(tmp_path / "set.zip", tmp_path / "out")


@pytest.mark.parametrize(("magic", "what"), [(b"Rar!\x1a\x07\x01", "RAR"), (b"7z\xbc\xaf\x27\x1c", "7z")])
def test_archives_that_cannot_be_unpacked_here_are_named_and_kept(tmp_path, server, magic, what):
    server.content = magic + bytes(900)
    with pytest.raises(UserError, match=rf"set\.zip is a {what} archive, .*unpack it with another program"):
        find(tmp_path, source=server.source())
    assert (tmp_path / "downloads" / "set.zip").read_bytes() == server.content


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="needs /dev/full, a file on a disk that is always full")
def test_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    archive = make_archive(tmp_path / "set.zip")
    monkeypatch.setattr(archives.shutil, "copyfileobj", lambda source, file, size: Path("/dev/full").write_bytes(b"1"))
    with pytest.raises(UserError, match=rf"{tmp_path} is full while unpacking .*set\.zip: set config\.dataset"):
        unpack(archive, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["set.zip"]


def test_killed_unpacking_is_not_taken_for_whole_and_its_remains_go(tmp_path):
    manual = make_archive(tmp_path / "manual" / "bottles.zip", {f"set/bottle/train/{i}": b"1" for i in range(9)}).parent
    code = """
import os, shutil, signal, sys
from pathlib import Path
from datasets_tfds import archives
copy, calls = shutil.copyfileobj, []
def dying_copy(*arguments):
    calls.append(arguments)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    copy(*arguments)
shutil.copyfileobj = dying_copy
archives.raw_folder("bottles", Path(sys.argv[1]), Path(sys.argv[2]), lambda f: (f / "bottle").is_dir(), None, "")
"""
    arguments = [sys.executable, "-c", code, str(manual), str(tmp_path / "downloads")]
    killed = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    (remains,) = (tmp_path / "downloads" / "extracted").iterdir()
    assert remains.name.endswith(".part") and len(contents(remains)) == 5
    root = find(tmp_path, manual)
    assert len(contents(root)) == 9
    assert [p.name for p in (tmp_path / "downloads" / "extracted").iterdir()] == [root.parent.name]


def test_what_a_killed_unpacking_left_is_never_used(tmp_path):
    (tmp_path / "downloads" / "extracted" / "bottles-0123456789ab.part" / "bottle" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="it cannot be downloaded automatically; put it there"):
        find(tmp_path, source=Source("set.zip"))


@pytest.mark.parametrize(("field", "value"), [("flag_bits", 1), ("compress_type", 9)])
def test_a_zip_that_needs_another_program_is_reported(tmp_path, field, value):
    content = bytearray(make_archive(tmp_path / "set.zip", {"a.png": b"1"}).read_bytes())
    local, central = {"flag_bits": 6, "compress_type": 8}, {"flag_bits": 8, "compress_type": 10}
    for start, offset in ((b"PK\3\4", local), (b"PK\1\2", central)):
        content[content.index(start) + offset[field]] = value
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"set\.zip cannot be unpacked here \(.*\): unpack it with another program"):
        unpack(tmp_path / "set.zip", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["set.zip"]


def test_folders_are_searched_two_levels_deep_and_the_one_of_the_name_first(tmp_path):
    for place in ("a/set", "bottles/bottle", "z/bottle"):
        (tmp_path / place / "train").mkdir(parents=True)
    assert find(tmp_path, tmp_path) == tmp_path / "bottles"
    assert find(tmp_path, tmp_path / "bottles") == tmp_path / "bottles"
    assert find(tmp_path, tmp_path, name="others") == tmp_path / "bottles"
    (tmp_path / "deep" / "er" / "set" / "bottle" / "train").mkdir(parents=True)
    assert find(tmp_path, tmp_path / "deep") == tmp_path / "deep" / "er" / "set"
    with pytest.raises(UserError, match=rf"bottles: no raw data in {tmp_path}/a; put it there"):
        find(tmp_path, tmp_path / "a")


def test_an_archive_is_unpacked_once_and_again_when_it_changes(tmp_path, capsys):
    archive = make_archive(tmp_path / "manual" / "Bottles-2025.tar.gz")
    first = find(tmp_path, archive.parent)
    assert f"bottles: unpacking {archive} to {first.parent}" in capsys.readouterr().out
    assert find(tmp_path, archive.parent) == first
    assert "unpacking" not in capsys.readouterr().out
    make_archive(archive, {"other/bottle/train/1.png": b"1"})
    assert contents(find(tmp_path, archive.parent)) == {"bottle/train/1.png": b"1"}


def test_archives_of_other_data_sets_are_left_alone(tmp_path):
    make_archive(tmp_path / "manual" / "cans.zip")
    make_archive(tmp_path / "manual" / "shoes.zip")
    with pytest.raises(UserError, match="bottles: no raw data in"):
        find(tmp_path, tmp_path / "manual")
    make_archive(tmp_path / "manual" / "published_name.zip")
    source = Source(file="Published_Name.zip")
    assert is_root(find(tmp_path, tmp_path / "manual", source))
    make_archive(tmp_path / "alone" / "some download.zip")
    assert is_root(find(tmp_path, tmp_path / "alone"))


def test_an_archive_of_something_else_is_reported(tmp_path):
    make_archive(tmp_path / "manual" / "bottles.zip", {"cans/1.png": b"1"})
    with pytest.raises(UserError, match=r"bottles\.zip was unpacked to .*, which does not hold the data set"):
        find(tmp_path, tmp_path / "manual")


def test_a_download_is_made_once_and_announced(tmp_path, server, capsys):
    root = find(tmp_path, source=server.source())
    assert contents(root.parent) == FILES
    said = capsys.readouterr().out.splitlines()[0]
    assert f"downloading {server.source().url} to {tmp_path}/downloads/set.zip" in said
    assert find(tmp_path, source=server.source()) == root
    assert len(server.asked) == 1


def test_what_was_unpacked_serves_when_the_download_was_deleted(tmp_path, server):
    root = find(tmp_path, source=server.source())
    (tmp_path / "downloads" / "set.zip").unlink()
    assert find(tmp_path, source=server.source()) == root
    assert len(server.asked) == 1


def test_a_broken_connection_is_resumed(tmp_path, server):
    server.content = make_archive(tmp_path / "set.zip", {"set/bottle/train/0": os.urandom(2_000_000)}).read_bytes()
    server.break_after = 1_500_000
    find(tmp_path, source=server.source())
    assert (tmp_path / "downloads" / "set.zip").read_bytes() == server.content
    assert server.asked[-1].startswith("bytes=") and server.asked[-1] != "bytes=0-"


def test_a_killed_download_is_resumed_by_the_next_run(tmp_path, server):
    server.content = make_archive(tmp_path / "set.zip", {"set/bottle/train/0": os.urandom(3_000_000)}).read_bytes()
    server.stall_after = 2_000_000
    downloads = tmp_path / "downloads"
    code = """
import sys
from pathlib import Path
from datasets_tfds.archives import Source, raw_folder
raw_folder("bottles", None, Path(sys.argv[1]), lambda f: True, Source("set.zip", sys.argv[2]), "")
"""
    run = [sys.executable, "-c", code, str(downloads), server.source().url]
    process = subprocess.Popen(run, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 30
    while sum(p.stat().st_size for p in downloads.glob("*.part")) < 1_000_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    server.stall_after = 0
    server.go_on.set()
    assert not (downloads / "set.zip").exists()
    (part,) = downloads.glob("*.part")
    received = part.stat().st_size
    find(tmp_path, source=server.source())
    assert server.asked[-1] == f"bytes={received}-"
    assert (downloads / "set.zip").read_bytes() == server.content


def test_a_server_that_cannot_resume_sends_all_of_it_again(tmp_path, server):
    server.ranges = False
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "set.zipab3d5678.part").write_bytes(b"PK of another version")
    find(tmp_path, source=server.source())
    assert (tmp_path / "downloads" / "set.zip").read_bytes() == server.content


def test_a_web_page_in_place_of_the_archive_is_not_kept(tmp_path, server):
    server.content, server.content_type = b"<!DOCTYPE html><html>Quota exceeded</html>", "text/html"
    with pytest.raises(UserError, match=r"sent a web page instead of the archive set\.zip .*example\.org/set.*put it"):
        find(tmp_path, source=server.source())
    assert not list((tmp_path / "downloads").glob("*.zip*"))


def test_without_network_the_error_says_what_failed_and_how_to_go_on(tmp_path, server):
    server.server.shutdown()
    server.server.server_close()
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        find(tmp_path, source=server.source())
    assert time.monotonic() - start < 10
    message = str(caught.value)
    assert "\n" not in message
    for part in (server.source().url, "refused", HOW):
        assert part in message


def test_what_google_drive_says_is_passed_on_in_one_line(tmp_path, monkeypatch):
    import gdown

    def refuse(*_, **__):
        raise gdown.FileURLRetrievalError("Failed to retrieve file url:\n\n\tToo many users\n\thave viewed it.\n")

    monkeypatch.setattr(gdown, "download", refuse)
    with pytest.raises(UserError) as caught:
        find(tmp_path, source=Source("set.zip", "https://drive.google.com/file/d/0/view"))
    expected = "view failed (Failed to retrieve file url: Too many users have viewed it.); put it there"
    assert str(caught.value).endswith(expected)


def test_a_missing_file_on_the_server_is_reported(tmp_path, server):
    with pytest.raises(UserError, match=r"the download of http://\S*/gone\.zip failed \(404 .*\); put it there"):
        find(tmp_path, source=server.source("gone.zip"))


def test_processes_that_start_together_unpack_once(tmp_path):
    manual = make_archive(tmp_path / "bottles.zip").parent
    code = """
import sys
from pathlib import Path
from datasets_tfds.archives import raw_folder
print(raw_folder("bottles", Path(sys.argv[1]), Path(sys.argv[2]), lambda f: (f / "bottle").is_dir(), None, ""))
"""
    run = [sys.executable, "-c", code, str(manual), str(tmp_path / "downloads")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [p.communicate(timeout=60)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0, 0]
    assert sorted("unpacking" in o for o in outputs) == [False, False, True]
