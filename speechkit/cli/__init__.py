"""The command line `speechkit`, and `recipe`, which runs a recipe file with the same flags."""

import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def recipe(namespace: dict[str, Any], *scripts: Callable[..., Iterable[Path]]) -> None:
    """Runs a recipe as a script: `python run.py [function] --set steps=100 --out DIR`.

    Put `sk.cli.recipe(globals())` under `if __name__ == "__main__":`; it is
    `speechkit train run.py[:function]` with the same flags. A function among `scripts` is called
    with the arguments after its name, like `main` in `prepare`.
    """
    from speechkit.cli.main import main

    arguments, target = sys.argv[1:], namespace["__file__"]
    by_name = {script.__name__: script for script in scripts}
    if arguments and (script := by_name.get(arguments[0])):
        _call(script, arguments[1:], inspect.getdoc(script))
        return
    if arguments and not arguments[0].startswith("-"):
        target = f"{target}:{arguments.pop(0)}"
    main(["train", target, *arguments])


def prepare(main: Callable[..., Iterable[Path]]) -> None:
    """Runs `main` with a script's arguments as text, and prints the paths it returns.

    Put `sk.cli.prepare(main)` under `if __name__ == "__main__":` of a recipe's prepare.py.
    `--name=value` is a keyword argument. What the user can correct is one line, as for the command
    line; other arguments than those of `main` show the script's docstring.
    """
    _call(main, sys.argv[1:], inspect.getdoc(sys.modules["__main__"]))


def _call(main: Callable[..., Iterable[Path]], arguments: list[str], usage: str | None) -> None:
    from speechkit.cli.output import complain
    from speechkit.errors import SpeechkitError

    given = [text for text in arguments if not text.startswith("--")]
    named = dict(text[2:].partition("=")[::2] for text in arguments if text.startswith("--"))
    try:
        inspect.signature(main).bind(*given, **named)
    except TypeError:
        sys.exit(usage or f"{sys.argv[0]}: wrong arguments")
    try:
        for path in main(*given, **named):
            print(path)
    except (SpeechkitError, OSError, ValueError) as error:
        complain("error", error)
        sys.exit(1)
