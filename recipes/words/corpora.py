"""The recordings of this recipe, and whether each is for training, dev or test.

For Speech Commands the hash of the speaker's name decides, for LibriSpeech the speaker, and for
recordings of rooms, noise and music the source.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from speechkit.data import Utterance, audio_duration_s, find_audio, read_manifest

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
OTHERS = (
    "backward",
    "bed",
    "bird",
    "cat",
    "dog",
    "follow",
    "forward",
    "happy",
    "house",
    "learn",
    "marvin",
    "sheila",
    "tree",
    "visual",
    "wow",
)
HOMOPHONES = ("to", "too", "for", "fore", "won", "ate", "know", "write", "wright", "rite")
"""Other words that sound like a digit or a command."""
UNKNOWN, BACKGROUND = "unknown", "background"

SHARES = {"test": 2, "dev": 1}
"""How many of twenty speakers of Speech Commands are in these parts."""
DEV_SPEAKERS = {"118", "163", "1088", "1737"}
"""Speakers of Mini LibriSpeech."""
FIELD = {
    "test": "ktuberling asterisk_i18n speechocean762 wesnoth warzone2100 lomiri warmux blanket "
    "mycroft_precise tuxpaint_stamp_sounds sonic_pi librosa_data",
    "dev": "klettres common_voice_clips hyperrogue lincity lincity_sounds ambientsounds",
    "": "tuxpaint_symbols",  # spoken digits
}
"""Sources of `field` that are not for training; those of the part "" are not used."""
BACKGROUND_NOISE = {
    "test": "doing_the_dishes exercise_bike rain music",
    "dev": "water forest_2 white_5",
}
FOLDS = {"5": "test", "4": "dev"}
"""Folds of ESC-10 that are not for training."""
OFFICIAL_TEST = 5
"""FSDD's own test part are the clips with a smaller index."""


def part_of(name: str, lists: dict[str, str]) -> str:
    """The part whose list has `name`; train if none has it."""
    return next((part for part, names in lists.items() if name in names.split()), "train")


def chosen(speaker: str) -> str:
    """The part of a speaker of Speech Commands, the same on every machine."""
    number = int.from_bytes(hashlib.sha256(speaker.encode()).digest()[:4]) % 20
    if number < SHARES["test"]:
        return "test"
    return "dev" if number < sum(SHARES.values()) else "train"


def single_words(source: Path) -> Iterator[tuple[str, Utterance]]:
    """Each clip of a word in `words/` with its part; sources with one voice are for training."""
    for manifest in sorted(source.glob("words/*/manifest.jsonl")):
        for clip in read_manifest(manifest):
            if clip.label in (*DIGITS, *COMMANDS, *OTHERS):
                many = manifest.parent.name == "speech_commands"
                yield chosen(clip.speaker or "") if many else "train", clip


def fsdd_digits(source: Path) -> Iterator[tuple[str, Utterance]]:
    """Each clip of FSDD; the part `known` is its own test part, whose speakers are in training."""
    for path in sorted(source.glob("fsdd/?_*_*.*")):
        digit, speaker, index = path.stem.split("_")
        part = "known" if int(index) < OFFICIAL_TEST else "train"
        yield part, clip_of(path, DIGITS[int(digit)], f"fsdd-{speaker}")


def talk(source: Path) -> Iterator[tuple[str, Utterance]]:
    """Speech without digits, commands and their homophones: transcribed English, wake words, and
    other languages.

    English without a transcript, where some of the words may be, is for testing alone.
    """
    words = {*DIGITS, *COMMANDS, *HOMOPHONES}
    for manifest in sorted(source.glob("*libri*/*.jsonl")):
        for speech in read_manifest(manifest):
            if not words & set((speech.text or "").split()):
                if manifest.parent.name == "librispeech_extra":
                    yield "test", speech
                else:
                    yield "dev" if speech.speaker in DEV_SPEAKERS else "train", speech
    for path in _sounds(source / "wakeword"):
        yield chosen(f"{path.parent.name}/{path.stem}"), clip_of(path)
    for part, kind, clip in field(source):
        if kind == "speech-unlabelled":
            yield part, clip


def noise(source: Path) -> Iterator[tuple[str, str, Utterance]]:
    """Part, kind (`noise` or `music`) and recording of all sound that is not speech."""
    for path in _sounds(source / "noise" / "esc10"):
        yield FOLDS.get(path.name[0], "train"), "noise", clip_of(path)
    for path in _sounds(source / "noise" / "background"):
        yield part_of(path.stem, BACKGROUND_NOISE), "noise", clip_of(path)
    for part, kind, clip in field(source):
        if kind in ("music", "noise", "babble"):
            yield part, "music" if kind == "music" else "noise", clip


def rooms(source: Path) -> Iterator[tuple[str, Path]]:
    """Impulse responses: every third one of `field` is for the test, one of `rir` for dev."""
    for path in _sounds(source / "rir"):
        yield "dev" if path.stem == "rir4" else "train", path
    for number, path in enumerate(_sounds(source / "field" / "rir_openair")):
        yield "test" if number % 3 == 0 else "train", path


def field(source: Path) -> Iterator[tuple[str, str, Utterance]]:
    """Part, kind and recording of `field`, cut where several recordings were put together."""
    manifest = source / "field" / "manifest.jsonl"
    if not manifest.is_file():
        return
    for line in manifest.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        part = part_of(row["source"], FIELD)
        if part and row["kind"] != "rir":
            bounds = row.get("clips") or [("", 0.0, row["duration"])]
            for _, start_s, end_s in bounds:
                clip = Utterance(
                    audio=(manifest.parent / row["audio_filepath"]).resolve(),
                    offset_s=start_s,
                    duration_s=end_s - start_s,
                    speaker=f"field-{row['source']}",
                )
                yield part, row["kind"], clip


def _sounds(folder: Path) -> list[Path]:
    return find_audio([folder]) if folder.is_dir() else []


def clip_of(path: Path, label: str | None = None, speaker: str | None = None) -> Utterance:
    return Utterance(
        audio=path.resolve(), duration_s=audio_duration_s(path), label=label, speaker=speaker
    )
