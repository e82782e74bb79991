"""The command line `speechkit`, and `recipe`, which gives a recipe file the same flags."""

import sys
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
