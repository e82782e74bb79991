"""One more block in a trained net, which at first hands on what it is given.

    python recipes/an4/deepen.py MODEL OUT

The block's own way begins as nothing, since its last norm's gain is 0. Its shortcut is the identity
under a norm, which has to know its input's statistics: they are taken of AN4's training part. What
the block gives is what the block before it gave, which is never below 0.
Source: Chen et al., Net2Net, arXiv:1511.05641.
"""

import re
import sys
from dataclasses import replace

import torch
from deep import BLOCKS, LOOKAHEAD, PLACE
from run import DATA
from torch import Tensor

import speechkit as sk
from speechkit.data import read_audio, read_manifest
from speechkit.models import Model
from speechkit.nn import Taps

HEARD = 200
"""How many utterances the statistics are of."""


def deepen(model: Model, utterances: list[Tensor]) -> Model:
    """The same function with a block more."""
    deep = sk.build(replace(model.config, blocks=BLOCKS, lookahead=LOOKAHEAD)).eval()
    state = model.state_dict().items()
    deep.load_state_dict(
        {re.sub(r"^encoder\.(\d+)", moved, name): value for name, value in state}, strict=False
    )
    block = deep.encoder[PLACE].sum
    with torch.no_grad():
        var, mean = torch.var_mean(given(model, utterances), dim=1, correction=0)
        norm = block.shortcut.norm
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_((var + norm.eps).sqrt())
        norm.bias.copy_(mean)
        block.shortcut.channel.weight.copy_(torch.eye(len(mean)))
        block.body[-1].norm.weight.zero_()
        block.body[-1].norm.bias.zero_()
    return deep


def moved(name: re.Match[str]) -> str:
    """A block's name in the deeper net."""
    place = int(name[1])
    return f"encoder.{place + (place >= PLACE)}"


def given(model: Model, utterances: list[Tensor]) -> Tensor:
    """What comes to the new block's place, `[C, frames]`."""
    with Taps({"place": model.encoder[PLACE]}) as taps:
        for audio in utterances:
            model(audio[None])
    return torch.cat([c.x[0] for _, _, (c,), _ in taps.take()], 1)


if __name__ == "__main__":
    folder, out = sys.argv[1:]
    model = sk.load(folder).float().eval()
    rows = read_manifest(DATA / "train.jsonl")[:HEARD]
    audio = [read_audio(row.audio, target_rate=model.sample_rate) for row in rows]
    sk.save(deepen(model, audio), out)
