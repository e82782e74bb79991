"""A student cut from a teacher: one block of each group, no tap further ahead than it may look.

    python recipes/english/student.py TEACHER OUT

TEACHER is a QuartzNet 15x5 with folded batch norms. OUT is the student with fresh batch norms whose
weight and bias give back the teacher's own scale on 64 training utterances.
"""

import sys
from pathlib import Path

import torch
from run import DATA, student
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import speechkit as sk
from speechkit.data import read_audio, read_manifest
from speechkit.models import Model
from speechkit.nn import Chunk

BLOCKS = (0, 3, 6, 9, 12, 15, 16)
"""The teacher's encoder blocks that the student's come from: the first of each group, C2, C3."""


def cut(teacher: Model) -> Model:
    """The student with the teacher's weights, its batch norms not yet set."""
    model = sk.build(student())
    theirs, own = teacher.state_dict(), model.state_dict()
    for name, value in own.items():
        stage, _, rest = name.partition(".")
        if stage == "encoder":
            index, _, rest = rest.partition(".")
            source = f"encoder.{BLOCKS[int(index)]}.{rest}"
        else:
            source = name
        source = source.replace(".norm.bias", ".norm.module.bias")
        if source in theirs:
            # taps are in time order: the first ones reach back as far as the teacher's
            value.copy_(theirs[source][..., : value.shape[-1]])
    return model


@torch.no_grad()
def scale_norms(model: Model, audio: list[Tensor]) -> None:
    """Sets each batch norm so that the normalised layer gives what the layer gave before."""

    def keep(norm: nn.Module, inputs: tuple[Chunk]) -> None:
        c = inputs[0]
        x = c.x.transpose(1, 2)[c.valid].double()
        mean, variance = x.mean(0), x.var(0)
        norm.weight.copy_((variance + norm.eps).sqrt())
        norm.bias.add_(mean)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    norms = [m for m in model.modules() if hasattr(m, "running_mean")]
    handles = [norm.register_forward_pre_hook(keep) for norm in norms]
    lengths = torch.tensor([len(x) for x in audio])
    model.eval()(pad_sequence(audio, batch_first=True), lengths)
    for handle in handles:
        handle.remove()


if __name__ == "__main__":
    teacher, out = map(Path, sys.argv[1:])
    model = cut(sk.load(teacher))
    utterances = read_manifest(DATA / "train.jsonl")
    scale_norms(model, [read_audio(u.audio) for u in utterances[:: len(utterances) // 64]])
    sk.save(model, out)
