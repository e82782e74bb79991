"""The search for a faster or smaller model."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from speechkit_compression import search as module
from speechkit_compression.search import Budget, Candidate, Search, Settings
from typer.testing import CliRunner

import speechkit as sk
from speechkit.cli.main import app
from speechkit.data import read_manifest
from speechkit.errors import ComponentError, ConfigError, SpeechkitError
from speechkit.models import Model, Net
from speechkit.plugins import registry
from speechkit.transforms.rows import with_rows

Corpus = Callable[..., Path]


def drop(model: Model, examples: Any) -> tuple[Model, dict[str, Any]]:
    """Removes the first residual block."""
    rows = model.config.rows()
    if len(rows) < 4:
        raise ConfigError("drop: no block is left")
    return with_rows(model, [rows[0], *rows[2:]], [0, *range(2, len(rows))]), {}


def keep(model: Model, examples: Any) -> tuple[Model, dict[str, Any]]:
    """Changes nothing."""
    return with_rows(model, model.config.rows(), range(len(model.config.rows()))), {}


@pytest.fixture(autouse=True, scope="module")
def moves(only_the_package: None) -> None:
    factories = {"drop": lambda: drop, "keep": lambda: keep}
    mine = [sk.Component(name=n, factory=f, summary="For tests") for n, f in factories.items()]
    plugin = SimpleNamespace(__name__="moves", speechkit_transforms=sk.hookimpl(lambda: mine))
    registry().add(plugin, "moves", "1")


@pytest.fixture(autouse=True)
def times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result takes a quarter of the original's time, and no test takes the time to measure it."""
    monkeypatch.setattr(module, "step_times_s", lambda models: [1.0, 4.0])


@pytest.fixture
def settings(tmp_path: Path, corpus: Corpus, nets: dict[str, Net]) -> Settings:
    sk.save(sk.build(nets["clip"], 1).eval(), tmp_path / "model")
    return Settings(str(tmp_path / "model"), str(corpus(10)), steps=2)


def searched(settings: Settings, out: Path, budget: str, *names: str) -> Search:
    utterances = read_manifest(settings.manifest)
    return Search(settings, utterances, names, Budget.parse(budget), out)


def test_it_goes_on_until_the_budget_is_met(settings: Settings, tmp_path: Path) -> None:
    search = searched(settings, tmp_path / "out", "size=0.7", "keep", "drop")
    found = list(search.run())
    assert found == search.found
    assert [len(one.transforms) for one in found] == [0, 2, 2, 4, 4, 5]
    assert found[0].size == found[0].latency == found[1].size == 1.0
    assert {one.latency for one in found[1:]} == {0.25}
    assert found[3].transforms[0] == found[5].transforms[0] == "drop", "keep saves nothing"
    chosen = search.chosen()
    assert chosen in (found[4], found[5])
    assert chosen.size <= 0.7 < found[2].size
    made = sk.load(tmp_path / "out" / chosen.folder)
    assert len(made.config.rows()) == 3
    applied = json.loads((tmp_path / "out" / chosen.folder / "transform.json").read_text())
    names = [one["name"].split(":")[0] for one in applied]
    assert names[:4] == ["moves/drop", "compression/heal"] * 2


def test_a_second_start_computes_nothing_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(searched(settings, tmp_path / "out", "size=0.7", "drop").run())
    monkeypatch.setattr(module, "transform", None)
    again = list(searched(settings, tmp_path / "out", "size=0.7", "drop").run())
    assert again == first


def test_an_interrupted_search_goes_on(settings: Settings, tmp_path: Path) -> None:
    begun = searched(settings, tmp_path / "out", "size=0.7", "keep", "drop").run()
    started = [next(begun) for _ in range(2)]
    rest = list(searched(settings, tmp_path / "out", "size=0.7", "keep", "drop").run())
    assert rest[:2] == started
    assert len(rest) == 6


def test_a_transform_that_fails_has_its_reason(settings: Settings, tmp_path: Path) -> None:
    search = searched(settings, tmp_path / "out", "size=0.01", "drop")
    *_, last = search.run()
    assert last.reason == "drop: no block is left"
    assert last.error is None
    assert search.chosen() is None


def test_no_model_of_the_front_has_a_cheaper_one_as_good(
    settings: Settings, tmp_path: Path
) -> None:
    search = searched(settings, tmp_path / "out", "latency=0.5")
    figures = {"a": (0.2, 0.5), "b": (0.1, 0.5), "c": (0.05, 0.9), "d": (0.3, 0.2), "e": (0.2, 1.0)}
    search.found = [
        Candidate((name,), name, error, latency) for name, (error, latency) in figures.items()
    ]
    assert [one.folder for one in search.front()] == ["d", "b", "c"]
    chosen = search.chosen()
    assert chosen is not None
    assert chosen.folder == "b"


def test_other_settings_need_another_folder(settings: Settings, tmp_path: Path) -> None:
    list(searched(settings, tmp_path / "out", "size=0.9", "drop").run())
    with pytest.raises(ConfigError, match=r"other settings.*give another --out"):
        searched(Settings(settings.model, settings.manifest, 3), tmp_path / "out", "size=0.9")


@pytest.mark.parametrize("text", ["latency", "latency=1", "time=0.5", "size=x", "size=0"])
def test_a_budget_is_a_share_of_a_known_cost(text: str) -> None:
    with pytest.raises(ConfigError, match="give latency=S or size=S"):
        Budget.parse(text)


def test_the_command_writes_rows_and_a_page(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["compress", settings.model, "--data", settings.manifest, "--budget", "size=0.8"]
    given += ["--with", "drop", "--steps", "2", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, given, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [json.loads(row) for row in done.stdout.splitlines()]
    assert [row["folder"] for row in rows] == ["", "001", "002"]
    page = (out / "compress.html").read_text()
    assert "parameters" in page
    assert page.count("<circle") == 3


def test_a_folder_that_hides_the_model_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    given = Settings("digits", settings.manifest, 2)
    with pytest.raises(ConfigError, match="--out digits would hide the model"):
        searched(given, Path("digits"), "size=0.9", "drop")


def test_the_command_says_what_was_reached(settings: Settings, tmp_path: Path) -> None:
    given = ["compress", settings.model, "--data", settings.manifest, "--budget", "size=0.01"]
    given += ["--with", "drop", "--steps", "1", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 1
    assert f"the cheapest is {tmp_path / 'out'}/00" in str(done.exception)


@pytest.mark.parametrize("name", ["nothing", "keep:n=1"])
def test_an_unknown_move_is_refused_before_anything_is_written(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ComponentError, match=name):
        searched(settings, tmp_path / "out", "size=0.8", name)
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder_for_a_search(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match="out is a file; give a folder"):
        searched(settings, tmp_path / "out", "size=0.8", "drop")


def test_recordings_without_labels_are_an_error(settings: Settings, tmp_path: Path) -> None:
    rows = [replace(one, label=None) for one in read_manifest(settings.manifest)]
    search = Search(settings, rows, ["drop"], Budget.parse("size=0.8"), tmp_path / "out")
    with pytest.raises(SpeechkitError, match="label"):
        list(search.run())
    assert not (tmp_path / "out").exists()


def test_without_a_result_the_cheapest_is_the_original(settings: Settings, tmp_path: Path) -> None:
    given = ["compress", settings.model, "--data", settings.manifest, "--budget", "size=0.8"]
    done = CliRunner().invoke(app, [*given, "--with", "keep", "--out", str(tmp_path / "out")])
    assert isinstance(done.exception, ConfigError)
    assert "the cheapest is the original with 1.000; give other" in str(done.exception)
