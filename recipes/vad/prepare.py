"""Voice activity: scenes for training, with labels of where speech is.

    python recipes/vad/prepare.py data/vad FOLDER MODEL

FOLDER holds the corpora of README.md, each in a folder with its name. MODEL is a recogniser of
English, which aligns the transcripts. Of the recordings only those are used that sources.py calls
`train`. Writes train.jsonl, its wav files and noise/, which training adds to them; 3 GB.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from labels import RATE, Sound
from material import Material, Teacher, gathered
from rooms import meeting_room, simulator
from scenes import Studio
from sounds import rumble
from sources import Recording, read
from teacher import teacher

import speechkit as sk
from speechkit.data import AudioWarning, Utterance, write_manifest
from speechkit.errors import ManifestError, SpeechkitError

SCENES, ROOMS = 7000, 150
MADE, MADE_S = 150, 12
"""How many crowds, rumbles and far voices there are, and how long each is."""
MOST = {"read": 700, "untranscribed": 700, "word": 1500, "child": 700}
"""The most recordings of a source that are used, by kind of speech."""
SHARES = {"read": 0.5, "untranscribed": 0.3, "word": 0.1, "child": 0.1}
"""How often a talker is of a kind; the sources of a kind are equally frequent."""
TALKERS_M = (0.5, 4.0)
MOST_SPEECH = 0.1
"""Sounds are left out if the teacher hears speech for a larger share of the time."""
NO_SPEECH = {"esc10", "background"}
"""Sources whose sounds people have named, so that the teacher's mistakes are known as such."""


def prepare(folder: Path, out: Path, model: Path, seed: int = 0) -> list[Path]:
    """Writes `train.jsonl`."""
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder; give the folder that holds the corpora")
    simulator()
    # a few recordings are clipped, which is no fault of these scenes
    warnings.simplefilter("ignore", AudioWarning)
    chance, hear = np.random.default_rng(seed), teacher()
    material = gathered(folder, "train", sk.prepare(sk.load(model)), chance, MOST, hear)
    made = studio(chance, material, hear)
    save_noise(chance, made, out / "noise")
    save_voices(chance, made, out / "voices")
    write_manifest(out / "train.jsonl", written(made, out, seed, range(SCENES)))
    return [out / "train.jsonl"]


def save_noise(chance: np.random.Generator, studio: Studio, folder: Path) -> None:
    """The sounds that training adds once more, each time others: also crowds and rumble."""
    folder.mkdir(parents=True, exist_ok=True)
    crowds = (studio.crowd(chance, MADE_S * RATE) for _ in range(MADE))
    rumbles = (rumble(chance, MADE_S * RATE) for _ in range(MADE))
    for number, x in enumerate([*studio.music, *studio.noise, *crowds, *rumbles]):
        soundfile.write(folder / f"{number:04}.wav", x / (4 * np.abs(x).max()), RATE, "PCM_16")


def save_voices(chance: np.random.Generator, studio: Studio, folder: Path) -> None:
    """Speech that training adds as sound from far away, which is not speech."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(MADE):
        x = studio.far(chance, MADE_S * RATE)
        soundfile.write(folder / f"{number:04}.wav", x / (4 * np.abs(x).max()), RATE, "PCM_16")


def studio(chance: np.random.Generator, material: Material, hear: Teacher) -> Studio:
    """What the scenes are made of."""
    voices = [
        (SHARES[kind] / len(found), pool)
        for kind, found in material.voices.items()
        for pool in found.values()
    ]
    noise = [recording for found in material.sounds().values() for recording in found]
    rooms = [list(chance.uniform(*TALKERS_M, 3)) for _ in range(ROOMS)]
    return Studio(
        voices=voices,
        music=wordless(material.others["music"], hear),
        noise=wordless(noise, hear),
        rooms=[read(recording) for recording in material.others["room"]],
        meetings=[meeting_room(chance, distances_m) for distances_m in rooms],
    )


def wordless(found: Sequence[Recording], hear: Teacher) -> list[Sound]:
    """The sounds in which nobody speaks."""
    kept = []
    for recording in found:
        try:
            x = read(recording)
        except SpeechkitError as error:
            print(f"left out: {error}")
            continue
        if len(x) < RATE // 10 or not x.any():
            continue
        speech_s = 0.0
        if recording.source not in NO_SPEECH:
            speech_s = sum(end - start for start, end in hear(x) or [])
        if speech_s * RATE <= MOST_SPEECH * len(x):
            kept.append(x)
    return kept


def written(studio: Studio, out: Path, seed: int, numbers: Sequence[int]) -> list[Utterance]:
    """Writes scenes. Each has random numbers of its own, so the others do not change it."""
    folder, rows = out / "train", []
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        scene = studio.scene(np.random.default_rng((seed, number)))
        path = folder / f"{number:05}.wav"
        soundfile.write(path, np.clip(scene.audio, -1, 1), RATE, "PCM_16")
        duration_s = len(scene.audio) / RATE
        ends = [(round(a, 4), min(round(b, 4), duration_s)) for a, b in scene.segments]
        rows.append(Utterance(audio=path.resolve(), duration_s=duration_s, segments=tuple(ends)))
    return rows


if __name__ == "__main__":
    sk.cli.prepare(lambda out, folder, model: prepare(Path(folder), Path(out), Path(model)))
