"""Static int8: weights and activations of the net, not those of the front end or the head."""

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
    """Makes the named nodes of an ONNX file int8, in place.

    Activations are unsigned, with the range they have on the graph's first trial; weights are
    signed, with a scale per channel: the pair that CPUs multiply fastest.
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
    """What onnxruntime takes calibration data from."""
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
