"""Makes clips of the words of this recipe with synthetic voices: espeak-ng or flite, or both.

    python recipes/words/voices.py data/words/voices

writes wav files of each word, and `manifest.jsonl`. Accent, voice, pitch and speed are random for
each file, and the same in every run.
"""

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from corpora import COMMANDS, DIGITS, OTHERS

from speechkit.data import Utterance, audio_duration_s, write_manifest
from speechkit.errors import ManifestError

EACH = {"espeak-ng": 100, "flite": 20}
"""How many recordings there are of each word."""
ACCENTS = ("en-us", "en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbclan", "en-029")
VARIANTS = (
    "m1 m2 m3 m4 m5 m6 m7 m8 f1 f2 f3 f4 f5 Alex Alicia Andrea Annie Denis Gene Hugo Jacky Lee "
    "Michael Mike adam anika aunty belinda benjamin boris david ed edward grandma grandpa john "
    "linda max paul pedro quincy rob robert shelby steph travis victor zac"
)
FLITE = ("kal16", "awb", "rms", "slt")


def commands(tool: str, word: str, chance: random.Random) -> tuple[str, list[str]]:
    """A voice's name, and a command that writes the word to a file; add the file's path to it."""
    if tool == "flite":
        voice, stretch = chance.choice(FLITE), chance.uniform(0.75, 1.5)
        options = ["-voice", voice, "--setf", f"duration_stretch={stretch:.2f}"]
        return voice, [tool, *options, "-t", word, "-o"]
    voice = chance.choice(VARIANTS.split())
    pitch, words_per_minute = chance.randint(10, 99), chance.randint(90, 220)
    options = ["-p", str(pitch), "-s", str(words_per_minute)]
    return voice, [tool, "-v", f"{chance.choice(ACCENTS)}+{voice}", *options, word, "-w"]


def spoken(out: Path) -> Iterator[Utterance]:
    """Makes every recording with the tools that are installed."""
    tools = [tool for tool in EACH if shutil.which(tool)]
    if not tools:
        raise ManifestError(
            "found no espeak-ng and no flite; type: apt-get install espeak-ng flite"
        )
    for tool in tools:
        for word in (*DIGITS, *COMMANDS, *OTHERS):
            chance = random.Random(f"{tool}/{word}")
            for number in range(EACH[tool]):
                voice, command = commands(tool, word, chance)
                path = out / tool / word / f"{number}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run([*command, str(path)], check=True)
                yield Utterance(
                    audio=path.resolve(),
                    duration_s=audio_duration_s(path),
                    label=word,
                    speaker=f"{tool}-{voice}",
                )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"{__doc__}\ngive the folder for the clips")
    folder = Path(sys.argv[1])
    write_manifest(folder / "manifest.jsonl", spoken(folder))
