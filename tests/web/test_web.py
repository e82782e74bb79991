"""The engine in WebAssembly: the same scores and events as Python, for all sizes of blocks."""

import gzip
import json
import re
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import speechkit as sk
from speechkit.data.audio import read_samples
from speechkit.events import to_row
from speechkit.plans.plan import Plan, load_plan
from speechkit.plans.resample import at_rate
from speechkit.plans.scorer import PlanScorer
from speechkit.streaming.opening import THRESHOLDS

ROOT = Path(__file__).parents[2]
WEB = ROOT / "plugins" / "web"
BUNDLED = Path(str(files("speechkit") / "bundled"))
MODELS = "vad", "vad_causal", "digits", "commands", "an4"
Sound = NDArray[np.float32]


def plan_file(name: str) -> Path:
    return BUNDLED / "models" / name / "plan.safetensors"


def clips(rate: int, pattern: str = "*.flac") -> Sound:
    """The bundled clips with pauses between them."""
    pause = np.zeros(3 * rate // 2, np.float32)
    found = sorted((BUNDLED / "clips").glob(pattern))
    return np.concatenate(
        [x for path in found for x in (pause, read_samples(path, target_rate=rate))]
    )


class Node:
    """Runs sessions in node, all jobs of a call in one process."""

    def __init__(self, module: Path, folder: Path) -> None:
        self._module, self._folder = module, folder

    def __call__(self, *jobs: dict[str, Any]) -> list[dict[str, Any]]:
        given = []
        for number, job in enumerate(jobs):
            sound = self._folder / f"{number}.raw"
            samples = np.asarray(job.pop("sound", np.zeros(0, np.float32)))
            sound.write_bytes(samples.tobytes())
            blocks = job.pop("blocks", [1600])
            plan, int16 = str(job.pop("plan")), samples.dtype == np.int16
            fixed = {"plan": plan, "sound": str(sound), "blocks": blocks, "int16": int16}
            given.append({**fixed, "wasm": str(self._module), **job})
        ran = subprocess.run(
            ["node", Path(__file__).with_name("run.mjs")],
            input=json.dumps(given).encode(),
            capture_output=True,
            check=True,
        )
        found: list[dict[str, Any]] = json.loads(ran.stdout)
        return found


@pytest.fixture
def node(module: Path, tmp_path: Path) -> Node:
    if not shutil.which("node"):
        pytest.skip("needs node")
    return Node(module, tmp_path)


def scores_of(plan: Plan, sound: Sound) -> Sound:
    """The scores of a stream of the plan, `[T, n]`."""
    stream = replace(plan, about=replace(plan.about, per_clip=False), clip_program=None)
    return np.concatenate([*PlanScorer(stream).parts([sound])])


def check_scores(found: list[list[float]], expected: Sound) -> None:
    """Equal within 1e-5, or 1e-5 of the number: log-probabilities reach −130, whose float32 has
    steps of 1.5e-5."""
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


def events_of(session: Any, sound: Sound) -> list[dict[str, Any]]:
    """The events as `listen --json` prints them."""
    return [to_row(event) for event in session.feed(sound) + session.finish()]


def check_events(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Events are equal, but for scores, which are equal within 1e-5."""

    def without_scores(value: Any) -> Any:
        if isinstance(value, list):
            return [*map(without_scores, value)]
        if isinstance(value, dict):
            return {key: without_scores(x) for key, x in value.items() if key != "score"}
        return value

    def scores(value: Any) -> list[float]:
        if isinstance(value, list):
            return [x for part in value for x in scores(part)]
        own = [value["score"]] if "score" in value else []
        return own + scores(value.get("words", []))

    assert without_scores(found) == without_scores(json.loads(json.dumps(expected)))
    np.testing.assert_allclose(scores(found), scores(expected), atol=1e-5)


def random_blocks(seed: int) -> list[int]:
    """Sizes of blocks, from single samples to seconds."""
    return np.random.default_rng(seed).choice([1, 7, 128, 320, 1000, 4096, 30000], 12).tolist()


@pytest.mark.parametrize("name", MODELS)
def test_scores_and_events_are_those_of_python(name: str, node: Node) -> None:
    plan = load_plan(plan_file(name))
    sound = clips(plan.about.sample_rate, "*.opus" if plan.about.decodes else "*.flac")
    jobs = [{"plan": plan_file(name), "sound": sound, "blocks": random_blocks(i)} for i in range(3)]
    first, *others = node(*jobs)
    assert all(other == first for other in others)
    session = sk.stream(plan, vad=None) if plan.about.decodes else sk.stream(plan)
    assert (first["sampleRate"], round(first["latencyS"], 9)) == (
        session.sample_rate,
        round(session.latency_s, 9),
    )
    check_scores(first["scores"], scores_of(plan, sound))
    expected = events_of(session, sound)
    # no clip holds a command
    assert len(expected) > 1 or name == "commands"
    check_events(first["events"], expected)


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@pytest.mark.parametrize("name", ["vad", "digits"])
def test_any_rate_of_a_microphone(name: str, rate: int, node: Node) -> None:
    plan, sound = load_plan(plan_file(name)), clips(rate)
    [found] = node({"plan": plan_file(name), "sound": sound, "sampleRate": rate, "blocks": [999]})
    session = sk.stream(plan, rate)
    assert round(found["latencyS"], 9) == round(session.latency_s, 9)
    expected = scores_of(plan if rate == plan.about.sample_rate else at_rate(plan, rate), sound)
    check_scores(found["scores"], expected)
    check_events(found["events"], events_of(session, sound))


def test_text_with_a_detector(node: Node) -> None:
    sound = clips(48000, "*.opus")
    given = {"plan": plan_file("an4"), "vad": str(plan_file("vad")), "sound": sound}
    [found] = node({**given, "sampleRate": 48000, "blocks": random_blocks(1)})
    session = sk.stream("an4", 48000)
    assert round(found["latencyS"], 9) == round(session.latency_s, 9)
    events = events_of(session, sound)
    assert [row["event"] for row in events].count("final") == 2
    check_events(found["events"], events)


def test_a_detector_at_another_rate(node: Node, tmp_path: Path) -> None:
    plan, sound = load_plan(plan_file("vad")), clips(16000, "*.opus")
    slower = replace(plan, about=replace(plan.about, sample_rate=8000))
    path = tmp_path / "vad#8000 100%.safetensors"
    slower.save(path)
    [found] = node({"plan": plan_file("an4"), "vad": str(path), "sound": sound})
    session = sk.stream("an4", vad=slower.with_(postprocess=THRESHOLDS))
    assert round(found["latencyS"], 9) == round(session.latency_s, 9)
    check_events(found["events"], events_of(session, sound))


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("vad", {"postprocess": {"onset": 0.3}}),
        ("vad", {"postprocess": {"max_speech_s": 0.3, "pad_onset_ms": 50, "min_silence_ms": 90}}),
        ("digits", {"spotting": {"threshold": 0.5, "hold_ms": 10, "silent": []}}),
        ("commands", {"spotting": {"threshold": 0.2, "silent": []}}),
        ("an4", {"endpointing": {"silence_after_s": 0.3, "least_score": 0}}),
    ],
)
def test_changed_rules(name: str, rules: dict[str, Any], node: Node) -> None:
    plan = load_plan(plan_file(name)).with_(**rules)
    sound = clips(plan.about.sample_rate)
    [found] = node({"plan": plan_file(name), "sound": sound, **rules})
    session = sk.stream(plan, vad=None) if plan.about.decodes else sk.stream(plan)
    expected = events_of(session, sound)
    assert len(expected) > 1
    check_events(found["events"], expected)


def test_int16_and_an_end_at_any_sample(node: Node) -> None:
    sound = (clips(16000) * 32767).astype(np.int16)
    ends = [0, 1, 125, 12345, 32001, len(sound) - 3]
    found = node(*({"plan": plan_file("vad"), "sound": sound[:end]} for end in ends))
    for end, one in zip(ends, found, strict=True):
        check_events(one["events"], events_of(sk.stream("vad"), sound[:end]))


def packed_bytes(module: Path) -> int:
    """What a page with the detector loads, each file compressed by gzip -9."""
    sources = [module, plan_file("vad"), WEB / "index.js", *WEB.glob("src/**/*.js")]
    return sum(len(gzip.compress(path.read_bytes(), 9)) for path in sources)


def test_the_module_and_the_detector_are_small(module: Path) -> None:
    assert packed_bytes(module) < 600_000


@pytest.mark.slow
def test_the_module_is_the_same_bytes_each_time(module: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.wasm"
    subprocess.run(["make", "-C", WEB, f"OUT={again}"], check=True, capture_output=True)
    assert again.read_bytes() == module.read_bytes()


def damaged(plan: Path, seed: int) -> bytes:
    """A plan with a few other bytes, in its header or its instructions."""
    draw = np.random.default_rng(seed)
    data = bytearray(plan.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    first, count = [(0, 8), (8, header - 8), (header, 26 * 18 * 8)][
        draw.choice(3, p=[0.1, 0.3, 0.6])
    ]
    for at in draw.integers(first, first + count, draw.integers(1, 4)):
        data[at] = draw.integers(256)
    return bytes(data[: draw.integers(len(data))] if seed % 10 == 0 else data)


def test_damaged_plans_are_refused_in_one_line(node: Node, tmp_path: Path) -> None:
    jobs = []
    for seed in range(300):
        path = tmp_path / f"{seed}.safetensors"
        path.write_bytes(damaged(plan_file("vad"), seed))
        jobs.append({"plan": path, "sound": np.zeros(4000, np.float32)})
    errors = [one["error"] for one in node(*jobs) if "error" in one]
    assert len(errors) > 100
    for error in errors:
        assert error.startswith("SpeechkitError: "), error
        assert "\n" not in error
        assert len(error) < 450


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"plan": "missing.safetensors"}, "cannot be read: ENOENT"),
        ({"plan": ROOT}, "cannot be read: EISDIR"),
        ({"plan": ROOT / "README.md"}, "this file is no plan, or cut off"),
        ({"sound": np.array([0, np.nan], np.float32)}, r"sample 1 is NaN, expected \[-1, 1\]"),
        ({"sound": np.array([9], np.float32)}, r"sample 0 is 9, expected \[-1, 1\]"),
        ({"sampleRate": 16001}, "sampleRate=16001 does not fit 16000 Hz"),
        ({"sampleRate": 1}, "sampleRate=1; expected 4000 to 384000 Hz"),
        ({"sampleRate": 400000}, "sampleRate=400000; expected 4000 to 384000 Hz"),
        ({"threshold": 0.4}, 'no option "threshold"; give one of sampleRate, '),
        ({"postprocess": {"onset": 2}}, "postprocess.onset=2; expected a number from 0 to 1"),
        ({"postprocess": {"onset": "a"}}, 'postprocess.onset="a"; expected a number from 0 up'),
        ({"postprocess": {"max_speech_s": 0.01}}, "max_speech_s=0.01; expected 0.1 to 86400"),
        ({"postprocess": {"max_speech_s": 1e9}}, "max_speech_s=1000000000; expected 0.1 to 86400"),
        (
            {"plan": plan_file("an4"), "endpointing": {"longest_s": 0}},
            "endpointing.longest_s=0; expected a number above 0",
        ),
        ({"postprocess": {"pad": 2}}, 'postprocess has no "pad"; give one of onset, '),
        ({"spotting": {"threshold": 0.3}}, 'a "marblenet" has no spotting; leave it out'),
        ({"vad": str(plan_file("vad"))}, 'vad is for recognition; leave it out for a "marblenet"'),
        (
            {"plan": plan_file("an4"), "vad": str(plan_file("digits"))},
            "vad: a plan to classify does not detect speech",
        ),
        (
            {"plan": plan_file("digits"), "spotting": {"window_s": 2}},
            "window_s=2: this plan was made for 0.9",
        ),
        ({"wasm": str(ROOT / "README.md")}, "the WebAssembly module does not run here: "),
    ],
)
def test_errors_say_what_was_given(given: dict[str, Any], message: str, node: Node) -> None:
    [found] = node({"plan": plan_file("vad"), **given})
    assert re.match(f"SpeechkitError: .*{message}", found["error"]), found
    assert "\n" not in found["error"]
