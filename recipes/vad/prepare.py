"""Voice activity: scenes of speech, rooms, noise, music and silence with frame labels.

    python recipes/vad/prepare.py data/vad FOLDER

FOLDER holds any of mini_librispeech/, librispeech_speakers251/, an4/, wakeword/ and fsdd/, and
noise/esc10/, noise/background/ and rir/. Writes train.jsonl, dev.jsonl and their wav files, 2 GB.
train_abrupt.jsonl and dev_abrupt.jsonl have the same scenes, some of which begin in the middle of
speech. noise/ has the noise that training adds.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import soundfile
from labels import RATE, Piece, Sound, abrupt, pieces, speech_segments
from scenes import LEVEL_DB, Scene, Studio
from sounds import coloured, music

import speechkit as sk
from speechkit.data import Utterance, read_audio, write_manifest
from speechkit.errors import ManifestError

SUFFIXES = {".wav", ".flac", ".opus", ".sph"}
CORPORA = ("mini_librispeech", "librispeech_speakers251", "an4", "wakeword", "fsdd")
DEV_SPEAKERS = {"118", "163", "1088", "1737"}
"""Of LibriSpeech, in both of its folders."""
DEV_NOISE = {"doing_the_dishes", "forest_2", "music", "water", "white_5"}
"""Of the background recordings; of ESC-10 it is fold 5."""
DEV_ROOM = "rir4"
DEV_SHARE = 7
"""One AN4 speaker and one wakeword clip in this many is for development, by hash."""
MOST_SCENES = {"train": 5400, "dev": 400}
"""The number of scenes; fewer if there is less than 2 s of speech for each."""


def prepare(source: Path | None, out: Path, seed: int = 0) -> list[Path]:
    """Writes `train.jsonl` and `dev.jsonl`; no speaker and no recording of noise is in both."""
    if source is None or not source.is_dir():
        raise ManifestError(f"{source} is not a folder; give the folder that holds the corpora")
    speech: dict[bool, list[Piece]] = {False: [], True: []}
    counts: Counter[str] = Counter()
    for corpus, speaker, path, is_dev in recordings(source):
        x = read_audio(path).numpy()
        found = pieces(x, speech_segments(x) or [], corpus, speaker)
        speech[is_dev] += found
        counts[f"{corpus} {'dev' if is_dev else 'train'} {'kept' if found else 'left out'}"] += 1
    print(dict(counts))
    written = []
    for index, part in enumerate(("train", "dev")):
        is_dev = part == "dev"
        chance = np.random.default_rng((seed, index))
        noise = [*recorded_noise(source, is_dev), *made_noise(chance, 20 if is_dev else 80)]
        for number, x in enumerate(noise):
            save(out / "noise" / part / f"{number:04}.wav", x / (4 * np.abs(x).max() + 1e-9))
        measured = [
            read_audio(path).numpy()
            for path in sounds(source / "rir")
            if (path.stem == DEV_ROOM) == is_dev
        ]
        studio = Studio(speech=speech[is_dev], noise=noise, rooms=measured)
        rows = []
        speech_s = sum(len(piece.audio) for piece in speech[is_dev]) / RATE
        for number in range(min(MOST_SCENES[part], int(speech_s / 2))):
            scene = studio.scene(chance, noisy=0.8 if is_dev else 0.5)
            gain_db = chance.uniform(-40, 15) if is_dev else 0.0
            rows.append(record(scene, out / part / f"{number:05}.wav", gain_db))
        for name, scenes in ((part, rows), (f"{part}_abrupt", map(abrupt, rows, count()))):
            write_manifest(out / f"{name}.jsonl", scenes)
            written.append(out / f"{name}.jsonl")
    return written


def recordings(source: Path) -> Iterator[tuple[str, str, Path, bool]]:
    """Each recording of speech: corpus, speaker, path, and whether it is for development."""
    for corpus in CORPORA:
        for path in sounds(source / corpus):
            name = path.stem
            if "librispeech" in corpus:
                speaker = name.split("-")[0]
                is_dev = speaker in DEV_SPEAKERS
                if is_dev and corpus == "librispeech_speakers251":
                    continue
            elif corpus == "an4":
                if "an4test_clstk" in path.parts:  # the official test part
                    continue
                speaker = name.split("-")[1]
                is_dev = chosen(speaker)
            elif corpus == "wakeword":
                # the speakers are not known: each clip counts as one
                speaker = f"{path.parent.name}/{name}"
                is_dev = chosen(speaker)
            else:
                speaker, is_dev = name.split("_")[1], False
            yield corpus, speaker, path, is_dev


def chosen(name: str) -> bool:
    """Whether a speaker or clip is kept out of training, the same on every machine."""
    return hashlib.sha256(name.encode()).digest()[0] % DEV_SHARE == 0


def sounds(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)


def recorded_noise(source: Path, is_dev: bool) -> Iterator[Sound]:
    """The noise recordings of a part; long ones are cut into segments of 10 s."""
    clips = [(p, p.name.startswith("5")) for p in sounds(source / "noise" / "esc10")]
    clips += [(p, p.stem in DEV_NOISE) for p in sounds(source / "noise" / "background")]
    for path, kept_out in clips:
        if kept_out == is_dev:
            x = read_audio(path).numpy()
            yield from np.array_split(x, max(1, len(x) // (10 * RATE)))


def made_noise(chance: np.random.Generator, count: int) -> Iterator[Sound]:
    """Music without a voice, and half as many stationary noises."""
    for number in range(count):
        yield music(chance, 10)
        if number % 2:
            yield coloured(chance, 10 * RATE)


def record(scene: Scene, path: Path, gain_db: float) -> Utterance:
    """Writes a scene and returns its line; `label` lists its contents."""
    save(path, scene.audio * 10 ** (gain_db / 20))
    duration_s = len(scene.audio) / RATE
    contents = {**scene.contents, "level": f"{LEVEL_DB + gain_db:.0f}"}
    return Utterance(
        audio=path.resolve(),
        duration_s=duration_s,
        segments=tuple((round(a, 4), min(round(b, 4), duration_s)) for a, b in scene.segments),
        speaker="+".join(sorted(scene.speakers)) or None,
        label=" ".join(f"{key}={value}" for key, value in contents.items()),
    )


def save(path: Path, x: Sound) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(x, -1, 1), RATE, "PCM_16")


if __name__ == "__main__":
    sk.cli.prepare(lambda out, folder: prepare(Path(folder), Path(out)))
