"""English speech under open licences, as manifests.

    python recipes/english/prepare.py data/english FOLDER [TEACHER]

FOLDER holds mini_librispeech/ and any of librispeech_extra/, asterisk_en/, wakeword/, fsdd/ and
librispeech_speakers251/. The last has no transcripts: TEACHER, a model folder, writes them.
`train.jsonl` has manual transcripts, `train_taught.jsonl` those of the teacher. `dev.jsonl` has the
four mini_librispeech speakers that are in neither of them. `recipes/an4` prepares AN4.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import speechkit as sk
from speechkit.data import Utterance, audio_duration_s, read_manifest, write_manifest
from speechkit.errors import ManifestError
from speechkit.text import read_text

DEV_SPEAKERS = {"118", "163", "1088", "1737"}
"""Of LibriSpeech, in each of its folders."""
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LINE = re.compile(r"^([^;:\s]+): (.+)$", re.MULTILINE)
SPOKEN = re.compile(r"[A-Za-z ,.;?!'-]+")
"""A prompt that is a transcript: no digits, symbols or remarks in brackets."""


def prepare(source: Path | None, out: Path, teacher: Path | None = None) -> list[Path]:
    """Writes `train.jsonl` and `dev.jsonl`, and with a teacher `train_taught.jsonl`."""
    if source is None:
        raise ManifestError("English comes from several corpora; give the folder that holds them")
    dev = read_manifest(source / "mini_librispeech" / "dev.jsonl")
    found = {"train": list(labelled(source)), "dev": dev}
    if teacher is not None:
        found["train_taught"] = list(taught(source / "librispeech_speakers251", teacher))
    for name, rows in found.items():
        write_manifest(out / f"{name}.jsonl", rows)
    return [out / f"{name}.jsonl" for name in found]


def labelled(source: Path) -> Iterator[Utterance]:
    """LibriSpeech, Asterisk's prompts, wake words and digits, if their folders exist."""
    for manifest in ("mini_librispeech/train.jsonl", "librispeech_extra/manifest.jsonl"):
        if (source / manifest).is_file():
            yield from (
                u for u in read_manifest(source / manifest) if u.speaker not in DEV_SPEAKERS
            )
    prompts = source / "asterisk_en" / "core-sounds-en.txt"
    prompted = dict(LINE.findall(read_text(prompts))) if prompts.is_file() else {}
    for path in sounds(prompts.parent):
        name = path.relative_to(prompts.parent).with_suffix("").as_posix()
        if SPOKEN.fullmatch(prompted.get(name, "")):
            yield utterance(path, prompted[name], "asterisk")
    for path in sounds(source / "wakeword"):
        if path.parent.name != "wakeword":
            yield utterance(path, path.parent.name.replace("_", " "), None)
    for path in sounds(source / "fsdd"):
        digit, speaker, _ = path.stem.split("_")
        yield utterance(path, DIGITS[int(digit)], f"fsdd_{speaker}")


def taught(folder: Path, teacher: Path) -> Iterator[Utterance]:
    """The teacher's transcripts of speakers that are not for development."""
    model = sk.prepare(sk.load(teacher))
    for path in sounds(folder):
        speaker = path.stem.split("-")[0]
        if speaker not in DEV_SPEAKERS:
            yield utterance(path, sk.transcribe(model, path, vad=None).text, speaker)


def sounds(folder: Path) -> list[Path]:
    """The sound files at any depth, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix in {".wav", ".flac", ".opus"})


def utterance(path: Path, text: str, speaker: str | None) -> Utterance:
    """A whole file."""
    duration_s = audio_duration_s(path)
    return Utterance(audio=path, duration_s=duration_s, text=text.strip(), speaker=speaker)


def main(out: str, folder: str | None = None, teacher: str | None = None) -> list[Path]:
    """`prepare` with the arguments of the command line."""
    return prepare(Path(folder) if folder else None, Path(out), Path(teacher) if teacher else None)


if __name__ == "__main__":
    sk.cli.prepare(main)
