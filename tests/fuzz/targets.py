"""What is fuzzed: every reader of files from outside, and the commands that people give them to."""

import contextlib
import copy
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

import speechkit as sk
from speechkit.cli.main import run as run_speechkit
from speechkit.data import audio_duration_s, read_audio, read_manifest
from speechkit.data.audio import read_sample_blocks
from speechkit.data.shards import read_shards
from speechkit.decode.ngram import read_arpa
from speechkit.errors import SpeechkitError
from speechkit.importers import read_model
from speechkit.io.arrays import DIGEST_BYTES
from speechkit.io.folders import CONFIG, WEIGHTS
from speechkit.plans.plan import load_plan
from speechkit.plans.scorer import PlanScorer
from speechkit.streaming.session import Stream
from speechkit.streaming.state import SESSION, State, seal

from . import seeds
from .contract import Fault, Run, check_line


@dataclass(frozen=True)
class Target:
    """A way in: inputs to begin with, their file's suffix, and what is done with one."""

    seeds: list[bytes]
    suffix: str
    run: Run


def readers(folder: Path) -> dict[str, Target]:
    """The readers; `folder` holds what they need beside the input."""
    models = seeds.models(folder)
    sessions = seeds.sessions(folder)

    def audio(path: Path, out: Path) -> None:
        audio_duration_s(path)
        read_audio(path, target_rate=16000)
        for _ in read_sample_blocks(path, target_rate=8000):
            pass

    def config(path: Path, out: Path) -> None:
        shutil.copy(models / "letters" / WEIGHTS, out)
        shutil.copy(path, out / CONFIG)
        sk.load(out)

    def stored(path: Path, out: Path) -> None:
        shutil.copy(models / "letters" / CONFIG, out)
        shutil.copy(path, out / WEIGHTS)
        sk.load(out)

    def archived(path: Path, out: Path) -> None:
        read_model(_packed(path, out))

    def shard(path: Path, out: Path) -> None:
        for one in read_shards(path):
            read_audio(io.BytesIO(one.read_bytes()))

    def plan(path: Path, out: Path) -> None:
        given = load_plan(path)
        scorer = PlanScorer(given)
        if given.about.per_clip:
            scorer.clips(seeds.sound()[None])
        for _ in scorer.parts([seeds.sound()]):
            pass
        for rate in (given.about.sample_rate, 44100):
            session = sk.stream(given, rate, math.inf, vad=None)
            session.feed(seeds.sound())
            session.finish()

    def state(path: Path, out: Path) -> None:
        try:
            tensors = safetensors.numpy.load(path.read_bytes())
        except (SafetensorError, KeyError):
            # the caller reads the file, with safetensors
            return
        for fresh in sessions:
            # as it is, and as one who knows the form would write it
            for given in (tensors, _sealed_anew(fresh, tensors)):
                try:
                    _goes_on(copy.copy(fresh), given)
                except SpeechkitError as error:
                    check_line(str(error))

    return {
        "audio": Target(seeds.audio(), ".wav", audio),
        "config": Target(seeds.configs(folder), ".json", config),
        "weights": Target(seeds.weights(folder), ".safetensors", stored),
        "archive": Target(seeds.archives(folder), ".nemo", lambda path, _: _do(read_model, path)),
        "yaml": Target(seeds.config_of_archive(), ".yaml", archived),
        "arpa": Target(seeds.arpa(), ".arpa", lambda path, _: _do(read_arpa, path)),
        "manifest": Target(
            seeds.manifests(folder), ".jsonl", lambda path, _: _do(read_manifest, path)
        ),
        "shard": Target(seeds.shards(folder), ".tar", shard),
        "plan": Target(seeds.plans(folder), ".safetensors", plan),
        "state": Target(seeds.states(folder), ".safetensors", state),
    }


def commands(folder: Path) -> dict[str, Target]:
    """The verbs that take files, in this process."""
    models = seeds.models(folder)
    recipe = folder / "recipe.py"
    recipe.write_text(RECIPE, encoding="utf-8")
    sounds, manifests, configs = seeds.audio(), seeds.manifests(folder), seeds.configs(folder)

    def verb(*words: object) -> Run:
        """A command line in which IN and OUT stand for the input and a path to write to."""
        return lambda path, out: command(run_speechkit, *words, IN=path, OUT=out / "made")

    def info(path: Path, out: Path) -> None:
        shutil.copy(models / "letters" / WEIGHTS, out)
        shutil.copy(path, out / CONFIG)
        command(run_speechkit, "info", out)

    def dry_run(path: Path, out: Path) -> None:
        assignment = f"model={path.read_text(encoding='utf-8', errors='replace')}"
        command(run_speechkit, "train", recipe, "--dry-run", "--set", assignment)

    def import_yaml(path: Path, out: Path) -> None:
        command(run_speechkit, "import", _packed(path, out), out / "made")

    judge = "evaluate", "--manifest", "IN"
    speech, letters = ("--model", models / "speech"), ("--model", models / "letters")
    return {
        "vad": Target(sounds, ".wav", verb("vad", "IN", *speech)),
        "classify": Target(sounds, ".wav", verb("classify", "IN", "--model", models / "words")),
        "transcribe": Target(sounds, ".wav", verb("transcribe", "IN", *letters)),
        "listen": Target(sounds, ".wav", verb("listen", *speech, "--file", "IN")),
        "evaluate": Target(manifests, ".jsonl", verb(*judge, models / "words")),
        "shards": Target(manifests, ".jsonl", verb("shards", "IN", "OUT")),
        "lm": Target(manifests, ".jsonl", verb("lm", "IN", "--out", "OUT")),
        "info": Target(configs, ".json", info),
        "dry_run": Target([_model_of(data) for data in configs], ".json", dry_run),
        "import": Target(seeds.archives(folder), ".nemo", verb("import", "IN", "OUT")),
        "import_yaml": Target(seeds.config_of_archive(), ".yaml", import_yaml),
    }


RECIPE = """
from pathlib import Path
import speechkit as sk
from speechkit.train import Data

def base() -> sk.Run:
    data = Data(train=Path(__file__).with_name("m.jsonl"), dev=Path(__file__).with_name("m.jsonl"))
    return sk.Run(model=sk.load(Path(__file__).with_name("letters")).config, data=data, steps=1)
"""


def command(run: Callable[[list[str]], int], *words: object, **paths: Path) -> None:
    """Runs a command line; Fault unless it ends with 0, 1 or 2 and says why in short lines."""
    arguments = [str(paths.get(word, word) if isinstance(word, str) else word) for word in words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    lines = err.getvalue().splitlines()
    for line in lines:
        check_line(line)
    if code not in (0, 1, 2) or (code and not lines):
        raise Fault(f"{arguments[0]} ended with {code} and printed {lines}")


def _do(read: Callable[[Path], object], path: Path) -> None:
    read(path)


def _packed(path: Path, out: Path) -> Path:
    """NeMo's archive of tiny weights with another config."""
    text = path.read_bytes().decode("utf-8", "replace")
    return seeds.packed(out / "given.nemo", text)


def _model_of(config: bytes) -> bytes:
    """The net's part of a model folder's description."""
    return json.dumps(json.loads(config)["config"], indent=1).encode()


def _goes_on(session: Stream, state: State) -> None:
    """A session takes a state, or refuses it."""
    session.state = state
    session.feed(seeds.sound())
    session.finish()


def _sealed_anew(session: Stream, state: State) -> State:
    """A state with the digest and the settings that a session's should have."""
    rest = {name: tensor for name, tensor in state.items() if name != SESSION}
    given = bytes(state[SESSION].flatten().view(np.uint8).tolist()) if SESSION in state else b""
    settings = re.compile(rb'(?<="settings": ){[^}]*}')
    own = settings.search(bytes(session.state[SESSION].tolist()))
    assert own is not None
    return seal(rest, settings.sub(lambda _: own[0], given[DIGEST_BYTES:]))
