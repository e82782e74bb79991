"""The exporters of the core."""

from speechkit.component import Component
from speechkit.hookspecs import hookimpl


@hookimpl
def speechkit_exporters() -> list[Component]:
    return [
        Component(
            name="onnx",
            factory="speechkit.export.onnx:Onnx",
            summary="An ONNX file with metadata, for onnxruntime",
            formula="max |y - scores| <= 1e-4 max |scores|",
            time="utterance",
        ),
        Component(
            name="torch_export",
            factory="speechkit.export.program:TorchExport",
            summary="A torch.export program, for torch without speechkit",
            formula="max |y - scores| <= 1e-5 max |scores|",
            time="utterance",
        ),
        Component(
            name="native",
            factory="speechkit.export.native:Native",
            summary="A plan, which speechkit runs without torch",
            formula="max |y - scores| <= 1e-4 max |scores|",
            time="lookahead",
            example={"features": True},
        ),
    ]
