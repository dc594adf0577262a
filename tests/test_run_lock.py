import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from jaxad import run_lock
from jaxad.errors import UserError
from jaxad.run_lock import NAME, held
from tests import runs

HOLD = "import pathlib, sys, time; from jaxad.run_lock import held\nwith held(pathlib.Path(sys.argv[1])): {}"


def hold_elsewhere(folder, then="print('held', flush=True); time.sleep(60)"):
    """A process that holds the folder by now."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then), folder], env=runs.environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def write_holder(folder, **changes):
    holder = dataclasses.replace(run_lock._this_process(), host="node7", **{"pid": 123, **changes})
    (folder / NAME).write_text(json.dumps(dataclasses.asdict(holder)))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(run_lock, "DEAD_AFTER_SECONDS", 0.6)


def test_a_second_run_is_refused_in_one_line_with_host_process_and_time(tmp_path):
    process = hold_elsewhere(tmp_path)
    expected = rf"in use by process {process.pid} on .+ since 20\d\d-.* UTC"
    try:
        with pytest.raises(UserError, match=expected) as error, held(tmp_path):
            pytest.fail("both hold it")
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)
    finally:
        process.kill()
        process.wait()


def test_a_holder_that_was_killed_is_taken_over_at_once(tmp_path):
    process = hold_elsewhere(tmp_path)
    process.send_signal(signal.SIGKILL)  # not waited for: its remains are still in the process table
    time.sleep(0.2)
    with held(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    process.wait()


def test_a_process_of_the_same_number_that_began_later_is_no_holder(tmp_path):
    write_holder(tmp_path, pid=os.getpid(), started="1")
    with held(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["started"] != "1"
    assert not (tmp_path / NAME).exists()


def test_a_holder_on_another_host_that_shows_signs_of_life_is_respected(tmp_path, quick):
    write_holder(tmp_path, machine="another")
    over = threading.Event()

    def live():
        while not over.wait(0.05):
            os.utime(tmp_path / NAME)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(UserError, match="in use by process 123 on node7"), held(tmp_path):
            pytest.fail("both hold it")
    finally:
        over.set()
        thread.join()
    assert (tmp_path / NAME).exists()


@pytest.mark.parametrize("text", [None, "", "{"])
def test_a_holder_on_another_host_without_a_sign_of_life_is_taken_over(text, tmp_path, quick):
    write_holder(tmp_path, machine="another")
    if text is not None:  # killed while it wrote
        (tmp_path / NAME).write_text(text)
    begun = time.monotonic()
    with held(tmp_path):
        assert time.monotonic() - begun >= 0.6
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path) == []


def test_a_holder_touches_its_file(tmp_path, quick):
    with held(tmp_path):
        os.utime(tmp_path / NAME, (0, 0))
        time.sleep(0.3)
        assert (tmp_path / NAME).stat().st_mtime > 0


def test_a_dead_holder_is_never_removed_in_place_of_its_successor(tmp_path):
    write_holder(tmp_path, started="1")
    dead, _ = run_lock._read(tmp_path / NAME)
    write_holder(tmp_path, machine="another")
    with pytest.raises(UserError, match="node7"):
        run_lock._remove(tmp_path / NAME, dead)
    assert run_lock._read(tmp_path / NAME)[0].machine == "another"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_folder_is_given_back_after_an_error(error, tmp_path):
    with pytest.raises(error), held(tmp_path / "new"):
        raise error
    assert os.listdir(tmp_path / "new") == []


def test_of_many_that_begin_together_one_holds_the_folder(tmp_path):
    line = "open(sys.argv[1] + '/turns', 'a').write('{} ')".format
    command = [sys.executable, "-c", HOLD.format(f"{line('in')}; time.sleep(0.3); {line('out')}"), tmp_path]
    write_holder(tmp_path, started="1")  # dead: all of them want to take it over
    started = [
        subprocess.Popen(command, env=runs.environment(), stderr=subprocess.PIPE, text=True, cwd=runs.ROOT)
        for _ in range(4)
    ]
    errors = [process.communicate(timeout=120)[1] for process in started]
    turns = (tmp_path / "turns").read_text().split()
    assert turns == ["in", "out"] * (len(turns) // 2)
    refused = [error for process, error in zip(started, errors, strict=True) if process.returncode]
    assert all("in use by" in error for error in refused), errors
    assert len(started) - len(refused) == len(turns) // 2 >= 1


def test_a_run_whose_folder_was_taken_while_it_slept_ends_itself(tmp_path):
    loop = "import jaxad.run_lock as r; print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", "import jaxad.run_lock as r; r.BEAT_SECONDS = 0.1\n" + HOLD.format(loop), tmp_path],
        env=runs.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    write_holder(tmp_path, machine="another")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "was taken by another run (process 123 on node7" in errors
