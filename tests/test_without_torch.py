"""The torch-free part, as the import contract lists it, where torch cannot be imported."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def torch_free() -> list[str]:
    """The modules of the contract, with all those below them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = (c for c in contracts["contracts"] if c["name"] == "what runs without torch")
    found = []
    for name in contract["source_modules"]:
        path = ROOT / Path(*name.split("."))
        found += [name, *(f"{name}.{file.stem}" for file in path.glob("[!_]*.py"))]
    return found


def run(code: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh process in which torch cannot be imported."""
    blocked = "import sys; sys.modules['torch'] = None\n" + code
    command = [sys.executable, "-c", blocked, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done


NEEDS_TORCH = """
import speechkit as sk
from speechkit.cli.main import run
from speechkit.errors import MissingExtraError
assert sk.components and sk.bundled_models()
try:
    sk.fit
except MissingExtraError as error:
    print(error)
assert run(["evaluate", "an4", "--manifest", "no.jsonl"]) == 1
"""


def test_what_needs_torch_names_the_extra_in_one_line() -> None:
    done = run(NEEDS_TORCH)
    line = "this needs torch, which is not installed; type: pip install 'speechkit-core[torch]'\n"
    assert (done.stdout, done.stderr) == (line, f"error: {line}")


IN_ONE_LINE = """
import importlib
import pkgutil

import speechkit
import speechkit.data
import speechkit.streaming
from speechkit.errors import MissingExtraError

def needs_torch(get, *what):
    try:
        get(*what)
    except MissingExtraError as error:
        assert str(error).endswith("type: pip install 'speechkit-core[torch]'"), error
        return True
    return False

names = [m.name for m in pkgutil.walk_packages(speechkit.__path__, "speechkit.")]
# the engines are loaded by `with_torch`
public = [name for name in names if "engines" not in name and "template" not in name]
found = {name for name in public if needs_torch(importlib.import_module, name)}
assert found >= {"speechkit.export", "speechkit.nn", "speechkit.checkpoint", "speechkit.train"}
given = {name for name in speechkit.data.__all__ if needs_torch(getattr, speechkit.data, name)}
assert given >= {"read_audio", "read_blocks", "collate", "apply"} and "read_samples" not in given
assert needs_torch(getattr, speechkit.streaming, "WindowedStream")
"""


def test_modules_and_names_that_need_torch_say_so_in_one_line() -> None:
    run(IN_ONE_LINE)


def test_its_modules_are_imported() -> None:
    names = torch_free()
    assert "speechkit.decode.beam" in names
    run("import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in names))


READS = """
from dataclasses import asdict

import numpy as np
from safetensors.numpy import load, save
from speechkit.decode import decoder_of
from speechkit.events import Final, Keyword, SpeechEnd, SpeechStart
from speechkit.plans.about import About
from speechkit.rules.vad import PostProcessing
from speechkit.streaming.listeners import listener_for
from speechkit.streaming.state import pack, unpack
from speechkit.text.align import words_of

labels = (" ", "h", "i")
path = [3, 1, 3, 2, 3, 0, 1, 3] + 10 * [3]
log_probs = np.log(np.full((len(path), 4), 0.01, np.float32))
log_probs[np.arange(len(path)), path] = np.log(0.97)
for name in ("greedy", "beam:beam=4,length_bonus=1"):
    decoder = decoder_of(name, labels)
    state, text = decoder.step(decoder.init(), log_probs)
    assert text == "hi h", text
    assert [w.text for w in words_of(log_probs, decoder.ids(state), labels, 0.2)] == ["hi", "h"]

def about(**what):
    given = dict(kind="net", task="task", verb="do", decodes=False, per_clip=False, block_s=0.1)
    times = dict(sample_rate=16000, stride=320, rate=1, delay=0, shortest=320)
    return About(**{**given, **times, **what})

listener = listener_for(about(decodes=True, labels=labels), 0.2, "beam")
state, events = listener.step(listener.init(), log_probs[:5], 1.0)
assert [event.text for event in events] == ["hi"]
stored = load(save(pack({}, asdict(state), {})))
_, more = listener.step(listener.restore(unpack(stored, {}, {})[1]), log_probs[5:], 3.6)
assert [type(event) for event in more] == [Final] and more[0].text == "hi h", more

speech = np.array([[4, -4]] * 5 + [[-4, 4]] * 20 + [[4, -4]] * 40, np.float32)
for detects, kinds in ((PostProcessing(), [SpeechStart, SpeechEnd]), (None, [Keyword] * 3)):
    detector = listener_for(about(labels=("no", "yes"), postprocess=detects), 0.02)
    _, events = detector.step(detector.init(), speech, 1.3)
    assert [type(event) for event in events] == kinds, events
"""


def test_it_reads_scores_into_texts_and_events_and_keeps_its_state() -> None:
    run(READS)


SOUNDS = """
import sys
import numpy as np
import soundfile
from speechkit.data import find_audio, read_sample_blocks, read_samples
from speechkit.streaming.sources import FileSource

x = (0.3 * np.sin(np.arange(16000) / 20)).astype(np.float32)
soundfile.write(sys.argv[1] + "/a.wav", x, 16000, "FLOAT")
(path,) = find_audio([sys.argv[1]])
for source, rate in ((path, None), (x, 16000)):
    assert np.array_equal(read_samples(source, rate), x)
    assert np.array_equal(np.concatenate(list(read_sample_blocks(source, rate, block_s=0.3))), x)
with FileSource(path, 8000) as source:
    assert sum(map(len, source)) == 8000
"""


def test_it_reads_recordings(tmp_path: Path) -> None:
    run(SOUNDS, str(tmp_path))


VERBS = """
import sys
from pathlib import Path
import numpy as np
import speechkit as sk
from speechkit.data import read_manifest, read_samples
from speechkit.events import Final, Keyword, SpeechEnd, SpeechStart
from speechkit.plans.plan import Plan, load_plan

clips = Path(sk.__file__).parent / "bundled" / "clips"
seven, spoken = read_manifest(clips / "clips.jsonl")[7], read_manifest(clips / "spoken.jsonl")[0]
assert sk.classify("digits", seven.audio).label == seven.label
assert sk.detect("vad", seven.audio)
assert sk.transcribe("an4", spoken.audio).text == spoken.text

def events(model, x, rate, **options):
    session = sk.stream(model, rate, **options)
    assert isinstance(session.model, Plan) and session.backend == "native"
    found = [e for at in range(0, len(x), 999) for e in session.feed(x[at : at + 999])]
    again = sk.stream(model, rate, **options)
    again.state = session.state
    assert again.finish() == (rest := session.finish())
    return [type(event) for event in found + rest]

for rate in (8000, 16000, 44100):
    x = read_samples(spoken.audio, target_rate=rate)
    assert events("vad", x, rate)[:2] == [SpeechStart, SpeechEnd]
    assert Final in events("an4", x, rate)
x = np.pad(read_samples(seven.audio, target_rate=8000), 4000)
assert events("digits", x, 8000) == [Keyword]
pool = sk.SessionPool("vad", 2)
pool.feed(pool.join(), read_samples(seven.audio))
assert pool.step().scores()
assert not any(name.startswith("torch.") for name in sys.modules)
"""


def test_recordings_and_streams_run_on_plans() -> None:
    run(VERBS)


COMMANDS = """
import sys
from pathlib import Path
import speechkit as sk
from speechkit.cli.main import run
models = Path(sk.__file__).parent / "bundled" / "models"
audio = str(next((models.parent / "clips").glob("*.flac")))
for line in (
    ["vad", audio, "--onset", "0.4", "--cut", sys.argv[1]],
    ["vad", audio, "--model", str(models / "vad_causal" / "plan.safetensors"), "--frames"],
    ["classify", audio, "--json"],
    ["transcribe", audio, "--decoder", "beam:beam=4"],
    ["align", audio, "--text", "zero"],
    ["listen", "--file", audio],
    ["models"],
    ["info", "an4"],
    ["info", str(models / "vad" / "plan.safetensors")],
    ["doctor"],
):
    assert run(line) == 0, line
assert not any(name.startswith("torch.") for name in sys.modules)
"""


def test_commands_run_on_plans(tmp_path: Path) -> None:
    run(COMMANDS, str(tmp_path))


REFUSED = """
import shutil, sys
from pathlib import Path
import speechkit as sk
from speechkit.cli.main import run
from speechkit.implementation import use_impl
models = Path(sk.__file__).parent / "bundled" / "models"
audio = str(next((models.parent / "clips").glob("*.flac")))
shutil.copytree(models / "vad", "mine")
Path("mine/plan.safetensors").unlink()
assert run(["vad", audio, "--device", "cuda"]) == 1
assert run(["vad", audio, "--model", "mine"]) == 1
assert run(["listen", "--file", audio, "--window-s", "2"]) == 1
assert run(["info", "mine"]) == 1
shutil.copy(models / "an4" / "plan.safetensors", "mine")
assert run(["vad", audio, "--model", "mine"]) == 1
assert run(["info", "mine"]) == 1
for model in ("mine/plan.safetensors", "vad"):
    with use_impl("torch"):
        assert run(["vad", audio, "--model", model]) == 1
"""


def test_what_has_no_plan_or_needs_a_device_says_so(tmp_path: Path) -> None:
    done = run(REFUSED, folder=tmp_path)
    rest = "needs torch, which is not installed; type: pip install 'speechkit-core[torch]'"
    stale = (
        "the plan is not used: mine/plan.safetensors is of another model than the files beside it; "
        "write it again with: speechkit export mine --format native --out mine/plan.safetensors"
    )
    assert done.stderr.splitlines() == [
        f"error: --device cuda {rest}",
        f"error: mine has no plan, so it {rest}",
        f"error: --window-s 2 {rest}",
        f"error: mine has no plan, so it {rest}",
        f"warning: {stale}",
        f"error: mine has no usable plan, so it {rest}",
        f"warning: {stale}",
        f"error: mine has no usable plan, so it {rest}",
        "error: implementation 'torch' is for models in torch, and a plan computes in C++ on the "
        "CPU; give the model, its folder, or a bundled name",
        f"error: implementation 'torch' {rest}",
    ]
