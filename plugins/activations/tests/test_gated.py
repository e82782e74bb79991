import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from speechkit_activations.gated import GATES, GLU, glu_ffn
from torch import Tensor

import speechkit as sk
from speechkit.errors import CheckpointError
from speechkit.infer import stream_scores
from speechkit.nn import Chunk
from speechkit.testing import assert_close


def halves(seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(2, 2, 6, 9, generator=torch.Generator().manual_seed(seed))
    return x[0], x[1]


def glu(kind: str, a: Tensor, b: Tensor) -> Tensor:
    y: Tensor = GLU(a.shape[1], kind)(torch.cat([a, b], dim=1))
    return y


def test_paper_022_the_first_half_is_the_gate() -> None:
    a, b = halves()
    assert torch.equal(glu("glu", a, b), F.glu(torch.cat([b, a], dim=1), dim=1))
    assert torch.equal(glu("reglu", a, b), torch.relu(a) * b)
    # vectors and their rests are rounded differently
    assert_close("geglu", F.gelu(a) * b, glu("geglu", a, b), 1e-6)
    assert_close("swiglu", F.silu(a) * b, glu("swiglu", a, b), 1e-6)


def test_paper_022_bilinear_is_linear_in_each_half() -> None:
    a, b = halves()
    y = glu("bilinear", a, b)
    assert torch.equal(glu("bilinear", 2 * a, b), 2 * y)
    assert torch.equal(glu("bilinear", a, 4 * b), 4 * y)


@pytest.mark.parametrize("kind", GATES)
def test_paper_022_gradients(kind: str) -> None:
    x = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(GLU(3, kind), (x,))


@pytest.mark.parametrize("channels", [64, 128, 256, 512])
def test_paper_022_two_thirds_of_the_width_match_the_parameters(channels: int) -> None:
    gated = sum(p.numel() for p in glu_ffn(channels, channels).parameters())
    # the hidden width is a whole number: that is 0.4 % of 170
    allowed = 0.002 if channels >= 256 else 0.004
    assert abs(gated - 2 * channels * 4 * channels) <= allowed * gated
    if channels == 256:
        assert gated == 523_776
    assert glu_ffn(256, 256, multiple_of=8).narrow.weight.shape == (256, 688)  # type: ignore[union-attr]


@torch.no_grad()
def test_paper_022_an_older_model_keeps_its_width(tmp_path: Path) -> None:
    """The hidden width was a multiple of 8 where the config did not say otherwise."""
    config = sk.MatchboxNet(labels=("a", "b"), size="3x1x64", channel="glu_ffn:multiple_of=8")
    model = sk.build(config).eval()
    sk.save(model, tmp_path / "model")
    stored = tmp_path / "model" / "config.json"
    content = json.loads(stored.read_text())
    content["config"]["channel"]["params"] = {}
    stored.write_text(json.dumps(content))
    older = sk.load(tmp_path / "model")
    assert str(older.config.channel) == "glu_ffn"
    audio = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(older(audio).scores, model(audio).scores)
    streamed = torch.cat(list(stream_scores(older, audio[0], chunk_s=0.05)))
    torch.testing.assert_close(streamed[-1], model(audio[:1]).scores[0], rtol=1e-3, atol=1e-4)
    # a width that was asked for is one that must fit
    content["config"]["channel"]["params"] = {"multiple_of": 16}
    stored.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="the config asks for"):
        sk.load(tmp_path / "model")


def test_paper_022_the_layer_is_its_formula() -> None:
    layer = glu_ffn(6, 5, kind="reglu", multiple_of=4)
    x = halves()[0]
    both = layer.wide.weight @ x  # type: ignore[union-attr,operator]
    a, b = both.chunk(2, dim=1)
    expected = layer.narrow.weight @ (torch.relu(a) * b)  # type: ignore[union-attr,operator]
    assert_close("y", expected, layer(Chunk.of(x)).x, 1e-5)
    assert layer.channels_out(6) == 5


def test_an_unknown_gate_is_named() -> None:
    with pytest.raises(ValueError, match="give one of glu, bilinear, reglu, geglu, swiglu"):
        GLU(4, "geluglu")
