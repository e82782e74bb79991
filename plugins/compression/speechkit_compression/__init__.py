"""Transforms that make models smaller and faster, by name once the package is installed.

Nothing here imports torch.
"""

from typing import Any

from speechkit import Component, hookimpl


@hookimpl
def speechkit_transforms() -> list[Component]:
    return [
        Component(
            name="heal",
            factory="speechkit_compression.healing:Heal",
            summary="Trains the model towards the scores of the one that it was made from",
            formula="min KL(teacher || model)",
            paper="arXiv:1503.02531",
            example={"teacher": "runs/base/best"},
            exempt={"check_transform_makes_a_model": "its example names the folder of a model"},
        ),
    ]


@hookimpl
def speechkit_commands(cli: Any) -> None:
    from speechkit_compression.command import compress

    cli.command("compress")(compress)
