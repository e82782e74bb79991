"""`speechkit doctor`: prints what is installed and problems with it."""

import importlib.metadata
import platform
import shutil
from pathlib import Path
from typing import Any

from speechkit.cli.options import Json
from speechkit.cli.output import complain, pairs, show
from speechkit.errors import SpeechkitError

PACKAGES = (
    "speechkit-core",
    "torch",
    "numpy",
    "soundfile",
    "soxr",
    "lightning-fabric",
    "tensorboard",
    "torchaudio",
    "librosa",
    "onnx",
    "onnxruntime",
    "sounddevice",
    "av",
    "numba",
)
NAMESAKE = "speechkit"
"""An unrelated distribution, which installs a package of the same name."""


def doctor(as_json: Json = False) -> None:
    """Print versions, devices, audio formats and plugins, and what is wrong with them."""
    import soundfile

    from speechkit.plans.engine import library
    from speechkit.plugins import registry

    engine = library()
    row = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "ffmpeg": shutil.which("ffmpeg"),
        "plans": engine if isinstance(engine, str) else Path(engine._name).name,
        **_of_torch(),
        "microphones": _microphones(),
        "audio_formats": sorted(soundfile.available_formats()),
        "plugins": registry().plugins(),
        "failures": registry().failures,
    }
    show(row, pairs(_in_words(row)), as_json)
    if namesake := _version(NAMESAKE):
        complain(
            "warning",
            f"the unrelated distribution {NAMESAKE} {namesake} is installed and may shadow this; "
            f"type: pip uninstall {NAMESAKE} && pip install --force-reinstall speechkit-core",
        )


def _of_torch() -> dict[str, Any]:
    """The cards, threads and ops of torch; nothing where it is not installed."""
    from speechkit.plans.source import has_torch, with_torch

    if not has_torch():
        return {"cuda": [], "threads": None, "ops": {}}
    torch, explain = with_torch("torch"), with_torch("speechkit.ops.explain")
    cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cuda": cards if torch.cuda.is_available() else [],
        "threads": torch.get_num_threads(),
        "ops": {choice.op: str(choice) for choice in explain.implementations()},
    }


def _microphones() -> dict[str, str] | str:
    """The input devices by number, or why there are none to list."""
    from speechkit.streaming.sources import input_devices

    try:
        return {str(index): name for index, name in input_devices().items()}
    except SpeechkitError as error:
        return str(error)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _in_words(row: dict[str, Any]) -> dict[str, str]:
    return {
        "python": row["python"],
        **{name: version or "not installed" for name, version in row["packages"].items()},
        "ffmpeg": row["ffmpeg"] or "not on the PATH",
        "plans": row["plans"],
        "cuda": ", ".join(row["cuda"]) or "none",
        "threads": str(row["threads"] or "one, without torch"),
        **{f"op {op}": text.removeprefix(f"{op}: ") for op, text in row["ops"].items()},
        **_microphones_in_words(row["microphones"]),
        "audio formats": " ".join(row["audio_formats"]),
        "plugins": ", ".join(f"{name} {version}" for name, version in row["plugins"].items()),
        **{f"failed: {name}": reason for name, reason in row["failures"].items()},
    }


def _microphones_in_words(found: dict[str, str] | str) -> dict[str, str]:
    if isinstance(found, str):
        return {"microphones": found}
    if not found:
        return {"microphones": "none"}
    return {f"microphone {index}": name for index, name in found.items()}
