"""`speechkit serve`: models over HTTP and websockets."""

from pathlib import Path
from typing import Annotated

import typer

from speechkit.cli.models import load_net, tell_purpose
from speechkit.cli.options import Device, complete_model
from speechkit.errors import MissingExtraError

DEFAULT = ("an4", "vad", "digits")
PACKAGES = ("starlette", "uvicorn", "websockets", "python_multipart", "prometheus_client")


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...",
            help="Model folders, plans or bundled ones; an4, vad and digits by default.",
            autocompletion=complete_model,
            show_default=False,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="The port; 0 for any free one.")] = 8000,
    token: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file with the token; else SPEECHKIT_TOKEN, else none."
        ),
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="An origin whose pages may use the server; none by default."
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="LIMIT=VALUE", help="Change a limit, as sessions=500."),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Serve models: recordings as OpenAI's API takes them, and live sound by websocket.

    Example: speechkit serve an4 vad --port 8000
    """
    from importlib.util import find_spec

    from speechkit.config import override

    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise MissingExtraError(missing[0], "serve")
    from speechkit.serve.server import serve as run
    from speechkit.serve.settings import Limits, Settings, token_of

    settings = Settings(
        host=host,
        port=port,
        token=token_of(token),
        origins=tuple(origin or ()),
        limits=override(Limits(), assignments or ()),
    )
    names = list(dict.fromkeys(models or DEFAULT))
    nets = {name: load_net(name, device) for name in names}
    for name in names:
        tell_purpose(name)
    run(nets, settings)
