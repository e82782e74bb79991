"""`pull` against a server on this machine, and the model by its name afterwards."""

import errno
import hashlib
import json
import runpy
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import speechkit as sk
from speechkit.cli import pull as module
from speechkit.errors import CheckpointError
from speechkit.io.folders import PLAN
from speechkit.published import ENGLISH, published

from .conftest import Cli

NEMO = runpy.run_path(str(Path(__file__).parents[1] / "importers" / "conftest.py"))
"""What makes archives in the tests of their reader."""
GERMAN = "stt_de_quartznet15x5"
COMMANDS = "commandrecognition_en_matchboxnet3x1x64_v2"
FRAMES = "frame_vad_multilingual_marblenet_v2.0"


def frames() -> dict[str, Any]:
    """A MarbleNet for frames of a version whose frames stream."""
    cfg: dict[str, Any] = NEMO["classifier"](2, ["0", "1"], mels=True)
    cfg["preprocessor"]["pad_to"] = 0
    return {**cfg, "nemo_version": "2.5.0"}


MADE: dict[str, Callable[[], dict[str, Any]]] = {
    GERMAN: NEMO["tiny"],
    COMMANDS: lambda: NEMO["classifier"](1, [str(n) for n in range(35)]),  # type: ignore[no-any-return]
    FRAMES: frames,
}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """An archive as NVIDIA's toolkit lays it out, for each of three names."""
    folder = tmp_path_factory.mktemp("archives")
    made = {}
    for name, make in MADE.items():
        cfg = make()
        path = NEMO["pack"](folder / f"{name}.nemo", cfg, NEMO["golden_weights"](cfg))
        made[name] = path.read_bytes()
    return made


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, empty."""
    monkeypatch.setenv("SPEECHKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server(
    served: Any, archives: dict[str, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A server of the three archives, whose hashes are not those of the table."""
    for name, data in archives.items():
        served.files[f"/{name}.nemo"] = data
        unknown = replace(published()[name], size_bytes=None, sha256=None)
        monkeypatch.setitem(published(), name, unknown)
    return served


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", MADE)
def test_an_archive_that_is_interrupted_twice_becomes_a_model(
    cli: Cli, server: Any, archives: dict[str, bytes], cache: Path, name: str
) -> None:
    asked = "pull", name, "--mirror", server.url, "--yes"
    path, data = f"/{name}.nemo", archives[name]
    for cut in (len(data) // 3, len(data) // 4):
        server.how[path] = {"cut": cut}
        ended = cli(*asked)
        assert ended.code == 1
        assert ended.out == ""
        error = ended.err.splitlines()[-1]
        assert error.startswith(f"error: cannot get {name}: the connection ended after ")
        assert not published()[name].is_pulled
    server.how.clear()
    ended = cli(*asked, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["model"] == name
    first, second = len(data) // 3, len(data) // 3 + len(data) // 4
    assert server.asked == [None, f"bytes={first}-", f"bytes={second}-"]
    card = json.loads(cli("info", name, "--json").out)["card"]
    assert card["data"][0].endswith(f"SHA-256 {hashlib.sha256(data).hexdigest()}")
    assert card["licence"] == published()[name].licence
    # from now on without a network
    again = cli(*asked[:2], "--mirror", "http://127.0.0.1:1", "--json")
    assert (again.code, again.out) == (0, ended.out)
    assert len(server.asked) == 3
    assert sk.load(name).sample_rate == 16000
    own = ["licences.json", *(f"models/{name}/{x}" for x in files(published()[name].folder))]
    assert files(cache) == own


def test_a_model_that_streams_gets_its_plan(cli: Cli, server: Any, sounds: Path) -> None:
    for name in (FRAMES, GERMAN):
        assert cli("pull", name, "--mirror", server.url, "--yes").code == 0
    assert (published()[FRAMES].folder / PLAN).is_file()
    assert not (published()[GERMAN].folder / PLAN).exists()
    ended = cli("vad", sounds / "low.wav", "--model", FRAMES, "--json")
    assert ended.code == 0
    assert ended.err == f"note: {FRAMES} {published()[FRAMES].purpose}\n"


def test_a_pulled_recogniser_transcribes_and_listens_on_windows(
    cli: Cli, server: Any, sounds: Path
) -> None:
    said = cli("pull", GERMAN, "--mirror", server.url, "--yes").out
    assert said.startswith(f"{GERMAN}: quartznet ")
    ended = cli("transcribe", sounds / "low.wav", "--model", GERMAN, "--no-vad", "--json")
    assert ended.code == 0
    text = json.loads(ended.out)["text"]
    assert text == sk.transcribe(GERMAN, sounds / "low.wav", vad=None).text
    ended = cli("listen", "--file", sounds / "low.wav", "--model", GERMAN, "--no-vad")
    assert ended.code == 0
    first, *_ = ended.err.splitlines()
    assert first.startswith("note: approximate, as by --window-s 8: ")
    assert json.loads(ended.out.splitlines()[0])["latency_s"] == 4


def test_a_licence_is_shown_and_accepted_once(cli: Cli, server: Any) -> None:
    refused = cli("pull", GERMAN, "--mirror", server.url)
    assert refused.code == 1
    shown, error = refused.err.splitlines()
    row = published()[GERMAN]
    assert (
        shown == f"note: the licence of {GERMAN} is: {row.licence}; the model's page is {row.page}"
    )
    assert error.endswith(f"type: speechkit pull {GERMAN} --yes")
    assert server.asked == []
    accepted = cli("pull", GERMAN, "--mirror", server.url, "--yes")
    assert (accepted.code, accepted.err) == (0, f"{shown}\n")
    other = cli("pull", COMMANDS, "--mirror", server.url)
    assert (other.code, other.err) == (0, "")
    # that of the model hub is another one
    assert cli("pull", FRAMES, "--mirror", server.url).code == 1


@pytest.mark.parametrize("answer", [True, False])
def test_a_terminal_is_asked(
    cli: Cli, server: Any, monkeypatch: pytest.MonkeyPatch, answer: bool
) -> None:
    terminal = types.SimpleNamespace(isatty=lambda: True)
    asked: list[str] = []

    def confirm(question: str, err: bool) -> bool:
        asked.append(question)
        return answer

    monkeypatch.setattr(module, "sys", types.SimpleNamespace(stdin=terminal, stderr=terminal))
    monkeypatch.setattr(module.typer, "confirm", confirm)
    ended = cli("pull", GERMAN, "--mirror", server.url)
    assert ended.code == (0 if answer else 1)
    assert asked == ["Do you accept this licence?"]
    assert published()[GERMAN].is_pulled is answer
    assert answer or "licence was not accepted" in ended.err


def test_damaged_notes_of_licences_are_asked_again(cli: Cli, server: Any, cache: Path) -> None:
    cache.mkdir()
    (cache / "licences.json").write_text("{")
    assert cli("pull", GERMAN, "--mirror", server.url).code == 1
    assert cli("pull", GERMAN, "--mirror", server.url, "--yes").code == 0
    assert json.loads((cache / "licences.json").read_text()) == [published()[GERMAN].licence]


def test_a_model_that_is_not_here_names_the_command(cli: Cli, cache: Path, sounds: Path) -> None:
    says = f"{ENGLISH} is not on this machine; type: speechkit pull {ENGLISH}"
    with pytest.raises(CheckpointError) as caught:
        sk.load(ENGLISH)
    assert str(caught.value) == says
    ended = cli("transcribe", sounds / "low.wav", "--model", ENGLISH)
    assert (ended.code, ended.err) == (1, f"error: {says}\n")


def test_transcribe_without_a_model_names_the_command(cli: Cli, cache: Path, sounds: Path) -> None:
    assert cli("transcribe", sounds / "low.wav").err.splitlines()[1] == (
        f"note: for any English words type: speechkit pull {ENGLISH}, then add --model {ENGLISH}"
    )
    published()[ENGLISH].folder.mkdir(parents=True)
    assert cli("transcribe", sounds / "low.wav").err.splitlines()[1] == (
        f"note: for any English words add --model {ENGLISH}"
    )


def test_an_unknown_name_gets_a_hint(cli: Cli, cache: Path) -> None:
    ended = cli("pull", "stt_en_quartznet", "--yes")
    assert ended.code == 1
    assert "no published model 'stt_en_quartznet'. Did you mean 'stt_en_quartznet15x5'" in ended.err


def test_a_bundled_model_needs_no_download(cli: Cli, cache: Path) -> None:
    ended = cli("pull", "an4", "--yes")
    assert (ended.code, ended.err) == (
        1,
        "error: an4 is bundled, so there is nothing to download; use its name\n",
    )
    assert "'commandz'. Did you mean 'commands'?" in cli("pull", "commandz").err


@pytest.mark.parametrize("data", [b"", b"<html>please log in</html>", b"\x1f\x8b rubbish"])
def test_what_is_no_archive_is_not_kept(
    cli: Cli, server: Any, cache: Path, archives: dict[str, bytes], data: bytes
) -> None:
    server.files[f"/{GERMAN}.nemo"] = data
    ended = cli("pull", GERMAN, "--mirror", server.url, "--yes")
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 2
    assert "is not a whole tar archive" in ended.err
    assert files(cache) == ["licences.json"]
    server.files[f"/{GERMAN}.nemo"] = archives[GERMAN]
    assert cli("pull", GERMAN, "--mirror", server.url).code == 0


@pytest.mark.parametrize(
    ("change", "how", "says"),
    [
        ({"sha256": "0" * 64}, {}, f"expected is {'0' * 64}; it was removed"),
        ({"size_bytes": 7}, {}, "expected are 7"),
        ({}, {"status": 404}, "the server answers 404 Not Found"),
        ({}, {"to": "http://example.org/x"}, "is not https; give an https address"),
    ],
)
def test_what_cannot_be_got_is_one_line_and_leaves_nothing(
    cli: Cli,
    server: Any,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    how: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.setitem(published(), GERMAN, replace(published()[GERMAN], **change))
    server.how[f"/{GERMAN}.nemo"] = how
    ended = cli("pull", GERMAN, "--mirror", server.url, "--yes")
    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith(f"error: cannot get {GERMAN}: ")
    assert ended.err.endswith(f"{says}\n")
    assert files(cache) == ["licences.json"]


def test_a_disk_that_is_full_while_importing_keeps_the_download(
    cli: Cli, server: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    asked = "pull", GERMAN, "--mirror", server.url, "--yes"
    with monkeypatch.context() as patch:
        patch.setattr("speechkit.pull.save", full)
        ended = cli(*asked)
    assert ended.code == 1
    assert ended.err.endswith("\nerror: No space left on device: model.safetensors\n")
    assert files(cache) == [f"downloads/{GERMAN}.nemo", "licences.json"]
    assert cli(*asked).code == 0
    assert len(server.asked) == 1


def test_a_mirror_elsewhere_must_be_https(cli: Cli, server: Any) -> None:
    ended = cli("pull", GERMAN, "--mirror", "http://example.org/models/", "--yes")
    assert f"http://example.org/models/{GERMAN}.nemo is not https" in ended.err


def test_models_lists_what_can_be_pulled(cli: Cli, server: Any) -> None:
    assert cli("pull", COMMANDS, "--mirror", server.url, "--yes").code == 0
    lines = cli("models").out.splitlines()
    assert f"{COMMANDS} {published()[COMMANDS].purpose}" in lines
    assert f"{GERMAN} {published()[GERMAN].purpose}; speechkit pull {GERMAN}" in lines
    rows = {row["name"]: row for row in map(json.loads, cli("models", "--json").out.splitlines())}
    assert (rows["an4"]["state"], rows[COMMANDS]["state"], rows[GERMAN]["state"]) == (
        "bundled",
        "pulled",
        "published",
    )


def test_the_table_holds_what_a_download_needs() -> None:
    languages = ("en", "de", "es", "fr", "it", "pl", "ca", "ru", "zh")
    assert {f"stt_{x}_quartznet15x5" for x in languages} < set(published())
    for name, row in published().items():
        assert row.url.startswith("https://")
        assert row.url.endswith(f"/{name}.nemo")
        assert "https://" in row.licence
        assert row.page.startswith("https://")
        assert row.sha256 is None or len(bytes.fromhex(row.sha256)) == 32
        assert (row.sha256 is None) == (row.size_bytes is None)
        assert row.purpose.isprintable()
