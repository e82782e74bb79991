"""A waveform as a net from time to sample; the learned activation multiplies each layer's input."""

import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.nn import Chunk
from speechkit_kan.cheby import ChebyKAN


class LowRank(nn.Module):
    """y = L (R x) + b over the last axis; R has `rank` rows."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.into = nn.Linear(width, rank, bias=False)
        self.out_of = nn.Linear(rank, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out_of(self.into(x))
        return y


class SL2A(nn.Module):
    """y_0 = ψ(t), y_l = ReLU(L_l R_l (ψ ⊙ y_{l−1}) + b_l), sample = W (ψ ⊙ y_last) + b.

    ψ is a ChebyKAN from one channel, of a high degree. Shape: times `[N]` in [−1, 1] → samples
    `[N]`. Heidari et al., SL²A-INR, arXiv:2409.10836.
    """

    def __init__(
        self, hidden: int = 256, layers: int = 3, degree: int = 256, rank: int = 128
    ) -> None:
        super().__init__()
        self.psi = ChebyKAN(1, hidden, degree)
        self.layers = nn.ModuleList(LowRank(hidden, rank) for _ in range(layers))
        self.last = nn.Linear(hidden, 1)

    def forward(self, times: Tensor) -> Tensor:
        psi = self.psi(Chunk.of(times[None, None])).x[0].T
        y = psi
        for layer in self.layers:
            y = F.relu(layer(psi * y))
        samples: Tensor = self.last(psi * y)
        return samples.squeeze(1)
