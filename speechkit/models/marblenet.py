"""MarbleNet: voice activity (Jia et al., arXiv:2010.13886), for clips or for every 20 ms."""

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from speechkit.component import Spec
from speechkit.models.matchboxnet import paper_blocks
from speechkit.models.net import Name, Net, choose_blocks
from speechkit.rules.vad import PostProcessing

FRAME_FRONTEND = Spec("log_mel", {"n_mels": 80, "window_s": 0.025, "normalize": "none"})


@dataclass(frozen=True, kw_only=True)
class MarbleNet(Net):
    """Speech or not; the speech class is index 1. `size` is BxRxC such as 3x2x64.

    Scores are logits of the clip, or, with `frame_level`, of every 20 ms: the first block then has
    stride 2 and reads 80 log-mels instead of MFCC. `postprocess` is the rule for segments.
    """

    kind: Literal["marblenet"] = "marblenet"
    size: str = ""
    frame_level: bool = False
    labels: tuple[str, ...] = ("background", "speech")
    frontend: Name = ""
    head: Name = ""
    postprocess: PostProcessing = field(default_factory=PostProcessing)

    def __post_init__(self) -> None:
        if not self.frontend:
            object.__setattr__(self, "frontend", FRAME_FRONTEND if self.frame_level else "mfcc")
        if not self.head:
            object.__setattr__(self, "head", "frame" if self.frame_level else "clip")
        super().__post_init__()
        stride = 2 if self.frame_level else 1
        choose_blocks(self, partial(paper_blocks, stride=stride), default="3x2x64")
