"""Makes test conditions that training does not have: other voices, telephones, rooms, sounds.

    python recipes/vad/conditions.py data/vad FOLDER MODEL

FOLDER is that of prepare.py, with words/, meetings/ and asterisk_en/ too. MODEL is a recogniser
of English, which aligns the transcripts. Writes conditions.jsonl, dev.jsonl with its lines for dev,
and their files, 0.25 GB. The label of a line is its part and condition, such as `test=gsm`. Use the
part dev to choose, and the part test only to report.
"""

import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path

import numpy as np
import soundfile
from channels import TELEPHONES, clipped, hum, offset, stepped
from labels import RATE, Piece, Segments, Sound, merged, spoken
from material import Material, Voices, gathered
from nonspeech import MADE, crowd, unit
from rooms import meeting_room, simulator
from sounds import coloured, convolve, rms_db
from sources import MUSIC, Part, Recording, read

import speechkit as sk
from speechkit.data import AudioWarning, Utterance, write_manifest
from speechkit.errors import ManifestError

SCENES: dict[Part, int] = {"dev": 16, "test": 24}
"""How many scenes each condition with speech has."""
SCENE_S = 12.0
SPEECH_DB, SPREAD_DB = -26.0, 3.0
"""The level of a scene's speech, RMS over the labelled time in dB of full scale, and by how much
its utterances are louder or softer."""
FLOOR_DB = (-75.0, -60.0)
MEETING_DB, MEETING_FLOOR_DB, MEETING_M = (-48.0, -36.0), (-80.0, -60.0), (1.0, 4.0)
MEETING_S = 30.0
MEETING_SOUNDS = ("breath, made", "cough, made", "keys, made", "dishes, made")
"""The other sounds in a meeting, at most as loud as the talkers."""
SOUND_DB = (-40.0, -20.0)
"""The level of a sound that is not speech; it is lower if the peaks would be too high."""
SOUND_S, MADE_COUNT = 20.0, 6
"""The longest line with sound that is not speech, and the lines of each synthetic sound."""


@dataclass(frozen=True)
class Scene:
    """Sound `[N]` and where speech is in it, in seconds."""

    audio: Sound
    segments: Segments


Labelled = Iterator[tuple[str, Scene]]
"""The names of a scene's conditions, separated by spaces, and the scene."""
Effect = Callable[[np.random.Generator, Material, Scene], Sound]


def prepare(folder: Path, out: Path, model: Path, seed: int = 0) -> list[Path]:
    """Writes `conditions.jsonl` and `dev.jsonl`."""
    if not folder.is_dir():
        raise ManifestError(f"{folder} is not a folder; give the folder that holds the corpora")
    # an error here comes before minutes of work
    simulator()
    # a few recordings are clipped, which is no fault of these scenes
    warnings.simplefilter("ignore", AudioWarning)
    aligner, rows, counts = sk.prepare(sk.load(model)), [], Counter[str]()
    parts: tuple[Part, ...] = ("dev", "test")
    for part in parts:
        material = gathered(folder, part, aligner, generator(seed, part))
        for names, scene in (*with_speech(material, part, seed), *without(material, part, seed)):
            name = f"{part}/{names.split()[0]}"
            path = out / "conditions" / f"{name}_{counts[name]:03}.flac"
            counts[name] += 1
            rows.append(record(scene, path, " ".join(f"{part}={n}" for n in names.split())))
    write_manifest(out / "conditions.jsonl", rows)
    write_manifest(out / "dev.jsonl", [u for u in rows if str(u.label).startswith("dev=")])
    return [out / "conditions.jsonl", out / "dev.jsonl"]


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers for one condition, so that a new condition changes no other."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def record(scene: Scene, path: Path, label: str) -> Utterance:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(scene.audio, -1, 1), RATE, "PCM_16")
    duration_s = len(scene.audio) / RATE
    ends = [(round(a, 4), min(round(b, 4), duration_s)) for a, b in scene.segments]
    segments = tuple((a, b) for a, b in ends if a < b)
    return Utterance(audio=path.resolve(), duration_s=duration_s, segments=segments, label=label)


def with_speech(material: Material, part: Part, seed: int) -> Labelled:
    """The same scenes in each condition of EFFECTS; other scenes of single words, languages,
    children and meetings; and the recordings that people have labelled."""
    for number in range(SCENES[part]):
        chance = generator(seed, part, "talk", str(number))
        scene = talk(chance, material.voices["read"])
        for name, effect in EFFECTS.items():
            own = generator(seed, part, name, str(number))
            yield name, Scene(effect(own, material, scene), scene.segments)
        if number % 2:
            own = generator(seed, part, "meeting", str(number))
            yield "simulated_meeting", meeting(own, material)
        for name, kind in (("words", "word"), ("languages", "language"), ("children", "child")):
            if material.voices[kind]:
                yield name, talk(chance, material.voices[kind])
    for name, kind in (("real_meetings", "meeting"), ("labelled_by_hand", "hand")):
        for recording in material.others.get(kind, []):
            yield name, Scene(read(recording), recording.segments or [])


def talk(chance: np.random.Generator, voices: Voices) -> Scene:
    """Utterances with low noise; for each one, first its source is drawn."""
    pools = list(voices.values())
    turns = (pools[chance.integers(len(pools))] for _ in count())
    y, segments = placed(chance, ((drawn(chance, pool), None) for pool in turns), SCENE_S, 0.8)
    y += coloured(chance, len(y)) * 10 ** (chance.uniform(*FLOOR_DB) / 20)
    return Scene(y, segments)


def drawn(chance: np.random.Generator, pool: list[Piece]) -> Piece:
    return pool[chance.integers(len(pool))]


def placed(
    chance: np.random.Generator,
    turns: Iterator[tuple[Piece, Sound | None]],
    seconds: float,
    pause_s: float,
) -> tuple[Sound, Segments]:
    """Pieces one after another, each through its impulse response, with pauses of `pause_s` on
    average. In a room, one piece in eight begins 0.5 s before the last one ends."""
    y, segments, at_s = np.zeros(round(seconds * RATE)), [], chance.uniform(0.3, 1.5)
    while at_s < seconds - 0.5:
        piece, response = next(turns)
        x = piece.audio * 10 ** (-rms_db(spoken(piece.audio, piece.segments)) / 20)
        x = x * 10 ** (chance.uniform(-SPREAD_DB, SPREAD_DB) / 20)
        x *= np.minimum(1, np.minimum(np.arange(len(x)), np.arange(len(x))[::-1]) / 160)
        if response is not None:
            x = convolve(np.pad(x, (0, RATE // 2)), response)
        start = round(at_s * RATE)
        y[start : start + len(x)] += x[: len(y) - start]
        at_s = start / RATE
        segments += [(at_s + a, min(at_s + b, seconds)) for a, b in piece.segments]
        pause = min(4 * pause_s, chance.exponential(pause_s))
        overlaps = response is not None and chance.random() < 0.125
        at_s += max(0.3, len(piece.audio) / RATE + (-0.5 if overlaps else pause))
    segments = merged([(a, b) for a, b in segments if b - a > 0.03])
    return y * 10 ** ((SPEECH_DB - rms_db(spoken(y, segments))) / 20), segments


def drawn_speaker(chance: np.random.Generator, pools: list[list[Piece]]) -> list[Piece]:
    """All pieces of one speaker."""
    pool = pools[chance.integers(len(pools))]
    speaker = pool[chance.integers(len(pool))].speaker
    return [piece for piece in pool if piece.speaker == speaker]


def meeting(chance: np.random.Generator, material: Material) -> Scene:
    """Two quiet talkers at 1 to 4 m in a simulated room. In long pauses they breathe, cough, type
    and touch a cup. The noise, at −80 to −60 dB, is half recorded, half stationary."""
    responses = meeting_room(chance, list(chance.uniform(*MEETING_M, 2)))
    voices = list(material.voices["read"].values())
    pools = [drawn_speaker(chance, voices) for _ in responses]
    turns = ((drawn(chance, pools[n % 2]), responses[n % 2]) for n in count())
    y, segments = placed(chance, turns, MEETING_S, 2.5)
    level_db = chance.uniform(*MEETING_DB)
    y *= 10 ** ((level_db - SPEECH_DB) / 20)
    for name in MEETING_SOUNDS:
        length = round(chance.uniform(2, 6) * RATE)
        at = chance.integers(0, len(y) - length)
        x = convolve(MADE[name](chance, length), responses[chance.integers(2)])
        y[at : at + length] += unit(x) * 10 ** ((level_db - chance.uniform(0, 20)) / 20)
    floor = unit(np.resize(background(chance, material), len(y))) + coloured(chance, len(y))
    y += unit(floor) * 10 ** (chance.uniform(*MEETING_FLOOR_DB) / 20)
    return Scene(y, segments)


def among(
    chance: np.random.Generator, x: Sound, other: Sound, snr_db: tuple[float, float]
) -> Sound:
    """Speech with another sound, repeated to the same length, which is `snr_db` below it."""
    other = unit(np.resize(other, len(x)))
    return x + other * 10 ** ((SPEECH_DB - chance.uniform(*snr_db)) / 20)


def one(chance: np.random.Generator, found: list[Recording]) -> Sound:
    return read(found[chance.integers(len(found))])


def in_music(chance: np.random.Generator, material: Material, scene: Scene) -> Sound:
    return among(chance, scene.audio, one(chance, material.others["music"]), (0, 20))


def background(chance: np.random.Generator, material: Material) -> Sound:
    """A recording of any kind of noise."""
    kinds = sorted(material.sounds())
    return one(chance, material.sounds()[kinds[chance.integers(len(kinds))]])


def in_noise(chance: np.random.Generator, material: Material, scene: Scene) -> Sound:
    return among(chance, scene.audio, background(chance, material), (0, 20))


def in_crowd(chance: np.random.Generator, material: Material, scene: Scene) -> Sound:
    other = crowd(chance, voices_of(material), len(scene.audio))
    return among(chance, scene.audio, other, (5, 20))


def in_room(chance: np.random.Generator, material: Material, scene: Scene) -> Sound:
    y = convolve(scene.audio, one(chance, material.others["room"]))
    return y * 10 ** ((SPEECH_DB - rms_db(spoken(y, scene.segments))) / 20)


def voices_of(material: Material) -> list[Sound]:
    """All voices that read sentences or speak another language."""
    found = (*material.voices["read"].values(), *material.voices["language"].values())
    return [piece.audio for pool in found for piece in pool]


def on_line(name: str) -> Effect:
    return lambda chance, material, scene: TELEPHONES[name](scene.audio)


def at_level(level_db: float) -> Effect:
    return lambda chance, material, scene: scene.audio * 10 ** ((level_db - SPEECH_DB) / 20)


EFFECTS: dict[str, Effect] = {
    "plain": lambda chance, material, scene: scene.audio,
    "music": in_music,
    "noise": in_noise,
    "crowd": in_crowd,
    "measured_room": in_room,
    **{name: on_line(name) for name in TELEPHONES},
    "noise_8khz": lambda *given: TELEPHONES["8khz"](in_noise(*given)),
    "hum": lambda chance, material, scene: among(
        chance, scene.audio, hum(chance, len(scene.audio)), (5, 20)
    ),
    "dc": lambda chance, material, scene: offset(scene.audio, chance.choice([-0.1, 0.1])),
    "clipping": lambda chance, material, scene: clipped(scene.audio, 15.0),
    "level_steps": lambda chance, material, scene: stepped(scene.audio, chance, 20.0, 2.0),
    "minus_40_db": at_level(-40.0),
    "minus_50_db": at_level(-50.0),
}


def without(material: Material, part: Part, seed: int) -> Labelled:
    """Sounds that are not speech, by kind: recorded ones, also by telephone, and synthetic ones."""
    lines = cycle(sorted(TELEPHONES))
    recorded = {"music": material.others.get("music", []), **material.sounds()}
    for kind, found in sorted(recorded.items()):
        chance = generator(seed, part, kind, "alone")
        for genre, x in joined(chance, found):
            name = f"{kind.replace(' ', '_')}_alone"
            yield f"{name} {name}:{genre}" if genre else name, Scene(x, [])
            line = "music" if kind == "music" else "sounds"
            yield f"{line}_by_telephone", Scene(TELEPHONES[next(lines)](x), [])
    samples = round(SOUND_S * RATE)
    for number in range(MADE_COUNT):
        for kind, make in MADE.items():
            chance = generator(seed, part, kind, str(number))
            x = make(chance, samples)
            yield kind.replace(", ", "_") + "_alone", Scene(drawn_level(chance, x), [])
        chance = generator(seed, part, "crowd alone", str(number))
        x = crowd(chance, voices_of(material), samples)
        yield "crowd_made_alone", Scene(drawn_level(chance, x), [])
        x = offset(chance.integers(-1, 2, samples) / 2**15, chance.choice([-0.3, -0.05, 0.05]))
        yield "dc_alone", Scene(x, [])


def joined(chance: np.random.Generator, found: list[Recording]) -> Iterator[tuple[str, Sound]]:
    """The recordings of each source joined and cut into parts of `SOUND_S`, with their genre."""
    samples = round(SOUND_S * RATE)
    for source in sorted({recording.source for recording in found}):
        clips = [read(recording) for recording in found if recording.source == source]
        x = np.concatenate([drawn_level(chance, clip) for clip in clips])
        for part in np.array_split(x, -(-len(x) // samples)):
            yield MUSIC.get(source, ("", ""))[1], part


def drawn_level(chance: np.random.Generator, x: Sound) -> Sound:
    x = unit(x)
    level: float = min(10 ** (chance.uniform(*SOUND_DB) / 20), 0.9 / (np.abs(x).max() + 1e-9))
    return x * level


if __name__ == "__main__":
    sk.cli.prepare(lambda out, folder, model: prepare(Path(folder), Path(out), Path(model)))
