"""A streaming student fitted to a teacher, layer by layer, before any training.

    python recipes/english/student.py TEACHER OUT

TEACHER is a QuartzNet 15x5 with folded batch norms. The student has its layers, with no tap further
ahead than it may look. Front to back, each layer's filters and then its 1×1 weights are those that
bring it nearest to the teacher's output there, by least squares over training utterances, given
what the student's own layers make of them. Batch norms behind them that change nothing come last.
"""

import sys
from functools import partial
from pathlib import Path

import torch
from run import DATA, student
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import speechkit as sk
from speechkit.data import read_audio, read_manifest
from speechkit.models import Model
from speechkit.nn import Chunk, DepthwiseConv

UTTERANCES = 40
RIDGE = 1e-3
"""What moving a weight away from the teacher's costs, in mean powers of an input."""

Heard = tuple[Tensor, Tensor]
"""What a layer of the teacher gave, `[B, T, C]`, and how many frames of each row are valid."""


@torch.no_grad()
def fit(config: sk.QuartzNet, teacher: Model, audio: list[Tensor]) -> Model:
    """The student of a config, whose layers are the teacher's, fitted on utterances `[N]`."""
    model = sk.build(config).eval()
    known = {name.replace(".norm.module.", ".norm."): x for name, x in teacher.state_dict().items()}
    for name, value in model.state_dict().items():
        if name in known:
            # taps are in time order: the first ones reach back as far as the teacher's
            value.copy_(known[name][..., : value.shape[-1]])
    heard = listen(teacher, audio)
    handles = []
    for name, layer in model.named_modules():
        norm = name.replace(".channel", ".norm")
        if isinstance(layer, DepthwiseConv):
            change = partial(fit_filters, target=heard[name])
        elif name.endswith(".channel"):
            change = partial(
                fit_linear, bias=model.get_parameter(f"{norm}.bias"), target=heard[norm]
            )
        elif hasattr(layer, "running_mean"):
            change = settle
        else:
            continue
        handles.append(layer.register_forward_pre_hook(change))
    model(*padded(audio))
    for handle in handles:
        handle.remove()
    return model


def listen(teacher: Model, audio: list[Tensor]) -> dict[str, Heard]:
    """What each filter and each folded norm of the teacher gives, in float16."""
    heard: dict[str, Heard] = {}

    def keep(layer: nn.Module, inputs: tuple[Chunk], c: Chunk, name: str) -> None:
        heard[name] = (c.x.transpose(1, 2).half(), c.lengths)

    handles = [
        layer.register_forward_hook(partial(keep, name=name))
        for name, layer in teacher.named_modules()
        if isinstance(layer, DepthwiseConv) or name.endswith(".norm")
    ]
    teacher.eval()(*padded(audio))
    for handle in handles:
        handle.remove()
    return heard


def fit_filters(layer: DepthwiseConv, inputs: tuple[Chunk], target: Heard) -> None:
    """Each channel's taps w of min Σ_t (Σ_k w_k x[t + k] − y_t)² + λ‖w − w₀‖²."""
    c = inputs[0]
    x = F.pad(c.x.masked_fill(~c.valid[:, None], 0), (layer.left, layer.right))
    old = layer.weight[:, 0].double()
    gram = x.new_zeros(*old.shape, old.shape[1], dtype=torch.float64)
    moment = torch.zeros_like(old)
    for row, y, valid in zip(x, target[0].float(), target[1].tolist(), strict=True):
        taps = row.unfold(1, layer.span, layer.stride)[:, :valid, :: layer.dilation]
        gram += (taps.transpose(1, 2) @ taps).double()
        moment += torch.einsum("ctk,tc->ck", taps, y[: taps.shape[1]]).double()
    price = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-12
    gram += torch.diag_embed(price.expand_as(old))
    layer.weight.copy_(torch.linalg.solve(gram, moment + price * old)[:, None])


def fit_linear(layer: nn.Module, inputs: tuple[Chunk], bias: Tensor, target: Heard) -> None:
    """Weights and bias (of the norm behind) of min Σ_t ‖W x_t + b − y_t‖² + λ‖W − W₀‖²."""
    c = inputs[0]
    y, valid = target
    frames = min(c.x.shape[2], y.shape[1])
    known = torch.arange(frames) < torch.minimum(valid, c.lengths)[:, None]
    x = c.x.transpose(1, 2)[:, :frames][known].double()
    x = F.pad(x, (0, 1), value=1.0)
    old = torch.cat([layer.weight, bias[:, None]], dim=1).double()
    gram = x.T @ x
    price = RIDGE * gram.diagonal().mean()
    gram += price * torch.eye(len(gram))
    new = torch.linalg.solve(gram, x.T @ y[:, :frames][known].double() + price * old.T).T
    layer.weight.copy_(new[:, :-1])
    bias.copy_(new[:, -1])


def settle(norm: nn.Module, inputs: tuple[Chunk]) -> None:
    """Gives a batch norm the statistics of its input, and the scale that undoes them."""
    c = inputs[0]
    x = c.x.transpose(1, 2)[c.valid].double()
    mean, variance = x.mean(0), x.var(0)
    norm.weight.copy_((variance + norm.eps).sqrt())
    norm.bias.add_(mean)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def padded(audio: list[Tensor]) -> tuple[Tensor, Tensor]:
    return pad_sequence(audio, batch_first=True), torch.tensor([len(x) for x in audio])


if __name__ == "__main__":
    teacher, out = map(Path, sys.argv[1:])
    spoken = [u for u in read_manifest(DATA / "train.jsonl") if u.duration_s > 10]
    some = spoken[:: len(spoken) // UTTERANCES]
    sk.save(fit(student(), sk.load(teacher), [read_audio(u.audio) for u in some]), out)
