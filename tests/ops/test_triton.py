"""What Triton's implementations say and do on a machine without a card."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from speechkit.errors import ComponentError, ConfigError
from speechkit.ops import depthwise_conv, separable_conv
from speechkit.ops.triton_expressions import translated

KERNELS = Path(__file__).with_name("test_triton_kernels.py")
no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA card")


def test_the_kernels_are_right_under_the_interpreter() -> None:
    pytest.importorskip("triton")
    # triton reads the variable when it is imported
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", str(KERNELS)],
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert " passed" in done.stdout


@no_card
def test_auto_does_not_import_triton() -> None:
    code = """
import sys
import torch
import speechkit as sk
from speechkit.nn import Chunk, DepthwiseConv
model = sk.load("vad")
sk.detect(model, torch.zeros(16000), 16000)
sk.stream(model).feed(torch.zeros(1600))
sk.ops.explain(sk.prepare(model))
with sk.ops.use_impl("torch"):
    sk.StreamBatch(model, 1).feed(torch.zeros(1, 1600))
DepthwiseConv(4, 5).half()(Chunk.of(torch.zeros(1, 4, 9).half()))
print([name for name in sys.modules if name.partition(".")[0] == "triton"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr[-2000:]


@no_card
def test_without_a_card_it_explains_itself_in_one_line() -> None:
    x, weight = torch.zeros(1, 4, 9), torch.zeros(4, 1, 3)
    why = (
        "implementation 'triton': it runs on CUDA, not on cpu, and this machine has no CUDA card; "
        "use 'auto'"
    )
    for call in (
        lambda: depthwise_conv(x, weight, impl="triton"),
        lambda: separable_conv(x, weight, torch.zeros(2, 4), torch.zeros(2), impl="triton"),
    ):
        with pytest.raises(ConfigError) as found:
            call()
        assert str(found.value) == why


def test_types_it_has_no_kernel_for_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    double = torch.zeros(2, 4, dtype=torch.float64)
    with pytest.raises(ConfigError, match=r"float32, bfloat16 and float16, not torch\.float64"):
        separable_conv(torch.zeros(1, 4, 9), None, double, torch.zeros(2), impl="triton")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x * sigmod(x)", "there is no sigmod. Did you mean 'sigmoid'?"),
        ("max(x)", "max takes 2 arguments, not 1"),
        ("x + y", "'y' is not x or a number"),
        ("x if x > 0 else 0", "IfExp has no place in it"),
        ("x > 0", "Compare has no place in it"),
        ("where(x, 1, 0)", "where takes a comparison first"),
        ("x ** 0.5", "** takes a whole number from 0 to 64, else use pow"),
        ("x ** -1", "** takes a whole number"),
        ("levels[x]", "Subscript has no place in it"),
        ("sigmoid(a) * b", "has two inputs"),
        ("__import__('os').system('true')", "there is no __import__('os').system"),
        ("'x'", "'x' is not a number"),
        ("x +", "invalid syntax"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, why: str) -> None:
    with pytest.raises(ComponentError) as found:
        translated(text)
    assert why in str(found.value)
    assert "\n" not in str(found.value)
