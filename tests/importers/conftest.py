"""Archives as NeMo lays them out, with the deterministic weights of the golden values."""

import io
import math
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

LETTERS = [*" abcdefghijklmnopqrstuvwxyz'"]
ASR = "nemo.collections.asr.modules"
MEL = {"window": "hann", "features": 64, "n_fft": 512, "normalize": "per_feature"}


def row(filters: int, kernel: int, **more: Any) -> dict[str, Any]:
    """A row of `encoder.jasper` with all the keys that NeMo's own configs have."""
    plain = {"repeat": 1, "stride": [1], "dilation": [1], "dropout": 0.0, "residual": False}
    return {"filters": filters, "kernel": [kernel], "separable": True, **plain, **more}


def quartznet(size: int = 1) -> dict[str, Any]:
    groups = ((256, 33), (256, 39), (512, 51), (512, 63), (512, 75))
    rows = [row(256, 33, stride=[2])]
    for filters, kernel in groups:
        rows += [row(filters, kernel, repeat=5, residual=True) for _ in range(size)]
    rows += [row(512, 87, dilation=[2]), row(1024, 1, separable=False)]
    decoder = {"feat_in": 1024, "num_classes": 28, "vocabulary": LETTERS}
    return config("EncDecCTCModel", MEL, rows, "ConvASRDecoder", decoder)


def classifier(repeat: int, labels: list[str], mels: bool = False) -> dict[str, Any]:
    """MatchboxNet, MarbleNet for clips, or, with `mels`, MarbleNet for frames."""
    rows = [row(128, 11, stride=[2 if mels else 1])]
    rows += [row(64, kernel, repeat=repeat, residual=True) for kernel in (13, 15, 17)]
    rows += [row(128, 29, dilation=[2]), row(128, 1, separable=False)]
    if mels:
        front = {"window_size": 0.025, "features": 80, "n_fft": 512, "normalize": "None"}
        front["pad_to"] = 2
        head = {"hidden_size": 128, "num_classes": 2, "num_layers": 1, "log_softmax": False}
        made = config("EncDecFrameClassificationModel", front, rows, "MultiLayerPerceptron", head)
        made["decoder"]["_target_"] = "nemo.collections.common.parts.MultiLayerPerceptron"
    else:
        front = {"window_size": 0.025, "n_mels": 64, "n_mfcc": 64, "n_fft": 512}
        head = {"feat_in": 128, "num_classes": len(labels), "return_logits": True}
        name = "ConvASRDecoderClassification"
        made = config("EncDecClassificationModel", front, rows, name, head)
        made["preprocessor"]["_target_"] = f"{ASR}.AudioToMFCCPreprocessor"
    return {**made, "labels": labels}


def config(
    model: str, front: dict[str, Any], rows: list[Any], name: str, decoder: dict[str, Any]
) -> dict[str, Any]:
    features = front.get("features", 64)
    encoder = {"feat_in": features, "activation": "relu", "conv_mask": True, "jasper": rows}
    return {
        "sample_rate": 16000,
        "preprocessor": {"_target_": f"{ASR}.AudioToMelSpectrogramPreprocessor", **front},
        "encoder": {"_target_": f"{ASR}.ConvASREncoder", **encoder},
        "decoder": {"_target_": f"{ASR}.{name}", **decoder},
        "target": f"nemo.collections.asr.models.{model}",
        "nemo_version": "1.23.0",
    }


def tiny(**version: Any) -> dict[str, Any]:
    """A QuartzNet in four blocks."""
    rows = [
        row(8, 5, stride=[2]),
        row(8, 5, repeat=2, residual=True),
        row(8, 7, dilation=[2]),
        row(12, 1, separable=False),
    ]
    decoder = {"feat_in": 12, "num_classes": 28, "vocabulary": LETTERS}
    return {**config("EncDecCTCModel", dict(MEL), rows, "ConvASRDecoder", decoder), **version}


def shapes(cfg: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of encoder and decoder in NeMo's order."""
    infix = ".conv" if cfg["encoder"].get("conv_mask", True) else ""
    c_in = cfg["encoder"]["feat_in"]
    for b, r in enumerate(cfg["encoder"]["jasper"]):
        block, c_out, k = f"encoder.encoder.{b}", r["filters"], r["kernel"][0]
        width = c_in
        for i in range(r["repeat"]):
            if r["separable"]:
                yield f"{block}.mconv.{5 * i}{infix}.weight", (width, 1, k)
                yield f"{block}.mconv.{5 * i + 1}{infix}.weight", (c_out, width, 1)
                yield from norm(f"{block}.mconv.{5 * i + 2}", c_out)
            else:
                yield f"{block}.mconv.{4 * i}{infix}.weight", (c_out, width, k)
                yield from norm(f"{block}.mconv.{4 * i + 1}", c_out)
            width = c_out
        if r["residual"]:
            yield f"{block}.res.0.0{infix}.weight", (c_out, c_in, 1)
            yield from norm(f"{block}.res.0.1", c_out)
        c_in = c_out
    target = cfg["decoder"]["_target_"]
    head = "decoder.layer0" if "Perceptron" in target else "decoder.decoder_layers.0"
    count = cfg["decoder"]["num_classes"]
    ctc = target.endswith("ConvASRDecoder")
    yield f"{head}.weight", (count + 1, c_in, 1) if ctc else (count, c_in)
    yield f"{head}.bias", (count + ctc,)


def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def golden_weights(cfg: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of the golden nets, float32."""
    made: dict[str, Tensor] = {}
    k = 0
    for name, shape in shapes(cfg):
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(7)
            continue
        i = torch.arange(math.prod(shape), dtype=torch.float64)
        s = torch.sin(0.37 * i + 1.3 * k).view(shape)
        k += 1
        if name.endswith("running_mean"):
            s = 0.05 * s
        elif name.endswith("running_var"):
            s = 1 + 0.3 * s**2
        elif len(shape) >= 2:
            s = s * math.sqrt(2 / math.prod(shape[1:]))
        else:
            s = 0.1 * s if name.endswith("bias") else 1 + 0.1 * s
        made[name] = s.float()
    return made


def hydra0(cfg: dict[str, Any]) -> dict[str, Any]:
    """The config in the older dialect: classes by `cls`, their arguments under `params`."""

    def old(part: Any) -> Any:
        if not isinstance(part, dict) or "_target_" not in part:
            return part
        params = {key: value for key, value in part.items() if key != "_target_"}
        return {"cls": part["_target_"], "params": params}

    return {name: old(part) for name, part in cfg.items()}


def saved(weights: Any, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(weights, stream, **how)
    return stream.getvalue()


def pack(
    path: Path,
    cfg: Any,
    weights: Any,
    mode: str = "w",
    prefix: str = "./",
    more: list[tarfile.TarInfo] | None = None,
) -> Path:
    """An archive of a config (a dict, or text) and weights (a state dict, or bytes)."""
    text = cfg if isinstance(cfg, str) else yaml.safe_dump(cfg, sort_keys=False)
    data = weights if isinstance(weights, bytes) else saved(weights)
    with tarfile.open(path, mode) as tar:
        if prefix:
            folder = tarfile.TarInfo(prefix)
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
        for member in more or []:
            tar.addfile(member)
        for name, content in (("model_config.yaml", text.encode()), ("model_weights.ckpt", data)):
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture(scope="session")
def nemo() -> Any:
    """The functions of this file."""
    import sys

    return sys.modules[__name__]
