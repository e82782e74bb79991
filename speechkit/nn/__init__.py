"""Layers that compute the same for whole utterances and chunk by chunk; see `stream.py` first."""

import speechkit.torch_required

from speechkit.nn.block import BodyMaker, plain_block, skip_block
from speechkit.nn.conv import Conv, DenseConv, DepthwiseConv, LookAhead, reach
from speechkit.nn.elementwise import Elementwise
from speechkit.nn.frame import (
    Add,
    Affine,
    BatchNorm,
    Bias,
    Dropout,
    LogSoftmax,
    Multiply,
    Pointwise,
)
from speechkit.nn.fuse import fuse
from speechkit.nn.pool import AveragePool, ClipHead, PooledHead, RunningAverage, SlidingAverage
from speechkit.nn.rnn import Rnn, RnnMixer
from speechkit.nn.scan import scan
from speechkit.nn.separable import SeparableConv, SeparableResidual
from speechkit.nn.still import still
from speechkit.nn.stream import (
    Chunk,
    Delay,
    FrameWise,
    Recurrent,
    Residual,
    Serial,
    State,
    StreamLayer,
    Windowed,
    as_layer,
    cat_time,
    empty_past,
    zeros,
)
from speechkit.nn.sync_batch_norm import SyncBatchNorm, sync_batch_norms
from speechkit.nn.taps import Call, Taps
from speechkit.ops.describes import describes

__all__ = [
    "Add",
    "Affine",
    "AveragePool",
    "BatchNorm",
    "Bias",
    "BodyMaker",
    "Call",
    "Chunk",
    "ClipHead",
    "Conv",
    "Delay",
    "DenseConv",
    "DepthwiseConv",
    "Dropout",
    "Elementwise",
    "FrameWise",
    "LogSoftmax",
    "LookAhead",
    "Multiply",
    "Pointwise",
    "PooledHead",
    "Recurrent",
    "Residual",
    "Rnn",
    "RnnMixer",
    "RunningAverage",
    "SeparableConv",
    "SeparableResidual",
    "Serial",
    "SlidingAverage",
    "State",
    "StreamLayer",
    "SyncBatchNorm",
    "Taps",
    "Windowed",
    "as_layer",
    "cat_time",
    "describes",
    "empty_past",
    "fuse",
    "plain_block",
    "reach",
    "scan",
    "skip_block",
    "still",
    "sync_batch_norms",
    "zeros",
]
