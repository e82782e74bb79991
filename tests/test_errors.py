"""Messages are one printable line, whatever was given."""

import pytest

from speechkit.errors import AudioError, MissingExtraError, one_line
from speechkit.limits import MAX_MESSAGE_CHARACTERS


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("cannot open a.wav", "cannot open a.wav"),
        ("two\n  lines", "two lines"),
        ("\x1b[31mred.wav", r"\x1b[31mred.wav"),
        ("caf\xe9\udcff.wav", r"caf\xe9\udcff.wav".replace(r"\xe9", "\xe9")),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(given: str, shown: str) -> None:
    assert one_line(given) == str(AudioError(given)) == shown


def test_a_long_message_keeps_its_ends() -> None:
    shown = str(AudioError("no file " + "x" * 20_000 + "; correct the path"))
    assert len(shown) <= MAX_MESSAGE_CHARACTERS
    assert shown.startswith("no file xxx")
    assert shown.endswith("xxx; correct the path")


def test_a_missing_package_is_named_with_the_extra_that_has_it() -> None:
    assert str(MissingExtraError("av", "av", "m4a")).endswith("pip install 'speechkit-core[av]'")
    of_a_plugin = MissingExtraError("wings", "flight", of="speechkit-acme")
    assert str(of_a_plugin) == (
        "this needs wings, which is not installed; type: pip install 'speechkit-acme[flight]'"
    )
