"""Writes ONNX files with torch's dynamo exporter, and runs them with onnxruntime."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechkit.errors import MissingExtraError
from speechkit.export import int8
from speechkit.export.check import check
from speechkit.export.graph import Example, Graph, Run, graph_of, tracing
from speechkit.models import Model

OPSET = 20
KEY = "speechkit"
"""The metadata property that holds JSON."""
TOLERANCE = 1e-4


class Onnx:
    """Writes one ONNX file with opset 20, and its metadata as JSON in the property `speechkit`."""

    suffix = ".onnx"

    def __init__(self, streaming: bool = False, features: bool = True, int8: bool = False) -> None:
        self.streaming, self.features, self.int8 = streaming, features, int8

    def __call__(self, model: Model, example: Example, path: Path) -> float:
        """The largest relative difference between the file's scores and the model's."""
        graph = graph_of(model, example, self.streaming, self.features)
        nodes = write(graph, path)
        if self.int8:
            int8.quantize(graph, nodes, path)
        return check(graph, runner(path), int8.TOLERANCE if self.int8 else TOLERANCE)


def write(graph: Graph, path: Path) -> list[str]:
    """Writes the graph as one file, without paths or names of the machine.

    Returns the names of the nodes that multiply by weights, except the last ones, of the head.
    """
    import_package("onnx")
    import_package("onnxscript")
    with tracing("ONNX"):
        program = torch.onnx.export(
            graph.module,
            graph.traced,
            dynamo=True,
            opset_version=OPSET,
            input_names=graph.inputs,
            output_names=graph.outputs,
            dynamic_shapes=graph.shapes(str),
            verbose=False,
        )
    assert program is not None
    net = program.model.graph
    heavy = [str(node.name) for node in net.all_nodes() if _is_heavy(node)]
    net.metadata_props.clear()
    for node in net.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*net.inputs, *net.initializers.values()):
        value.metadata_props.clear()
    program.model.metadata_props[KEY] = json.dumps(graph.metadata, ensure_ascii=False)
    program.save(path, external_data=False)
    return heavy[:-1]


def _is_heavy(node: Any) -> bool:
    """True for a convolution or a linear layer of the net, not for a table of the front end."""
    made_of = node.metadata_props.get("pkg.torch.onnx.fx_node", "")
    return node.op_type == "Conv" or (node.op_type == "MatMul" and "aten.linear" in made_of)


def runner(path: Path) -> Run:
    """Runs an ONNX file on one thread."""
    onnxruntime = import_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # errors are raised too, so they need not be logged
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        arrays = [given.contiguous().numpy() for given in inputs]
        outputs = session.run(None, dict(zip(names, arrays, strict=True)))
        return [torch.from_numpy(y) for y in outputs]

    return run


def import_package(name: str) -> Any:
    """Imports a package of the extra `export`."""
    try:
        return __import__(name)
    except ImportError as error:
        raise MissingExtraError(name, "export") from error
