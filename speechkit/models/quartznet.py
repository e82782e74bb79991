"""QuartzNet: end-to-end speech recognition with CTC (Kriman et al., arXiv:1910.10261)."""

from dataclasses import dataclass, field
from typing import Literal

from speechkit.models.net import Block, Name, Net, choose_blocks
from speechkit.rules.endpointing import Endpointing
from speechkit.text import ENGLISH_LABELS
from speechkit.text.confidence import Confidence


def paper_blocks(copies: int) -> tuple[Block, ...]:
    """The paper's table: five groups of `copies` blocks between C1 and C2, C3."""
    groups = ((256, 33), (256, 39), (512, 51), (512, 63), (512, 75))
    return (
        Block(channels=256, kernel=33, stride=2),
        *(
            Block(channels=channels, kernel=kernel, repeat=5, residual=True, copies=copies)
            for channels, kernel in groups
        ),
        Block(channels=512, kernel=87, dilation=2),
        Block(channels=1024, kernel=1, separable=False),
    )


SIZES = {"5x5": paper_blocks(1), "10x5": paper_blocks(2), "15x5": paper_blocks(3)}


@dataclass(frozen=True, kw_only=True)
class QuartzNet(Net):
    """Characters from speech; `size` is one of 5x5, 10x5, 15x5, or give `blocks`.

    Scores are log-probabilities of `labels` and blank, one per 20 ms at stride 2. `normalization`
    names the text normalisation (`speechkit.text`), `confidence` is the scale and bias of a word's
    score (`speechkit.text.confidence`), `endpointing` is the rule that ends a text in a stream.
    """

    kind: Literal["quartznet"] = "quartznet"
    size: str = ""
    labels: tuple[str, ...] = ENGLISH_LABELS
    head: Name = "ctc"
    normalization: str = "english"
    confidence: Confidence = (1.0, 0.0)
    endpointing: Endpointing = field(default_factory=Endpointing)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "confidence", tuple(self.confidence))
        choose_blocks(self, SIZES.get, default="15x5")
