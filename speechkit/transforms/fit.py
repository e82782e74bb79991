"""Fits a net with less look-ahead to a trained one, layer by layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from speechkit.component import Spec
from speechkit.errors import ConfigError
from speechkit.models import Block, Model, Net, build
from speechkit.models.model import evaluating
from speechkit.nn import Chunk, LookAhead, Taps
from speechkit.probes import Examples
from speechkit.transforms import check_components, required

TAKES = {
    "mixer": ("core/depthwise",),
    "channel": ("core/linear",),
    "norm": ("core/batch", "core/none"),
}
"""The components of a net whose layers can be fitted."""
TINY = 1e-12
"""The least power of an input, in place of zero."""

Target = list[Tensor]
"""What a layer of the teacher returned for each utterance, `[T, C]`."""


class Fit:
    """A student model with the teacher's layers, without taps further ahead than `lookahead`.

    `lookahead` is in frames of a convolution's input: one number, or one for each block, the stem
    first, as a list or as one string with spaces between them. In the order of the net, each filter
    and then each 1×1 layer is fitted to the teacher's output by least squares. Its input is the
    output of the student's earlier layers:

        min_W Σ_t ‖W x_t + b − y_t‖² + λ‖W − W_teacher‖², λ = `ridge` · mean power of an input

    over `utterances` of the examples, which are all in memory. The student's norms are batch norms
    that do not change their input. Its front end is `frontend` if given. The report has the
    relative squared error of each fitted 1×1 layer. ConfigError for a net of other components.
    """

    def __init__(
        self,
        lookahead: int | str | Sequence[int],
        frontend: str | Spec | dict[str, Any] | None = None,
        utterances: int = 40,
        ridge: float = 1e-3,
    ) -> None:
        given = lookahead.split() if isinstance(lookahead, str) else lookahead
        self.lookahead = given if isinstance(given, int) else [int(frames) for frames in given]
        if utterances < 1 or not ridge > 0:
            raise ValueError(
                f"utterances={utterances}, ridge={ridge}; give 1 or more, and more than 0"
            )
        self.frontend = frontend
        self.utterances, self.ridge = utterances, ridge

    @torch.no_grad()
    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        audio = required(examples, "fit").clips(self.utterances)
        student = build(self.student(model.config)).eval()
        _copy(model, student)
        targets = _outputs(model, audio)
        errors: dict[str, float] = {}
        with _before_each(student, partial(self._fit, student, targets, errors)):
            student(pad_sequence(audio, batch_first=True), torch.tensor([*map(len, audio)]))
        return student, {"relative_error": errors}

    def student(self, config: Net) -> Net:
        """The student's config, for that of the teacher."""
        check_components("fit", config, TAKES)
        rows, given = config.rows(), self.lookahead
        aheads = [given] * len(rows) if isinstance(given, int) else given
        if len(aheads) != len(rows):
            raise ConfigError(
                f"fit: lookahead has {len(aheads)} entries for {len(rows)} blocks; give one for "
                "each block, the stem first"
            )
        blocks = [_cut(row, old, new) for (row, old), new in zip(rows, aheads, strict=True)]
        return replace(
            config,
            size="custom",
            blocks=tuple(blocks),
            lookahead=tuple(aheads),
            norm="batch",
            frontend=config.frontend if self.frontend is None else Spec.parse(self.frontend),
        )

    def _fit(
        self,
        student: Model,
        targets: dict[str, Target],
        errors: dict[str, float],
        name: str,
        layer: Any,
        c: Chunk,
    ) -> None:
        """Sets the weights of a layer before it reads `c`."""
        if name.endswith(".mixer"):
            fit_filters(layer, c, targets[name], self.ridge)
        elif name.endswith(".channel"):
            norm = name.removesuffix("channel") + "norm"
            bias = student.get_parameter(f"{norm}.bias")
            errors[name] = fit_linear(layer, c, bias, targets[norm], self.ridge)
        else:
            set_statistics(layer, c)


def fit_filters(layer: Any, c: Chunk, targets: Target, ridge: float) -> None:
    """Each channel's taps w of min Σ_t (Σ_k w_k x[t + k] − y_t)² + λ‖w − w₀‖²."""
    x = F.pad(c.x.masked_fill(~c.valid[:, None], 0), (layer.left, layer.right))
    old = layer.weight[:, 0].double()
    gram = x.new_zeros(*old.shape, old.shape[1], dtype=torch.float64)
    moment = torch.zeros_like(old)
    for row, y in zip(x, targets, strict=True):
        taps = row.unfold(1, layer.span, layer.stride)[:, : len(y), :: layer.dilation]
        gram += (taps.transpose(1, 2) @ taps).double()
        moment += torch.einsum("ctk,tc->ck", taps, y[: taps.shape[1]].float()).double()
    price = ridge * gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + TINY
    gram += torch.diag_embed(price.expand_as(old))
    layer.weight.copy_(torch.linalg.solve(gram, moment + price * old)[:, None])


def fit_linear(layer: Any, c: Chunk, bias: Tensor, targets: Target, ridge: float) -> float:
    """Weights, and the bias of the next norm, of min Σ_t ‖W x_t + b − y_t‖² + λ‖W − W₀‖².

    Returns Σ_t ‖W x_t + b − y_t‖² / Σ_t ‖y_t − mean y‖².
    """
    rows = list(zip(c.x.transpose(1, 2), c.lengths.tolist(), targets, strict=True))
    x = torch.cat([x[: min(length, len(y))] for x, length, y in rows]).double()
    x = F.pad(x, (0, 1), value=1.0)
    wanted = torch.cat([y[:length] for _, length, y in rows]).double()
    old = torch.cat([layer.weight, bias[:, None]], dim=1).double()
    gram = x.T @ x
    price = ridge * gram.diagonal().mean() + TINY
    gram += price * torch.eye(len(gram))
    new = torch.linalg.solve(gram, x.T @ wanted + price * old.T).T
    layer.weight.copy_(new[:, :-1])
    bias.copy_(new[:, -1])
    spread = (wanted - wanted.mean(0)).square().sum().clamp(min=TINY)
    return float((x @ new.T - wanted).square().sum() / spread)


def set_statistics(norm: Any, c: Chunk) -> None:
    """Sets a batch norm's statistics to those of its input, and the scale that cancels them."""
    x = c.x.transpose(1, 2)[c.valid].double()
    mean, variance = x.mean(0), x.var(0)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.add_(mean)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def _cut(row: Block, old: LookAhead, new: int) -> Block:
    """The row without the taps that look further ahead than `new` frames."""
    ahead = new // row.dilation
    rights = [
        (k - 1) // 2 if old == "same" else min(old // row.dilation, k - 1) for k in row.kernels
    ]
    kernels = [k - max(0, right - ahead) for k, right in zip(row.kernels, rights, strict=True)]
    return replace(row, kernel=kernels[0] if isinstance(row.kernel, int) else tuple(kernels))


def _copy(teacher: Model, student: Model) -> None:
    """The teacher's weights, with each norm's scale folded into the layer before it."""
    known = {name: x for name, x in teacher.state_dict().items() if ".norm." not in name}
    for name, layer in teacher.named_modules():
        if name.endswith(".norm"):
            affine = getattr(layer, "module", layer).fuse()
            known[f"{name}.bias"] = affine.shift
            before = name.removesuffix("norm")
            key = next(k for k in (f"{before}channel.weight", f"{before}conv.weight") if k in known)
            known[key] = known[key] * affine.scale.view(-1, *[1] * (known[key].ndim - 1))
    for name, value in student.state_dict().items():
        if name in known:
            # taps are in time order: the first ones reach back as far as the teacher's
            value.copy_(known[name][..., : value.shape[-1]])


def _outputs(teacher: Model, audio: list[Tensor]) -> dict[str, Target]:
    """What each filter and each norm of the teacher returns, in float16."""
    layers = {
        name: layer for name, layer in teacher.named_modules() if name.endswith((".mixer", ".norm"))
    }
    found: dict[str, Target] = {name: [] for name in layers}
    with Taps(layers) as taps, evaluating(teacher):
        for clip in audio:
            teacher(clip[None])
            for name, _, _, c in taps.take():
                found[name].append(c.x[0].T.half())
    return found


@contextmanager
def _before_each(student: Model, change: Callable[..., None]) -> Iterator[None]:
    """Calls `change(name, layer, chunk)` before a filter, a 1×1 layer or a norm reads a chunk."""
    handles = [
        layer.register_forward_pre_hook(lambda layer, args, name=name: change(name, layer, *args))
        for name, layer in student.named_modules()
        if name.endswith((".mixer", ".channel", ".norm"))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
