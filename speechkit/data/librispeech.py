"""LibriSpeech's layout: SUBSET/SPEAKER/CHAPTER, transcripts beside recordings.

Panayotov et al., ICASSP 2015; OpenSLR 12, and 31 for the small subsets.
"""

from collections.abc import Iterator
from pathlib import Path

from speechkit.data.audio import audio_duration_s
from speechkit.data.corpus import download
from speechkit.data.manifest import Utterance
from speechkit.errors import ManifestError
from speechkit.text import lines_of

URL = "https://www.openslr.org/resources/{resource}/{subset}.tar.gz"
SUFFIXES = (".flac", ".opus", ".wav")


def librispeech(subset: str, resource: int, source: Path | None, out: Path) -> list[Utterance]:
    """The utterances of a subset such as train-clean-100, sorted by name, in lower case.

    `source` is a folder that holds the subset, directly or in `LibriSpeech/`. Without it, the
    subset is downloaded into `out`. Raises ManifestError where a transcript lacks its recording.
    """
    if source is None:
        folder = download(URL.format(resource=resource, subset=subset), out)
    else:
        folder = _find(subset, source)
    transcripts = sorted(folder.rglob("*.trans.txt"))
    if found := [utterance for path in transcripts for utterance in _transcribed(path)]:
        return found
    raise ManifestError(f"{folder} holds no *.trans.txt; give the folder of {subset}.tar.gz")


def _find(subset: str, source: Path) -> Path:
    for folder in (source / subset, source / "LibriSpeech" / subset):
        if folder.is_dir():
            return folder
    raise ManifestError(
        f"{source} holds no {subset}; give the folder that {subset}.tar.gz is unpacked in, "
        "or none to download it"
    )


def _transcribed(path: Path) -> Iterator[Utterance]:
    """One utterance for each line of a chapter: the recording's name and its text."""
    for number, line in enumerate(lines_of(path), start=1):
        name, _, text = line.partition(" ")
        audio = next((f for s in SUFFIXES if (f := path.with_name(name + s)).is_file()), None)
        if audio is None:
            raise ManifestError(
                f"{path}:{number}: no recording {name}{'/'.join(SUFFIXES)}; unpack it again"
            )
        yield Utterance(
            audio=audio.resolve(),
            duration_s=audio_duration_s(audio),
            text=text.strip().lower(),
            speaker=name.partition("-")[0],
        )
