"""The command line `speechkit`, and `recipe`, which gives a recipe file the same flags."""

import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def recipe(namespace: dict[str, Any]) -> None:
    """Lets a recipe run as a script: `python run.py [function] --set steps=100 --out DIR`.

    Put `sk.cli.recipe(globals())` under `if __name__ == "__main__":`; it is
    `speechkit train run.py[:function]` with the same flags.
    """
    from speechkit.cli.main import main

    arguments, target = sys.argv[1:], namespace["__file__"]
    if arguments and not arguments[0].startswith("-"):
        target = f"{target}:{arguments.pop(0)}"
    main(["train", target, *arguments])


def prepare(main: Callable[..., Iterable[Path]]) -> None:
    """Runs `main` with a script's arguments as text, and prints the paths it returns.

    Put `sk.cli.prepare(main)` under `if __name__ == "__main__":` of a recipe's prepare.py. What the
    user can mend is one line, as for the command line; other arguments than those of `main` show
    the script's docstring.
    """
    from speechkit.cli.output import complain
    from speechkit.errors import SpeechkitError

    arguments = sys.argv[1:]
    try:
        inspect.signature(main).bind(*arguments)
    except TypeError:
        sys.exit(inspect.getdoc(sys.modules["__main__"]) or f"{sys.argv[0]}: wrong arguments")
    try:
        for path in main(*arguments):
            print(path)
    except (SpeechkitError, OSError, ValueError) as error:
        complain("error", error)
        sys.exit(1)
