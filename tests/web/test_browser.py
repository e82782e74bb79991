"""The engine in headless Chromium, with a fake microphone that plays a recording."""

import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import soundfile

import speechkit as sk
from speechkit.plans.plan import load_plan

from .test_web import check_events, check_scores, clips, events_of, plan_file, scores_of


def test_a_recording_and_the_microphone(module: Path, chromium: ModuleType, tmp_path: Path) -> None:
    shutil.copy(module, tmp_path / "speechkit.wasm")
    wasm, models = "/own/speechkit.wasm", "/speechkit/bundled/models"
    names, recordings = ("vad", "digits"), []
    for name in names:
        sound = clips(load_plan(plan_file(name)).about.sample_rate)
        sound.tofile(tmp_path / name)
        plan = f"{models}/{name}/plan.safetensors"
        recordings.append({"plan": plan, "sound": f"/own/{name}", "block": 777, "wasm": wasm})
    live = {"plan": f"{models}/vad/plan.safetensors", "seconds": 6, "wasm": wasm}
    soundfile.write(tmp_path / "spoken.wav", clips(48000), 48000, subtype="PCM_16")
    found = chromium.answer_of(
        "tests/web/page.html",
        {"recordings": recordings, "microphone": live},
        {"own": tmp_path},
        f"--use-file-for-fake-audio-capture={tmp_path / 'spoken.wav'}",
    )
    assert "error" not in found, found
    for name, one in zip(names, found["recordings"], strict=True):
        plan, sound = load_plan(plan_file(name)), np.fromfile(tmp_path / name, np.float32)
        check_scores(one["scores"], scores_of(plan, sound))
        check_events(one["events"], events_of(sk.stream(plan), sound))
    assert found["refused"].startswith("SpeechkitError: the microphone cannot be opened: ")
    heard = found["microphone"]
    sound, rate = np.array(heard["samples"], np.float32), heard["sampleRate"]
    assert len(sound) >= 6 * rate
    expected = events_of(sk.stream("vad", rate), sound)
    assert len(expected) >= 4
    check_events(heard["events"], expected)
