"""Sessions of onnxruntime on as many threads as torch, and their files, which are written once."""

import hashlib
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.registry import TEMPORARY, Absent
from speechkit.export.graph import tracing


def session(path: Path) -> Any:
    """A session of a file."""
    if find_spec("onnxruntime") is None:
        raise Absent("onnxruntime is not installed")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def values() -> Callable[[NDArray[Any]], Any]:
    """Converts an array to a value that passes from step to step without a copy."""
    import onnxruntime

    make: Callable[[NDArray[Any]], Any] = onnxruntime.OrtValue.ortvalue_from_numpy
    return make


def exported(net: nn.Module, inputs: tuple[Tensor, ...]) -> Path:
    """The ONNX file of a net for inputs of exactly these shapes."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise Absent(f"{missing[0]} is not installed")

    def write(path: Path) -> None:
        with tracing("ONNX"):
            program = torch.onnx.export(net.eval(), inputs, dynamo=True, verbose=False)
        assert program is not None
        program.save(path, external_data=False)

    weights = (value.detach().numpy().tobytes() for value in net.state_dict().values())
    shapes = str([tuple(given.shape) for given in inputs])
    return cached((torch.__version__ + str(net) + shapes).encode(), *weights, write=write)


def cached(*made_of: bytes, write: Callable[[Path], object]) -> Path:
    """The ONNX file with these bytes, written unless it exists."""
    digest = hashlib.sha256()
    for data in made_of:
        digest.update(data)
    path = TEMPORARY / f"{digest.hexdigest()[:16]}.onnx"
    if not path.exists():
        TEMPORARY.mkdir(exist_ok=True)
        # an atomic write
        part = path.with_suffix(f".{os.getpid()}.onnx")
        write(part)
        part.replace(path)
    return path
