"""`speechkit verify`: tries what papers predict about training."""

from typing import Annotated

import typer

from speechkit.cli.options import Json
from speechkit.cli.output import show


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Experiments; all of them by default."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All experiments, as without a name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Try what theory papers state, in short experiments; status 1 if a statement fails."""
    from dataclasses import asdict

    from speechkit.component import did_you_mean
    from speechkit.errors import ConfigError
    from speechkit_methods.identities import IDENTITIES
    from speechkit_methods.scenarios import SCENARIOS

    known = {**SCENARIOS, **IDENTITIES}
    if names and every:
        raise ConfigError("--all and names: give one of both")
    asked = names or list(known)
    for name in asked:
        if name not in known:
            raise ConfigError(f"no experiment {name!r}. {did_you_mean(name, known)}")
    failed = False
    for name in asked:
        finding = known[name]()
        failed |= not finding.holds
        measured = ", ".join(f"{what} {value:.4g}" for what, value in finding.measured.items())
        words = f"{finding.predicted}; measured: {measured}"
        verdict = "holds" if finding.holds else "DOES NOT HOLD"
        show(
            {"name": name, **asdict(finding)},
            f"{verdict}  {name} ({finding.paper}): {words}",
            as_json,
        )
    if failed:
        raise typer.Exit(1)
