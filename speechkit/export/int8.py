"""Static int8 quantization of the net, without the front end and the head."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from speechkit.errors import MissingExtraError
from speechkit.export.graph import Graph, tracing

TOLERANCE = 0.1


def quantize(graph: Graph, nodes: list[str], path: Path) -> None:
    """Quantizes the named nodes of an ONNX file to int8, in place.

    Activations are unsigned, with their range on the graph's first trial. Weights are signed, with
    a scale per channel. CPUs multiply this combination fastest.
    """
    try:
        from onnxruntime import quantization as q
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "export") from error
    with tracing("int8"):
        q.quantize_static(
            path,
            path,
            _reader(graph),
            quant_format=q.QuantFormat.QDQ,
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=nodes,
        )


def _reader(graph: Graph) -> Any:
    """The calibration data in the form that onnxruntime needs."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.calls = _calls(graph)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.calls, None)

    return Reader()


def _calls(graph: Graph) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The inputs of each call of the first trial, by name."""
    states = graph.start(len(graph.trials[0][0][0]))
    for x, valid in graph.trials[0]:
        inputs = [x, valid, *states]
        arrays = [given.contiguous().numpy() for given in inputs]
        yield dict(zip(graph.inputs, arrays, strict=True))
        with torch.no_grad():
            states = list(graph.model(*inputs)[2:])
