"""The seeds and what once fell hold, a few mutations too, and the contract sees what it should."""

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from speechkit.errors import AudioError

from . import contract, seeds
from .__main__ import inputs
from .contract import Fault, check, check_line
from .mutate import mutate
from .targets import Target, readers

NAMES = [
    *("audio", "config", "weights", "archive", "yaml", "arpa", "manifest", "shard"),
    *("plan", "state"),
]


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    found = readers(tmp_path_factory.mktemp("fuzz"))
    assert list(found) == NAMES
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_seeds_and_mutations_hold(name: str, targets: dict[str, Target], tmp_path: Path) -> None:
    target = targets[name]
    for data in (*target.seeds, *seeds.kept(name)):
        check(target.run, data, target.suffix, tmp_path / "run")

    # a failure is a whole file: shrinking it would take minutes
    @settings(max_examples=20, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(target.seeds), st.randoms(use_true_random=False))
    def mutated(data: bytes, chance: Random) -> None:
        check(target.run, mutate(data, chance), target.suffix, tmp_path / "run")

    mutated()


def test_a_mutation_is_the_same_for_the_same_seed() -> None:
    data = seeds.ARPA.encode()
    found = [mutate(data, Random(number)) for number in range(50)]
    assert found == [mutate(data, Random(number)) for number in range(50)]
    assert len(set(found)) > 45
    assert mutate(b"", Random(0)) is not None


def raising(error: BaseException) -> Callable[[Path, Path], None]:
    def run(path: Path, out: Path) -> None:
        raise error

    return run


def test_one_printable_line_of_speechkits_own_holds(tmp_path: Path) -> None:
    check(raising(AudioError("cannot open it")), b"", ".wav", tmp_path / "run")


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (raising(KeyError("format")), "KeyError"),
        (raising(RecursionError()), "RecursionError"),
        (lambda path, out: path.with_name("beside").write_text("x"), "outside its output"),
        (lambda path, out: path.unlink(), "outside its output"),
        (lambda path, out: bytearray(2 * 10**9), r"it took \d{4} MB"),
    ],
    ids=["raw", "deep", "beside", "removed", "memory"],
)
def test_the_contract_sees(run: Callable[[Path, Path], None], reason: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=reason):
        check(run, b"", ".wav", tmp_path / "run")


@pytest.mark.parametrize("text", ["", "x" * 500, "two\nlines", "a \x1b[31m"])
def test_a_message_that_is_no_short_line_is_seen(text: str) -> None:
    with pytest.raises(Fault, match="its message"):
        check_line(text)


def test_the_contract_ends_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "HUNG_S", 1)
    with pytest.raises(Fault, match="has not ended"):
        check(lambda path, out: time.sleep(5), b"", ".wav", tmp_path / "run")


def test_another_seed_gives_other_inputs(tmp_path: Path) -> None:
    target = readers(tmp_path)["yaml"]
    kept = len([*seeds.kept("yaml"), *target.seeds])
    first, again, other = (
        list(islice(inputs("yaml", target, seed), kept + 20))[kept:] for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
