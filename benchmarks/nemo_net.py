"""NVIDIA NeMo's own encoder and decoder for a model's config, if NeMo is installed."""

from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.plain import copy_weights
from benchmarks.registry import Absent
from speechkit.models import Model


class NemoNet(nn.Module):
    """Features `[B, F, T]` to scores, by NeMo's modules."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        from nemo.collections.asr import modules

        blocks = [
            {
                "filters": block.channels,
                "repeat": block.repeat,
                "kernel": [block.kernels[0]],
                "stride": [block.stride],
                "dilation": [block.dilation],
                "dropout": 0.0,
                "residual": block.residual,
                "separable": block.separable,
            }
            for block, _ in model.config.rows()
        ]
        features = model.frontend.channels_out(1)
        self.encoder = modules.ConvASREncoder(blocks, "relu", features, conv_mask=True)
        width, labels = model.config.rows()[-1][0].channels, list(model.labels)
        self.decoder = (
            modules.ConvASRDecoderClassification(width, len(labels), return_logits=True)
            if model.per_clip
            else modules.ConvASRDecoder(width, len(labels), vocabulary=labels)
        )

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), x.shape[2])
        y, _ = self.encoder(audio_signal=x, length=lengths)
        scores: Tensor = self.decoder(encoder_output=y)
        return scores


def nemo_net(model: Model) -> NemoNet:
    """NeMo's net with the model's weights."""
    if find_spec("nemo") is None:
        raise Absent("nemo_toolkit is not installed")
    return copy_weights(model, NemoNet(model)).train(model.training)
