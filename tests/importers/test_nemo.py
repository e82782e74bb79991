"""Archives in each dialect against NeMo's golden values, and evil ones refused."""

import io
import math
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

import speechkit as sk
from speechkit.errors import CheckpointError, StreamError
from speechkit.frontend.mel import slaney_bank
from speechkit.frontend.nemo1 import CropOrPad
from speechkit.importers import read_model
from speechkit.models import Model
from speechkit.nn import Chunk
from speechkit.scoring import ModelScorer

COMMANDS = [str(n) for n in range(35)]
VAD = ["background", "speech"]
# net, features, T, lengths, encoder mean, sum, first 4 and last 3 scores: networks.md A.4.5
NETS: dict[str, tuple[Any, ...]] = {
    "quartznet": (
        lambda n: n.quartznet(1), 64, 80, [80, 50], 0.212152830, -8915.131979504,
        [-4.129900330, -2.428781136, -4.751909585, -4.909052921],
        [-4.814091530, -3.252079791, -2.916249728],
    ),
    "matchboxnet": (
        lambda n: n.classifier(1, COMMANDS), 64, 128, [128, 128], 0.118147935, 0.157377457,
        [-0.189653931, -0.004217893, -0.046532154, -0.238807845],
        [0.373431213, -0.384879869, 0.386327579],
    ),
    "marblenet": (
        lambda n: n.classifier(2, VAD), 64, 64, [64, 40], 0.149692950, 0.178106962,
        [0.173524441, -0.086932885, 0.086575852, 0.004939555],
        [-0.086932885, 0.086575852, 0.004939555],
    ),
    "marblenet frames": (
        lambda n: n.classifier(2, ["0", "1"], mels=True), 80, 64, [64, 41], 0.166161881,
        5.671166200, [0.123796118, -0.033384511, 0.118274084, -0.028015066],
        [0.099883176, -0.003772579, 0.099883176],
    ),
}  # fmt: skip
# probes [0,0] [0,1] [10,5] [31,50] [63,50] [20,99] of the chirp: networks.md A.4.4
PROBES = [(0, 0), (0, 1), (10, 5), (31, 50), (63, 50), (20, 99)]
FEATURES = {
    ("quartznet", "1.23.0"): (
        (64, 112), 101, [5.890422, 2.418530, -0.098450, 2.780846, -0.138382, -0.577492]
    ),
    ("quartznet", "2.5.0"): (
        (64, 100), 100, [7.555214, 3.524631, -0.106088, 2.823333, -0.100009, -0.566938]
    ),
    ("marblenet frames", None): (
        (80, 102), 101, [-5.994338, -11.417782, -2.877120, -15.632723, -16.635342, -9.670070]
    ),
    ("marblenet frames", "2.6.0rc1"): (
        (80, 100), 100, [-7.095775, -12.016330, -2.877120, -15.632723, -16.635342, -10.382641]
    ),
    ("matchboxnet", "1.8.0rc0"): (
        (64, 101), 100, [-10.237128, -42.196690, 1.746744, -1.331127, 0.357245, 2.754061]
    ),
}  # fmt: skip


def chirp(samples: int = 16000) -> Tensor:
    t = torch.arange(samples, dtype=torch.float64) / 16000
    rising = 0.3 * torch.sin(2 * math.pi * (200 * t + 1500 * t**2))
    return (rising + 0.1 * torch.sin(2 * math.pi * 440 * t) * torch.cos(6 * math.pi * t)).float()


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.detach() - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("variant", ["hydra 1", "hydra 0", "weights only"])
def test_golden_nets_give_nemos_scores(nemo: Any, tmp_path: Path, name: str, variant: str) -> None:
    make, features, frames, lengths, mean, total, first, last = NETS[name]
    cfg = make(nemo)
    weights = nemo.golden_weights(cfg)
    if variant == "hydra 0":
        path = nemo.pack(tmp_path / "m.nemo", nemo.hydra0(cfg), weights, "w:gz", prefix="")
    elif variant == "weights only":
        kept = {k: v for k, v in weights.items() if not k.endswith("tracked")}
        old = nemo.saved(kept, _use_new_zipfile_serialization=False)
        path = nemo.pack(tmp_path / "m.nemo", {"model": cfg}, old)
    else:
        path = nemo.pack(tmp_path / "m.nemo", cfg, weights)
    model = read_model(path)
    sk.save(model, tmp_path / "model")
    model = sk.load(tmp_path / "model").double()
    assert model.config.size in ("5x5", "3x1x64", "3x2x64")
    b = torch.arange(2, dtype=torch.float64)[:, None, None]
    t = torch.arange(frames, dtype=torch.float64)[None, :, None]
    x = torch.sin(0.11 * t + 0.7 * torch.arange(features) + 0.5 * b).transpose(1, 2)
    with torch.no_grad():
        encoded = model.encoder(model.stem(Chunk.of(x, torch.tensor(lengths))))
        scores = model.head(encoded).x.transpose(1, 2)
    assert encoded.x.mean().item() == pytest.approx(mean, rel=1e-5)
    assert scores.sum().item() == pytest.approx(total, rel=1e-4)
    assert scores.flatten()[:4].tolist() == pytest.approx(first, rel=1e-4, abs=1e-6)
    assert scores.flatten()[-3:].tolist() == pytest.approx(last, rel=1e-4, abs=1e-6)


def test_the_frames_that_pad_the_end_give_no_text(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.tiny()
    cfg["preprocessor"]["pad_to"] = 64
    model = read_model(nemo.pack(tmp_path / "m.nemo", cfg, nemo.golden_weights(cfg)))
    output = model.eval()(chirp(4000)[None])
    assert output.lengths[0] < output.scores.shape[1]
    (scores,) = ModelScorer(model).parts([chirp(4000).numpy()])
    assert len(scores) == output.lengths[0]
    found = sk.transcribe(model, chirp(4000), 16000, vad=None)
    assert found.words[-1].end_s <= found.duration_s


@pytest.mark.parametrize(("name", "version"), FEATURES)
def test_the_frame_rule_follows_the_version(
    nemo: Any, tmp_path: Path, name: str, version: str | None
) -> None:
    shape, frames, probes = FEATURES[name, version]
    cfg = {**NETS[name][0](nemo), "nemo_version": version}
    model = read_model(nemo.pack(tmp_path / "m.nemo", cfg, nemo.golden_weights(cfg)))
    y = model.features(chirp()[None])
    assert tuple(y.x.shape[1:]) == shape
    assert y.lengths.tolist() == [frames]
    assert [y.x[0, f, t].item() for f, t in PROBES] == pytest.approx(probes, abs=2e-4)


def test_the_frame_rule_can_be_given(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.tiny()
    path = nemo.pack(tmp_path / "m.nemo", cfg, nemo.golden_weights(cfg))
    assert read_model(path, "invariant").features(chirp()[None]).lengths.tolist() == [100]
    assert read_model(path, "nemo1").features(chirp()[None]).lengths.tolist() == [101]


def test_without_conv_mask_padding_is_read(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.tiny()
    cfg["encoder"]["conv_mask"] = False
    weights = nemo.golden_weights(cfg)
    assert "encoder.encoder.0.mconv.0.weight" in weights
    audio = chirp(16100)
    model = read_model(nemo.pack(tmp_path / "m.nemo", cfg, weights))
    output = model(audio[None])
    assert output.lengths.tolist() == [56]
    assert error(output.scores[0], reference(cfg, weights, audio)[1]) < 1e-4


@pytest.mark.parametrize("version", ["2.4.0", "2.5.0"])
@pytest.mark.parametrize("samples", [16000, 25601])
def test_clip_classifiers_keep_nemos_frames(
    nemo: Any, tmp_path: Path, version: str, samples: int
) -> None:
    cfg = nemo.tiny(nemo_version=version, labels=VAD)
    cfg["preprocessor"].update(normalize="None", pad_to=16)
    cfg["decoder"] = {"cls": "x.ConvASRDecoderClassification", "params": {"num_classes": 2}}
    flat = {**cfg, "decoder": {"_target_": "x.ConvASRDecoderClassification", "num_classes": 2}}
    weights = nemo.golden_weights(flat)
    model = read_model(nemo.pack(tmp_path / "m.nemo", cfg, weights))
    features, logits = reference(flat, weights, chirp(samples))
    assert error(model.features(chirp(samples)[None]).x[0], features) < 1e-4
    assert error(model(chirp(samples)[None]).scores[0], logits) < 1e-4


def test_crop_or_pad_gives_nemos_frames_and_the_middle_of_more(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.classifier(1, COMMANDS)
    crop = {"_target_": "x.CropOrPadSpectrogramAugmentation", "audio_length": 128}
    cfg["crop_or_pad_augment"] = crop
    weights = nemo.golden_weights(cfg)
    model = read_model(nemo.pack(tmp_path / "m.nemo", nemo.hydra0(cfg), weights))
    plain = read_model(
        nemo.pack(tmp_path / "p.nemo", {**cfg, "crop_or_pad_augment": None}, weights)
    )
    c = model.features(chirp()[None])
    assert c.lengths.tolist() == [128]
    assert torch.equal(c.x[:, :, 13:114], plain.features(chirp()[None]).x)
    assert not c.x[:, :, :13].any()
    assert not c.x[:, :, 114:].any()
    middle = CropOrPad(3)(Chunk.of(torch.arange(8.0)[None, None]))
    assert middle.x.tolist() == [[[2, 3, 4]]]
    with pytest.raises(StreamError, match="clip_frames=0"):
        CropOrPad(3).step(middle, ())


def test_a_stored_window_is_used_and_kept(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.tiny()
    cfg["preprocessor"].update(window="hamming", lowfreq=50)
    weights = nemo.golden_weights(cfg)
    with pytest.raises(CheckpointError, match='preprocessor: window="hamming"; speechkit has'):
        read_model(nemo.pack(tmp_path / "none.nemo", cfg, weights))
    weights["preprocessor.featurizer.window"] = torch.hamming_window(320, periodic=False)
    weights["preprocessor.featurizer.fb"] = 1.1 * slaney_bank(16000, 512, 64).float()[None]
    sk.save(read_model(nemo.pack(tmp_path / "m.nemo", cfg, weights)), tmp_path / "model")
    model = sk.load(tmp_path / "model")
    assert "frontend.1.window.value" in model.state_dict()
    theirs = reference(cfg, weights, chirp())[0]
    assert error(model.features(chirp()[None]).x[0], theirs) < 1e-4
    assert error(model.double().features(chirp()[None].double()).x[0], theirs.double()) < 1e-4


def test_stored_tables_that_are_the_computed_ones_are_left_out(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.tiny()
    weights = nemo.golden_weights(cfg)
    weights["preprocessor.featurizer.window"] = torch.hann_window(320, periodic=False)
    weights["preprocessor.featurizer.fb"] = slaney_bank(16000, 512, 64).float()[None]
    weights["loss.weight"] = torch.ones(2)
    model = read_model(nemo.pack(tmp_path / "m.nemo", cfg, weights))
    assert not [name for name in model.state_dict() if name.startswith("frontend.")]


def test_links_within_the_config_are_followed(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.tiny(width=8, names=nemo.LETTERS)
    weights = nemo.golden_weights(cfg)
    cfg["encoder"]["jasper"][0]["filters"] = "${model.width}"
    cfg["encoder"]["jasper"][1]["filters"] = "${....width}"
    cfg["encoder"]["feat_in"] = "${..preprocessor.features}"
    cfg["decoder"]["vocabulary"] = "${names}"
    assert read_model(nemo.pack(tmp_path / "m.nemo", cfg, weights)).labels == tuple(nemo.LETTERS)


def test_future_context_is_lookahead(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.tiny()
    cfg["encoder"]["jasper"][1]["future_context"] = 1
    model = read_model(nemo.pack(tmp_path / "m.nemo", cfg, nemo.golden_weights(cfg)))
    assert model.config.lookahead == ("same", 1, "same", "same")
    cfg["encoder"]["jasper"][2]["future_context"] = 0
    with pytest.raises(CheckpointError, match=r"jasper\.2: future_context=0; NeMo's own output"):
        read_model(nemo.pack(tmp_path / "m.nemo", cfg, nemo.golden_weights(cfg)))


def test_another_alphabet_is_left_as_it_is(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.tiny()
    cfg["decoder"].update(vocabulary=[" ", "ä", "ö"], num_classes=3)
    model = read_model(nemo.pack(tmp_path / "m.nemo", cfg, nemo.golden_weights(cfg)))
    assert model.config.normalization == "none"
    assert model.labels == (" ", "ä", "ö")


@pytest.mark.parametrize("seconds", [0.63, 3.0])
def test_a_real_archive_gives_nemos_numbers(seconds: float) -> None:
    folder = os.environ.get("SPEECHKIT_DATA")
    path = Path(folder or "/", "nemo", "vad_multilingual_marblenet.nemo")
    if not folder or not path.exists():
        pytest.skip("SPEECHKIT_DATA names no folder with nemo/vad_multilingual_marblenet.nemo")
    with tarfile.open(path) as tar:
        cfg = yaml.safe_load(tar.extractfile("./model_config.yaml"))
        data = tar.extractfile("./model_weights.ckpt").read()
    weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    model = read_model(path)
    audio = chirp(int(16000 * seconds))
    features, logits = reference(cfg, weights, audio)
    assert error(model.features(audio[None]).x[0], features) < 1e-4
    assert error(model(audio[None]).scores[0], logits) < 1e-4
    assert model.labels == ("background", "speech")


def reference(cfg: Any, weights: dict[str, Tensor], audio: Tensor) -> tuple[Tensor, Tensor]:
    """Features `[F, T]` and scores of one utterance, straight from an archive's tensors."""
    front, version = cfg["preprocessor"], str(cfg["nemo_version"])
    w = {name: x.double() for name, x in weights.items()}
    x = audio.double()
    window = w.get("preprocessor.featurizer.window")
    size = int(front.get("window_size", 0.02) * 16000)
    window = torch.hann_window(size, periodic=False).double() if window is None else window
    bank = w.get("preprocessor.featurizer.fb")
    bank = slaney_bank(16000, 512, front["features"]) if bank is None else bank[0]
    x = torch.cat([x[:1], x[1:] - 0.97 * x[:-1]])
    edge = "constant" if version >= "2.5" else "reflect"
    x = F.pad(x[None, None], (256, 256), mode=edge)[0, 0]
    before = (512 - size) // 2
    power = torch.fft.rfft(x.unfold(0, 512, 160) * F.pad(window, (before, 512 - size - before)))
    y = torch.log(bank @ power.abs().square().T + 2**-24)
    frames = len(audio) // 160 + (version < "2.5")
    real = y[:, :frames]
    if front.get("normalize", "per_feature") == "per_feature":
        real = (real - real.mean(1, keepdim=True)) / (real.std(1, keepdim=True) + 1e-5)
    pad_to = front.get("pad_to", 16)
    y = F.pad(real, (0, -(-y.shape[1] // pad_to) * pad_to - frames))
    return y.float(), encode(cfg, w, y, frames).float()


def encode(cfg: Any, w: dict[str, Tensor], y: Tensor, frames: int) -> Tensor:
    masked = cfg["encoder"]["conv_mask"]
    infix = ".conv" if masked else ""

    def conv(x: Tensor, name: str, length: int, stride: int = 1, dilation: int = 1) -> Tensor:
        weight = w[f"{name}{infix}.weight"]
        if masked:
            x = torch.where(torch.arange(x.shape[1]) < length, x, 0)
        groups = x.shape[0] if weight.shape[1] == 1 else 1
        pad = dilation * (weight.shape[2] - 1) // 2
        return F.conv1d(x[None], weight, None, stride, pad, dilation, groups)[0]

    def norm(x: Tensor, name: str) -> Tensor:
        parts = [w[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x[None], *parts, eps=1e-3)[0]

    for b, row in enumerate(cfg["encoder"]["jasper"]):
        name, z, length = f"encoder.encoder.{b}", y, frames
        stride, dilation = row["stride"][0], row["dilation"][0]
        for r in range(row["repeat"]):
            slot = 5 * r if row.get("separable") else 4 * r
            z = conv(z, f"{name}.mconv.{slot}", length, stride, dilation)
            length = (length - 1) // stride + 1
            if row.get("separable"):
                slot += 1
                z = conv(z, f"{name}.mconv.{slot}", length)
            z = norm(z, f"{name}.mconv.{slot + 1}")
            z = z.relu() if r < row["repeat"] - 1 else z
        if row["residual"]:
            z = z + norm(conv(y, f"{name}.res.0.0", frames), f"{name}.res.0.1")
        y, frames = z.relu(), length
    weight, bias = w["decoder.decoder_layers.0.weight"], w["decoder.decoder_layers.0.bias"]
    if weight.ndim == 3:
        return F.linear(y.T, weight[:, :, 0], bias).log_softmax(1)
    return F.linear(y.mean(1), weight, bias)


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        (("encoder", "jasper", 1), {"se": True}, "encoder.jasper.1: se=true; speechkit has"),
        (("encoder", "jasper", 1), {"residual_dense": True}, "jasper.1: residual_dense=true"),
        (("encoder", "jasper", 1), {"residual_mode": "max"}, 'jasper.1: residual_mode="max"'),
        (("encoder", "jasper", 1), {"groups": 4}, "jasper.1: groups=4"),
        (("encoder", "jasper", 1), {"heads": 4}, "jasper.1: heads=4"),
        (("encoder", "jasper", 1), {"tied": True}, "jasper.1: tied=true; speechkit does not know"),
        (("encoder", "jasper", 1), {"stride": [2]}, "jasper.1: block with stride 2"),
        (("encoder", "jasper", 1), {"kernel_size_factor": 2.0}, "'encoder.encoder.1.mconv.0.conv"),
        (("encoder", "jasper", 1), {"repeat": 10**9}, "jasper.1: repeat=1000000000; give"),
        (("encoder", "jasper", 1), {"filters": 60000}, "asks for floating point [60000, 8, 1]"),
        (("encoder",), {"activation": "selu"}, 'encoder: activation="selu"; speechkit has relu'),
        (("encoder",), {"normalization_mode": "group"}, 'normalization_mode="group"'),
        (("encoder",), {"_target_": "a.ConformerEncoder"}, '_target_="ConformerEncoder"'),
        (("encoder",), {"jasper": []}, "encoder: jasper=a list; give a list of blocks"),
        (("preprocessor",), {"frame_splicing": 2}, "preprocessor: frame_splicing=2"),
        (("preprocessor",), {"mag_power": 1.0}, "preprocessor: mag_power=1.0"),
        (("preprocessor",), {"stft_conv": True}, "preprocessor: stft_conv=true"),
        (("preprocessor",), {"normalize": "all_features"}, 'normalize="all_features"'),
        (("preprocessor",), {"n_fft": 10**6}, "preprocessor: n_fft=1000000; give"),
        (("preprocessor",), {"features": 80}, "gives 80 features, encoder.feat_in is 64"),
        (("preprocessor",), {"window_size": 0.05}, "preprocessor: window of 800 samples"),
        (("decoder",), {"_target_": "a.RNNTDecoder"}, 'decoder: _target_="RNNTDecoder"'),
        (("decoder",), {"vocabulary": ["a", True]}, "quote words such as 'yes' and 'on'"),
        (("decoder",), {"num_classes": 5}, "num_classes=5; the config has 28 labels"),
        ((), {"target": "a.EncDecCTCModelBPE"}, "is a EncDecCTCModelBPE; speechkit reads"),
        ((), {"encoder": None}, "has no part 'encoder'"),
    ],
)
def test_what_speechkit_cannot_express_is_refused_by_name(
    nemo: Any, tmp_path: Path, part: tuple[Any, ...], change: dict[str, Any], says: str
) -> None:
    cfg = nemo.tiny()
    weights = nemo.golden_weights(cfg)
    place = cfg
    for key in part:
        place = place[key]
    place.update(change)
    assert says in refusal(nemo.pack(tmp_path / "m.nemo", cfg, weights))


def refusal(path: Path) -> str:
    """The one line that an archive is refused with; nothing is written beside it."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(CheckpointError) as caught:
        read_model(path)
    assert sorted(path.parent.rglob("*")) == before
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    ("evil", "says"),
    [
        (member("../evil"), "holds '../evil', outside its own folder"),
        (member("./a/../../evil"), "outside its own folder"),
        (member("/tmp/evil"), "holds '/tmp/evil', outside its own folder"),
        (member("model_config.yaml", tarfile.SYMTYPE, "/etc/passwd"), "is a link or a device"),
        (member("hard", tarfile.LNKTYPE, "../evil"), "is a link or a device"),
        (member("pipe", tarfile.FIFOTYPE), "is a link or a device"),
        (member("model_config.yaml"), "holds 'model_config.yaml' twice"),
    ],
)
def test_evil_members_are_refused(nemo: Any, tmp_path: Path, evil: Any, says: str) -> None:
    cfg = nemo.tiny()
    path = nemo.pack(tmp_path / "m.nemo", cfg, nemo.golden_weights(cfg), more=[evil])
    assert says in refusal(path)


@pytest.mark.parametrize("name", ["model_weights.ckpt", "model_config.yaml", "other"])
def test_a_member_that_declares_20_gigabytes_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.nemo"
    path.write_bytes(member(name, size=20 * 10**9).tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert f"{name!r} declares 20,000,000,000 bytes" in refusal(path)


def test_a_header_that_declares_20_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.nemo"
    header = member("x", tarfile.XHDTYPE, size=20 * 10**9)
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "a header of 20,000,000,000 bytes" in refusal(path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.7])
def test_a_truncated_archive_is_refused(nemo: Any, tmp_path: Path, mode: str, part: float) -> None:
    cfg = nemo.tiny()
    path = nemo.pack(tmp_path / "m.nemo", cfg, nemo.golden_weights(cfg), mode)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refusal(path)


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_with_code_is_refused(nemo: Any, tmp_path: Path, legacy: bool) -> None:
    held = {"a": Code(tmp_path / "ran")}
    data = nemo.saved(held, _use_new_zipfile_serialization=not legacy)
    path = nemo.pack(tmp_path / "m.nemo", nemo.tiny(), data)
    assert "asks for posix.system; weights ask for tensors only" in refusal(path)
    path = nemo.pack(tmp_path / "m.nemo", nemo.tiny(), pickle.dumps(held))
    assert "asks for" in refusal(path)


def declare(data: bytes, items: int) -> bytes:
    """A saved tensor of 200 numbers that says it has more."""
    many = b"\x8a\x05" + items.to_bytes(5, "little")
    assert data.count(b"K\xc8") >= 2
    return data.replace(b"K\xc8", many)


def rezip(data: bytes, change: Callable[[str, bytes], bytes], kind: int = 0) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", kind) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return stream.getvalue()


def huge_storage(nemo: Any) -> bytes:
    data = nemo.saved({"a": torch.zeros(200)})
    return rezip(data, lambda n, x: declare(x, 5 * 10**9) if n.endswith(".pkl") else x)


def huge_old_storage(nemo: Any) -> bytes:
    data = nemo.saved({"a": torch.zeros(200)}, _use_new_zipfile_serialization=False)
    return declare(data, 5 * 10**9)


def huge_old_tensor(nemo: Any) -> bytes:
    data = nemo.saved({"a": torch.zeros(200)}, _use_new_zipfile_serialization=False)
    # only the tensor's own size, after that of its storage
    first = data.index(b"K\xc8") + 2
    return data[:first] + declare(b"K\xc8" + data[first:], 10**9)[7:]


def repeated_number(nemo: Any) -> bytes:
    return nemo.saved({"a": torch.zeros(1).expand(5 * 10**9)})


def zip_bomb(nemo: Any) -> bytes:
    data = nemo.saved({"a": torch.zeros(1 << 20)})
    return rezip(data, lambda _, x: x, zipfile.ZIP_DEFLATED)


def pickle_and_zip(nemo: Any) -> bytes:
    return huge_old_storage(nemo) + nemo.saved({"a": torch.zeros(1)})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (huge_storage, "storage '0' declares 20,000,000,000 bytes and has 800"),
        (huge_old_storage, "declares 20,000,000,000 bytes and has"),
        (huge_old_tensor, "is not a state dict that torch saved"),
        (repeated_number, "declares tensors of more than its"),
        (zip_bomb, "declares more than its"),
        (pickle_and_zip, "declares 20,000,000,000 bytes"),
        (lambda n: n.saved([torch.zeros(2)]), "is not a table of tensors by name"),
        (lambda n: n.saved({"a": 1}), "is not a table of tensors by name"),
        (lambda n: n.saved({"a": torch.zeros(9)})[:-90], "is not a state dict that torch saved"),
        (lambda n: b"PK\x03\x04", "is not a state dict that torch saved"),
        (lambda n: b"\x80\x02" + b"N0" * 5_000_000 + b"}.", "beside its tensors"),
        (lambda n: b"", "is not a state dict that torch saved"),
    ],
)
def test_weights_that_declare_more_than_they_bring_are_refused(
    nemo: Any, tmp_path: Path, make: Callable[[Any], bytes], says: str
) -> None:
    assert says in refusal(nemo.pack(tmp_path / "m.nemo", nemo.tiny(), make(nemo)))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{name}'] * 9)}]\n"
    for name, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: &a\n  b: *a",
        "a: !!python/object/apply:os.system ['touch ran']",
        "- 1",
        "",
        "a: [",
        "[" * 20000,
        f"a: {'9' * 10000}",
        "a: !!timestamp x",
        "#" * 2_000_000,
        "a: 1" + ":1" * 500_000,
    ],
    ids=["bomb", "cycle", "code", "list", "empty", "cut", "deep", "long", "tag", "large", "base60"],
)
def test_an_evil_config_is_refused(nemo: Any, tmp_path: Path, text: str) -> None:
    weights = nemo.golden_weights(nemo.tiny())
    assert "model_config.yaml" in refusal(nemo.pack(tmp_path / "m.nemo", text, weights))


def test_a_config_may_repeat_itself_by_alias(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.tiny(labels=nemo.LETTERS)
    text = yaml.safe_dump({**cfg, "train_ds": {"labels": cfg["decoder"]["vocabulary"]}})
    assert "*id" in text
    read_model(nemo.pack(tmp_path / "m.nemo", text, nemo.golden_weights(cfg)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("decoder.decoder_layers.0.bias"), "lack 'decoder.decoder_layers.0.bias'"),
        (lambda w: w.update(extra=torch.ones(1)), "hold 'extra', unknown to their config"),
        (
            lambda w: w.update({"decoder.decoder_layers.0.bias": torch.ones(7)}),
            "is torch.float32 [7], the config asks for floating point [29]",
        ),
        (lambda w: w.update({"decoder.decoder_layers.0.bias": torch.ones(29).int()}), "int32"),
        (
            lambda w: w.update({"preprocessor.featurizer.window": torch.ones(400)}),
            "'preprocessor.featurizer.window' is torch.float32 [400]",
        ),
    ],
)
def test_weights_of_another_net_are_refused(
    nemo: Any, tmp_path: Path, change: Callable[[Any], None], says: str
) -> None:
    cfg = nemo.tiny()
    weights = nemo.golden_weights(cfg)
    change(weights)
    assert says in refusal(nemo.pack(tmp_path / "m.nemo", cfg, weights))


def test_half_precision_weights_become_float32(nemo: Any, tmp_path: Path) -> None:
    cfg = nemo.tiny()
    weights = {k: x.half() if x.ndim else x for k, x in nemo.golden_weights(cfg).items()}
    model: Model = read_model(nemo.pack(tmp_path / "m.nemo", cfg, weights))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
