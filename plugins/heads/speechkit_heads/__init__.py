"""Heads for speechkit, by name once the package is installed: `head="tversky"`.

Nothing here imports torch.
"""

from functools import partial

from speechkit import Component, hookimpl

_HEAD = partial(Component, exports=frozenset({"torch", "torch.export", "onnx"}))
_CLIP = partial(_HEAD, task="clip", time="utterance", parts={"pool": "pool"})


@hookimpl
def speechkit_heads() -> list[Component]:
    return [
        _CLIP(
            name="relu",
            factory="speechkit_heads.relu:relu",
            summary="Scores that are ReLUs; if none is above 0, the label `reject`",
            formula="log(max(W pool(x) + b, 0) + eps)",
            paper="arXiv:1803.08375",
        ),
    ]
