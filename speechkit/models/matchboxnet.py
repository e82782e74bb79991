"""MatchboxNet: spoken commands (Majumdar & Ginsburg, arXiv:2004.08531)."""

import re
from dataclasses import dataclass, field
from typing import Literal

from speechkit.models.net import Block, Name, Net, choose_blocks
from speechkit.rules.spotting import Spotting, check_skips


def paper_blocks(size: str, stride: int = 1) -> tuple[Block, ...] | None:
    """The table of a net named BxRxC: B blocks of R sub-blocks with C channels."""
    match = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})x([1-9]\d{0,4})", size)
    if match is None:
        return None
    count, repeat, channels = map(int, match.groups())
    return (
        Block(channels=128, kernel=11, stride=stride),
        *(
            Block(channels=channels, kernel=13 + 2 * index, repeat=repeat, residual=True)
            for index in range(count)
        ),
        Block(channels=128, kernel=29, dilation=2),
        Block(channels=128, kernel=1, separable=False),
    )


@dataclass(frozen=True, kw_only=True)
class MatchboxNet(Net):
    """One of `labels` for a short clip; `size` is BxRxC such as 3x1x64, or give `blocks`.

    Scores are logits of the whole clip; `spotting` decides when a stream reports a label.
    """

    kind: Literal["matchboxnet"] = "matchboxnet"
    size: str = ""
    frontend: Name = "mfcc"
    head: Name = "clip"
    spotting: Spotting = field(default_factory=Spotting)

    def __post_init__(self) -> None:
        super().__post_init__()
        choose_blocks(self, paper_blocks, default="3x1x64")
        check_skips(self.spotting, self.labels)
