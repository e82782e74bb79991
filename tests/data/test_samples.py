"""Samples in arrays and tensors: contiguous float32, or one line that says what to give."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import speechkit as sk
from speechkit.data import read_audio
from speechkit.data.samples import as_samples
from speechkit.errors import AudioError

SOUND = (0.3 * np.sin(np.arange(16000) / 20)).astype(np.float32)
TENSOR = torch.from_numpy(SOUND)


class Foreign:
    """An array of another library."""

    def __init__(self, x: np.ndarray) -> None:
        self.dtype, self.shape, self._x = x.dtype, x.shape, x

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self._x


def views(x: np.ndarray) -> list[Any]:
    """The same samples in other memory."""
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.zeros((len(x), 3), np.float32)
    wide[:, 1] = x
    return [
        x,
        frozen,
        x[::-1].copy()[::-1],
        wide[:, 1],
        x[:, None],
        x.astype(">f4"),
        x.astype(np.float64),
        torch.from_numpy(x),
        torch.from_numpy(wide)[:, 1],
        torch.from_numpy(x).requires_grad_(),
        torch.from_numpy(-x)._neg_view(),
        Foreign(x),
    ]


@pytest.mark.parametrize("number", range(12))
def test_every_view_of_the_same_samples_is_the_same_sound(number: int) -> None:
    view = views(SOUND)[number]
    x = as_samples(view)
    assert (x.dtype, x.flags.c_contiguous, x.shape) == (np.float32, True, (16000,))
    assert np.array_equal(x, SOUND)
    assert torch.equal(read_audio(view, 16000), TENSOR)


def masked() -> Any:
    return np.ma.masked_array(SOUND, mask=SOUND > 0.2)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "sparse": (lambda: TENSOR.to_sparse(), r"give x\.to_dense\(\)"),
    "compressed": (lambda: TENSOR[:9, None].to_sparse_csr(), r"give x\.to_dense\(\)"),
    "without memory": (lambda: TENSOR.to("meta"), "no plain tensor"),
    "nested": (lambda: torch.nested.nested_tensor([TENSOR, TENSOR[:9]]), "no plain tensor"),
    "masked array": (masked, r"has a mask; fill it with x\.filled\(0\)"),
    "masked tensor": (
        lambda: torch.masked.masked_tensor(TENSOR, TENSOR > 0.1),
        "no plain tensor|neither",
    ),
    "quantized": (
        lambda: torch.quantize_per_tensor(TENSOR, 0.1, 0, torch.qint8),
        "is qint8; convert it to float32",
    ),
    "complex": (lambda: TENSOR.to(torch.complex64), "is complex64; convert it"),
    "complex array": (lambda: SOUND.astype(np.complex128), "is complex128; convert it"),
    "integers": (lambda: torch.arange(9), "is int64; convert it"),
    "objects": (lambda: SOUND.astype(object), "is object; convert it"),
    "a number": (lambda: torch.tensor(0.5), r"neither \[N\] nor \[N, channels\]"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_sound_is_refused_in_one_line(case: str) -> None:
    make, message = BAD[case]
    model = sk.load("vad")
    asks: list[Callable[[Any], object]] = [
        as_samples,
        lambda x: read_audio(x, 16000),
        lambda x: sk.detect(model, x, 16000),
        lambda x: sk.stream(model).feed(x),
        lambda x: sk.stream(model, window_s=1.0).feed(x),
    ]
    for ask in asks:
        with pytest.raises(AudioError, match=message) as caught:
            ask(make())
        assert len(str(caught.value)) < 450
