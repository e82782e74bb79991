"""torch.export programs: `.pt2` files that torch runs without speechkit."""

import json
from pathlib import Path

import torch

from speechkit.errors import CheckpointError
from speechkit.export.check import check
from speechkit.export.graph import Example, Graph, Run, graph_of, tracing
from speechkit.frontend.scanned import Scanned
from speechkit.models import Model

METADATA = "speechkit.json"
"""The extra file in the program that holds the metadata."""
TOLERANCE = 1e-5


class TorchExport:
    """Writes a `torch.export` program with dynamic batch and time, and its metadata."""

    suffix = ".pt2"

    def __init__(self, streaming: bool = False, features: bool = True) -> None:
        self.streaming, self.features = streaming, features

    def __call__(self, model: Model, example: Example, path: Path) -> float:
        """The largest relative difference between the program's scores and the model's."""
        graph = graph_of(model, example, self.streaming, self.features)
        whole = self.features and not self.streaming
        if whole and any(isinstance(x, Scanned) for x in graph.module.modules()):
            raise CheckpointError(
                "features normalised along the recording have no torch.export form but a stream's; "
                "add --streaming, or use --format onnx"
            )
        write(graph, path)
        return check(graph, runner(path), TOLERANCE)


def write(graph: Graph, path: Path) -> None:
    """Writes the graph."""
    shapes = graph.shapes(lambda name: torch.export.Dim.DYNAMIC)
    with tracing("torch.export"):
        program = torch.export.export(graph.module, graph.traced, dynamic_shapes=shapes)
        extra = {METADATA: json.dumps(graph.metadata, ensure_ascii=False)}
        torch.export.save(program, path, extra_files=extra)


def runner(path: Path) -> Run:
    """Runs a program file."""
    with tracing("torch.export"):
        module = torch.export.load(path).module()
    return lambda inputs: list(module(*inputs))
