"""Requests of OpenVINO for an ONNX file, on as many threads as torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.registry import Absent

PRECISIONS = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16")}
"""OpenVINO's name of a precision, and that of the processor's capability."""


def request(path: Path, precision: str = "float32") -> Any:
    """A request for the net of a file, which is computed in this precision."""
    if find_spec("openvino") is None:
        raise Absent("openvino is not installed; run make peers")
    import openvino

    core = openvino.Core()
    name, capability = PRECISIONS[precision]
    if capability not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise Absent(f"openvino computes no {precision} on this processor")
    settings = {
        "INFERENCE_PRECISION_HINT": name,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    return core.compile_model(path, "CPU", settings).create_infer_request()
