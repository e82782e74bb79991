"""The bias of a model's blank: how readily it says nothing.

    python recipes/an4/blank.py MODEL OUT NATS

What is masked in training makes a net leave labels out sooner than invent some; fewer nats of blank
even that out. Writes OUT in float16.
"""

import sys

import torch

import speechkit as sk

if __name__ == "__main__":
    folder, out, nats = sys.argv[1:]
    model = sk.load(folder)
    with torch.no_grad():
        model.head.linear.bias[-1] += float(nats)
    sk.save(model.half(), out)
