"""New utterances from recorded words of one speaker, cut and concatenated in another order.

    python recipes/an4/splice.py data/an4 data/english runs/an4/phones/best

A model soon overfits 818 utterances and their word orders. The phone model aligns the boundaries of
words; the audio is cut at the quietest place near them. Speakers of data/english add words of AN4.
They add letters only from utterances of a single letter, since "a" in a sentence is no letter.
Writes `spliced.jsonl`, with text and phones, and its audio in `spliced/`.
"""

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from lexicon import Lexicon, read_dictionary, transcribed
from numpy.typing import NDArray
from torch import Tensor

import speechkit as sk
from speechkit.data import Utterance, read_audio, read_manifest, write_manifest
from speechkit.models import Model
from speechkit.text import normalize
from speechkit.text.align import align

UTTERANCES = 16000
MOST_WORDS = 8
RARE = 0.65
"""A word cut n times is drawn n^(1 − RARE) times as often as one cut once."""
MOST_PIECES = 5
"""Of a word by a speaker."""
QUICK = 0.5
"""The share of utterances without the silence around words."""
LOUD_DB = -30.0
"""The level of a loud step relative to a word's loudest step."""
KEPT_MS = 20
"""Of the silence, where it is left out."""
STEP_MS = 5
FADE_MS = 5

Sound = NDArray[np.float32]
Pieces = dict[str, list[Sound]]
"""The recordings of each word."""


def cut(model: Model, lexicon: Lexicon, utterance: Utterance) -> Iterator[tuple[str, Sound]]:
    """Each word and its audio; the first and the last keep the silence around them."""
    audio = read_audio(utterance.audio, target_rate=model.sample_rate)
    words = normalize(utterance.text or "").split()
    spelled = [lexicon.symbols(word) for word in words]
    output = model(audio[None])
    ids = [model.labels.index(symbol) for symbol in "".join(spelled)]
    spans = align(output.scores[0, : output.lengths[0]], ids)
    frame = round(model.frame_s * model.sample_rate)
    step = model.sample_rate * STEP_MS // 1000
    edges = [0]
    for end in np.cumsum([len(word) for word in spelled])[:-1]:
        edges.append(quietest(audio, spans[end - 1][1] * frame, spans[end][0] * frame, step))
    edges.append(len(audio))
    for word, (start, stop) in zip(words, pairwise(edges), strict=True):
        yield word, audio[start:stop].numpy()


def quietest(audio: Tensor, start: int, stop: int, step: int) -> int:
    """The sample in the middle of the quietest of the steps from `start` to `stop`."""
    levels = [audio[at : at + step].square().mean().item() for at in range(start, stop, step)]
    return start + (int(np.argmin(levels)) * step + step // 2 if levels else 0)


def cut_all(model: Model, an4: Path, english: Path) -> dict[str, Pieces]:
    """The recorded words of AN4's dictionary, by speaker."""
    dictionary = read_dictionary(an4)
    speakers: dict[str, Pieces] = {}

    def keep(utterance: Utterance, lexicon: Lexicon, wanted: set[str]) -> None:
        pieces = speakers.setdefault(utterance.speaker or "", {})
        for word, sound in cut(model, lexicon, utterance):
            found = pieces.setdefault(word, []) if word in wanted else []
            if len(found) < MOST_PIECES:
                found.append(sound)

    own, general = Lexicon(dictionary), Lexicon({})
    for utterance in read_manifest(an4 / "train.jsonl"):
        keep(utterance, own, set(dictionary))
    for utterance in transcribed(english):
        words = set(normalize(utterance.text or "").split())
        wanted = {word for word in words & set(dictionary) if len(word) > 1 or len(words) == 1}
        if utterance.speaker and wanted:
            keep(utterance, own if len(words) == 1 else general, wanted)
    return speakers


def spliced(
    pieces: Pieces, counts: Counter[str], sample_rate: int, rng: random.Random
) -> tuple[str, Sound]:
    """A text of up to `MOST_WORDS` of a speaker's words, and its audio."""
    fade = sample_rate * FADE_MS // 1000
    known = sorted(pieces)
    weights = [counts[word] ** -RARE * len(pieces[word]) for word in known]
    words = rng.choices(known, weights, k=rng.randint(1, MOST_WORDS))
    quick = rng.random() < QUICK
    sound = np.zeros(0, np.float32)
    for word in words:
        piece = rng.choice(pieces[word])
        sound = crossfaded(sound, loud(piece, sample_rate) if quick else piece, fade)
    return " ".join(words), sound


def loud(piece: Sound, sample_rate: int) -> Sound:
    """A word without most of the silence around it, as in fast speech."""
    step, kept = (sample_rate * ms // 1000 for ms in (STEP_MS, KEPT_MS))
    levels = np.square(piece[: len(piece) // step * step].reshape(-1, step)).mean(1)
    found = np.flatnonzero(levels > levels.max(initial=0) * 10 ** (LOUD_DB / 10))
    if not len(found):
        return piece
    return piece[max(0, found[0] * step - kept) : (found[-1] + 1) * step + kept]


def crossfaded(before: Sound, after: Sound, fade: int) -> Sound:
    """The pieces in order, with a cross-fade of `fade` samples."""
    fade = min(fade, len(before), len(after))
    if not fade:
        return np.concatenate([before, after])
    rise = np.linspace(0, 1, fade, dtype=np.float32)
    joint = before[-fade:] * (1 - rise) + after[:fade] * rise
    return np.concatenate([before[:-fade], joint, after[fade:]])


def splice(an4: Path, english: Path, phones: Path, count: int = UTTERANCES) -> Path:
    """Writes the manifest and the audio of `count` utterances; `phones` is the phone model."""
    model = sk.prepare(sk.load(phones))
    speakers = {who: pieces for who, pieces in cut_all(model, an4, english).items() if pieces}
    counts = Counter(
        word for pieces in speakers.values() for word, found in pieces.items() for _ in found
    )
    rng, lexicon = random.Random(0), Lexicon(read_dictionary(an4))
    (an4 / "spliced").mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        speaker = rng.choice(sorted(speakers))
        text, sound = spliced(speakers[speaker], counts, model.sample_rate, rng)
        path = an4 / "spliced" / f"{number:05}-{speaker}.flac"
        soundfile.write(path, sound, model.sample_rate)
        rows.append(
            Utterance(
                audio=path,
                duration_s=len(sound) / model.sample_rate,
                text=text,
                phones=" ".join(lexicon.phones(text)),
                speaker=speaker,
            )
        )
    write_manifest(an4 / "spliced.jsonl", rows)
    return an4 / "spliced.jsonl"


def main(an4: str, english: str, phones: str) -> list[Path]:
    """`splice` with the arguments of the command line."""
    return [splice(Path(an4), Path(english), Path(phones))]


if __name__ == "__main__":
    sk.cli.prepare(main)
