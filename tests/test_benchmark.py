"""A table of runs, small and real: models shared between cells, interruptions, refusals, and the files it writes."""

import csv
import json
from pathlib import Path

import pytest

import jaxad
from jaxad import benchmark, experiment
from jaxad.model_run import ModelRun
from tests import runs

HETEROGENEITY = f"{runs.ROOT}/configs/benchmarks/heterogeneity.py:patchcore/folder"
CELLS = (("clean", {}), ("dim", {"evaluation.corruptions": "illumination:5"}), ("other_seed", {"seed": 43}))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    for name in ("one", "two"):
        runs.write_photographs(root / name)
    return root


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


def config(photographs, data_dir, cells=CELLS, **more):
    places = {"dataset.path": str(photographs), "dataset.data_dir": str(data_dir)}
    settings = jaxad.load_config(HETEROGENEITY, {**runs.PATCHCORE, **places, **more})
    settings.benchmark.cells = tuple(
        {
            "name": name,
            "figure": "severity",
            "labels": {"corruption": name, "severity": int(name != "clean")},
            "against": "clean",
            "set": fields,
        }
        for name, fields in cells
    )
    return settings


@pytest.fixture(scope="module")
def finished(photographs, data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("benchmark")
    settings = config(photographs, data_dir)
    return settings, workdir, benchmark.run(settings, workdir)


@pytest.mark.slow
def test_cells_that_differ_in_evaluation_only_share_a_model(finished):
    _, workdir, _ = finished
    models = {path.name for path in (workdir / "models").iterdir()}
    assert models == {"base", "seed=43"}
    evaluated = {path.name for path in (workdir / "models" / "base" / "evaluations").iterdir()}
    assert evaluated == {"clean", "dim"}


@pytest.mark.slow
def test_each_cell_holds_what_a_separate_run_gives(finished, photographs, data_dir, tmp_path):
    _, _, table = finished
    alone = config(photographs, data_dir, **{"evaluation.corruptions": "illumination:5"})
    with alone.unlocked():
        del alone["benchmark"]
    expected = experiment.run(alone, tmp_path)
    measured = next(cell for cell in table if cell.name == "dim")
    assert [r.metrics for r in measured.categories] == [r.metrics for r in expected]


@pytest.mark.slow
def test_tables_figure_and_page_hold_every_cell(finished):
    settings, workdir, table = finished
    stored = json.loads((workdir / "benchmark.json").read_text(encoding="utf-8"))
    assert [cell["name"] for cell in stored["cells"]] == [name for name, _ in CELLS]
    assert stored["run"]["config"]["method"] == settings.method
    for metric in ("I-AUROC", "AUPRO"):
        change = stored["cells"][1]["change"][metric]
        assert change["interval"][0] <= change["mean"] <= change["interval"][1]
    with (workdir / "benchmark.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(CELLS) * 3  # two categories and their mean
    page = (workdir / "report.html").read_text(encoding="utf-8")
    for cell in table:
        assert f'href="{cell.report}"'.replace("=43", "%3D43") in page
        assert (workdir / cell.report).is_file()
        assert f"| {cell.name} " in (workdir / "benchmark.md").read_text(encoding="utf-8")
    assert (workdir / "sensitivity.svg").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.slow
def test_a_finished_benchmark_is_not_computed_again(finished, monkeypatch):
    settings, workdir, table = finished
    monkeypatch.setattr(ModelRun, "train", lambda self: pytest.fail("trained again"))
    monkeypatch.setattr(ModelRun, "evaluate", lambda self, *_: pytest.fail("evaluated again"))
    again = benchmark.run(settings, workdir)
    assert [[r.metrics for r in cell.categories] for cell in again] == [
        [r.metrics for r in cell.categories] for cell in table
    ]


@pytest.mark.slow
def test_a_workdir_of_another_config_is_refused(finished, photographs, data_dir):
    _, workdir, _ = finished
    with pytest.raises(jaxad.UserError, match=r"cell 'clean' .*model.coreset_ratio: 0.05 then, 0.5 now"):
        benchmark.run(config(photographs, data_dir, **{"model.coreset_ratio": 0.5}), workdir)


@pytest.mark.slow
def test_a_killed_benchmark_keeps_its_cells_and_goes_on(photographs, data_dir, tmp_path):
    settings = {**runs.PATCHCORE, "dataset.path": photographs / "one", "dataset.data_dir": data_dir}
    options = [f"--config={HETEROGENEITY}", f"--workdir={tmp_path}"]
    options += [f"--config.{name}={value}" for name, value in settings.items()]

    def done() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("models/*/evaluations/*/*/cases.npz")}

    assert runs.kill_when(options, lambda: len(done()) >= 2)
    kept = done()
    assert not (tmp_path / "benchmark.json").exists()
    ended = runs.start(options)
    assert ended.returncode == 0, ended.stderr
    assert len(done()) == 19
    assert done().items() >= kept.items()
    stored = json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8"))
    assert len(stored["cells"]) == 19


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluation.splitt": "test"}, "cell 'bad' .*Did you mean 'evaluation.split'"),
        ({"evaluation.batch_size": "four"}, "cell 'bad' .*config.evaluation.batch_size"),
        ({"evaluation.split": "tset"}, "cell 'bad' .*no split 'tset'"),
        ({"evaluation.where": "node=3"}, "cell 'bad' .*config.evaluation.where"),
        ({"evaluation.corruptions": "fog:3"}, "cell 'bad' .*fog"),
        ({"dataset.name": "mirad_min"}, "cell 'bad' .*no data set 'mirad_min'"),
        ({"dataset.train_split": "validation"}, "cell 'bad' .*no split 'validation'"),
        ({"method": "patchcor"}, "cell 'bad' .*Did you mean 'patchcore'"),
    ],
)
def test_a_cell_that_cannot_run_is_refused_before_anything_is_trained(
    fields, message, photographs, data_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(ModelRun, "train", lambda self: pytest.fail("trained"))
    with pytest.raises(jaxad.UserError, match=message):
        benchmark.run(config(photographs, data_dir, (*CELLS, ("bad", fields))), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "dim"}, "a unique name"),
        ({"name": "a/b"}, "a unique name"),
        ({"against": "cleen"}, "no cell 'cleen' .*Did you mean 'clean'"),
        ({"figure": "sevrity"}, "no figure 'sevrity'"),
        ({"name": ""}, "expected a name and labels, set, figure, against"),
        ({"sets": {}}, "expected a name"),
    ],
)
def test_a_wrongly_described_cell_is_refused(change, message, photographs, data_dir):
    settings = config(photographs, data_dir)
    *others, last = settings.benchmark.cells
    settings.benchmark.cells = (*others, {**last, **change})
    with pytest.raises(jaxad.UserError, match=message):
        benchmark.cells_of(settings)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cells", ("clean",), r"config\.benchmark\.cells is \('clean',\); expected a tuple of dicts"),
        ("cells", 3, r"config\.benchmark\.cells is 3; expected a tuple of dicts"),
        ("figures", ({"title": "no name"},), r"config\.benchmark\.figures has .*expected a dict with a name"),
        ("only", 3, r"config\.benchmark\.only is 3; expected a text"),
    ],
)
def test_a_table_of_another_form_is_refused(field, value, message, photographs, data_dir, tmp_path):
    settings = config(photographs, data_dir)
    with settings.ignore_type():
        settings.benchmark[field] = value
    with pytest.raises(jaxad.UserError, match=message):
        benchmark.run(settings, tmp_path)


def test_settings_that_read_the_same_as_folder_names_get_different_folders(photographs, data_dir):
    cells = [("clean", {}), ("not", {"dataset.where": "node!=3"}), ("at_least", {"dataset.where": "node>=3"})]
    settings = config(photographs, data_dir, cells)
    folders = benchmark.model_folders(benchmark.cells_of(settings), settings)
    assert len(set(folders.values())) == 3
    assert all("/" not in name and "!" not in name for name in folders.values())


def test_figures_can_be_chosen():
    settings = jaxad.load_config(HETEROGENEITY.replace("/folder", ""), {"benchmark.only": "nodes"})
    assert {cell.figure for cell in benchmark.cells_of(settings)} == {"nodes"}
    settings.benchmark.only = "node"
    with pytest.raises(jaxad.UserError, match="Did you mean 'nodes'"):
        benchmark.cells_of(settings)
