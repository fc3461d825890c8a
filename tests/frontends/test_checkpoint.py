"""Every checkpoint form loads to the same network; everything else is refused by name and runs nothing."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import qexport as qx
from qexport.core.capture import LayerCapture
from qexport.core.golden import Golden
from qexport.core.network_run import Engine
from qexport.errors import QexportError
from qexport.frontends.vgg import checkpoint
from qexport.frontends.vgg.data import normalise
from qexport.frontends.vgg.model import ConvSpec, QuantVGG, specs_of
from qexport.frontends.vgg.network import integer_network
from qexport.frontends.vgg.quant import quantize_act
from tests.conftest import check_reference, cli, fails
from tests.frontends.networks import small_network

X = torch.linspace(-2, 2, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
State = dict[str, Tensor]


def saved(path: Path, state: object) -> Path:
    torch.save(state, path)
    return path


def with_prefix(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


def with_weight_q(state: State) -> State:
    model = small_network()
    model.load_state_dict(state)
    extra = {f"features.{i}.weight_q": conv.quantized_weight().detach() for i, conv in model.quantized().items()}
    return state | extra


FORMS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "module": with_prefix,
    "weight_q": with_weight_q,
    "dict": lambda state: {"state_dict": state, "epoch": 3, "best_prec": torch.tensor(90.0), "optimizer": {}},
    "module in dict with weight_q": lambda state: {"state_dict": with_prefix(with_weight_q(state)), "epoch": 1},
    "one-element alphas": lambda state: {k: t.reshape(1) if k.endswith("alpha") else t for k, t in state.items()},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_loads_to_the_same_network(form: str, tmp_path: Path) -> None:
    model = small_network()
    network = checkpoint.load(saved(tmp_path / "model_best.pth.tar", FORMS[form](model.state_dict())))
    assert network.model.specs == model.specs
    torch.testing.assert_close(network.model(X), model(X))


@pytest.mark.parametrize(
    "cfg",
    [
        "8 8 M 16 M 16 M",  # two convolutions before the first pool
        "8 16 8* 8* 16 M",  # no BatchNorm twice
        "8 M 8 M 8 M 8 M 8 M",
        "8 8 8",  # no pool at all
        "4* M 8",
    ],
)
def test_the_chain_is_inferred_from_names_and_shapes(cfg: str, tmp_path: Path) -> None:
    specs = specs_of(cfg)
    side = 32 // 2 ** sum(spec.pool for spec in specs)
    torch.manual_seed(0)
    model = QuantVGG(specs, in_features=specs[-1].out_channels * side**2).eval()
    network = checkpoint.load(saved(tmp_path / "m.pth", model.state_dict()))
    assert network.model.specs == specs
    torch.testing.assert_close(network.model(X), model(X))


def test_a_plain_first_convolution_stays_plain(tmp_path: Path) -> None:
    state = small_network().state_dict()
    for name in ("features.0.act_alpha", "features.0.weight_quant.wgt_alpha"):
        del state[name]
    network = checkpoint.load(saved(tmp_path / "m.pth", state))
    assert type(network.model.features[0]) is nn.Conv2d
    assert 0 not in network.model.quantized()
    packed = tmp_path / "m.safetensors"
    checkpoint.pack(network, packed)
    assert torch.equal(checkpoint.load(packed).model(X), network.model(X))


@pytest.mark.parametrize("bits", [(4, 4), (2, 8), (8, 2), (5, 3)])
def test_the_packed_form_computes_bit_for_bit_as_its_source(bits: tuple[int, int], tmp_path: Path) -> None:
    model = small_network(weight_bits=bits[0], act_bits=bits[1])
    source = checkpoint.load(saved(tmp_path / "m.pth", model.state_dict()), *bits)
    checkpoint.pack(source, tmp_path / "m.safetensors")
    packed = checkpoint.load(tmp_path / "m.safetensors")
    assert (packed.model.weight_bits, packed.model.act_bits) == bits
    for index, conv in source.model.quantized().items():
        assert torch.equal(packed.model.quantized()[index].weight_codes(), conv.weight_codes())
    assert torch.equal(packed.model(X), source.model(X))
    assert torch.equal(packed.model.double()(X.double()), source.model.double()(X.double()))
    with pytest.raises(QexportError, match=f"was trained with {bits[0]} weight bits; --weight-bits 6 contradicts"):
        checkpoint.load(tmp_path / "m.safetensors", 6)


def test_the_shipped_network_is_small_and_of_the_gradual_architecture() -> None:
    assert checkpoint.BUILTIN.stat().st_size < 7_000_000
    convs = checkpoint.load(checkpoint.BUILTIN).model.quantized()
    assert (convs[33].in_channels, convs[33].out_channels) == (8, 8)
    assert len(convs) == 17


def test_the_number_of_levels_in_weight_q_must_agree_with_the_bits(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", with_weight_q(small_network().state_dict()))
    with pytest.raises(QexportError, match=r"weight_q has \d+ levels, which is 4 bits; --weight-bits 3 contradicts"):
        checkpoint.load(path, 3)


class Hostile:
    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.pth", {"state_dict": {"features.0.weight": Hostile(tmp_path / "ran")}})
    fails(cli("layers", "--checkpoint", path), "m.pth cannot be loaded as weights: it holds a posix.mkdir", "--capture")
    (tmp_path / "n.pth").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    fails(cli("layers", "--checkpoint", tmp_path / "n.pth"), "n.pth cannot be loaded as weights")
    assert not (tmp_path / "ran").exists()


def broken(change: Callable[[State], None]) -> State:
    state = dict(small_network().state_dict())
    change(state)
    return state


def set_to(name: str, value: float) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name] = torch.full_like(state[name], value)

    return change


BROKEN: dict[str, tuple[Callable[[State], None], str]] = {
    "missing weight": (lambda s: void(s.pop("features.1.running_var")), "features.1.running_var is missing"),
    "missing alpha": (lambda s: void(s.pop("features.4.act_alpha")), "features.4.act_alpha is missing"),
    "missing classifier": (lambda s: void(s.pop("classifier.weight")), "classifier.weight is missing"),
    "NaN": (set_to("features.4.weight", float("nan")), "features.4.weight holds NaN"),
    "no alpha": (set_to("features.4.act_alpha", 0.0), "features.4.act_alpha is 0"),
    "zero alpha": (set_to("features.4.weight_quant.wgt_alpha", 0.0), "features.4.weight_quant.wgt_alpha is 0"),
    "foreign entry": (lambda s: s.update({"layer1.0.weight": torch.zeros(3)}), "layer1.0.weight has no place in it"),
    "even kernel": (lambda s: s.update({"features.4.weight": torch.zeros(16, 8, 4, 4)}), "16 x 8 x 4 x 4"),
    "weights all alike": (set_to("features.4.weight", 0.25), "features.4.weight holds one number alone"),
    "misshapen": (lambda s: s.update({"features.1.bias": torch.zeros(9)}), "features.1.bias has shape 9; needs 8"),
}


def void(_: object) -> None: ...


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_network_is_refused_by_name(case: str, tmp_path: Path) -> None:
    change, message = BROKEN[case]
    path = saved(tmp_path / "m.pth", broken(change))
    fails(cli("layers", "--checkpoint", path), "m.pth", message)


def test_a_negative_clipping_value_blocks_its_own_layer_alone(tmp_path: Path) -> None:
    def change(state: State) -> None:
        set_to("features.4.act_alpha", -1.25)(state)
        set_to("features.8.weight_quant.wgt_alpha", -2.0)(state)

    path = saved(tmp_path / "m.pth", broken(change))
    listed = cli("layers", "--checkpoint", path, "--json")
    why = "layer features.4: act_alpha is -1.25; a clipping value must be above 0"
    assert f"qexport: left out: {why}" in listed.stderr
    document = json.loads(listed.stdout)
    indices = [row["index"] for row in document["layers"]]
    assert document["refused"] == [{"name": "features.4", "index": 4, "why": why}]
    assert 4 not in indices
    fails(cli("dump", "--checkpoint", path, "--layer", "4", "--out", tmp_path), why)
    fails(cli("import", path, "--out", tmp_path / "m.network.safetensors"), why)
    done = cli("dump", "--checkpoint", path, "--layer", "8", "--images", "1", "--out", tmp_path)
    assert done.exit_code == 0, done.output  # verified, and checked against PyTorch's own forward pass
    conv = checkpoint.load(path).model.quantized()[4]
    seen = torch.linspace(0, 5, 99)
    unclipped = torch.round(seen / 1.25 * 15) / 15 * 1.25  # what it computes: the sign goes, the clip is never met
    torch.testing.assert_close(quantize_act(seen, conv.act_alpha, 4), unclipped)


def test_a_relative_with_two_narrow_layers_first_a_plain_one_and_2_bits(tmp_path: Path) -> None:
    state = small_network("8 8 M 16 M 16 M 8 8* M 16 M", act_bits=2).state_dict()
    for name in ("features.0.act_alpha", "features.0.weight_quant.wgt_alpha"):
        del state[name]
    path = saved(tmp_path / "m.pth", state)
    done = cli("dump", "--checkpoint", path, "--act-bits", "2", "--layer", "3", "--images", "1", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert LayerCapture.load(tmp_path / "features_3/capture.safetensors").formats.input.bits == 2


def test_relatives_with_other_kernels_pictures_and_classes_load_by_shape(tmp_path: Path) -> None:
    """What no shape shows, the side of the pictures, is asked for."""
    specs = tuple(
        ConvSpec(*channels, kernel=kernel, pool=pool)
        for channels, kernel, pool in (((3, 4), (5, 5), True), ((4, 6), (1, 1), False), ((6, 4), (1, 7), True))
    )
    torch.manual_seed(0)
    model = QuantVGG(specs, in_features=4 * 5 * 5, classes=7, side=20)
    for conv in model.quantized().values():
        conv.act_alpha.data.fill_(2.5)
    for module in model.features:
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    pictures = torch.randint(0, 256, (2, 3, 20, 20), dtype=torch.uint8)
    model.train()(normalise(pictures))
    path = saved(tmp_path / "m.pth", model.eval().state_dict())
    fails(
        cli("layers", "--checkpoint", path), "4 x 16 x 16 of pictures of 32x32", "--side 10 would do, or 20 with a pool"
    )
    network = checkpoint.load(path, side=20)
    assert (network.model.specs, network.model.classifier.out_features) == (specs, 7)
    checkpoint.pack(network, tmp_path / "m.safetensors")
    fails(cli("layers", "--checkpoint", tmp_path / "m.safetensors", "--side", 32), "takes pictures of 20x20")
    packed = qx.load(tmp_path / "m.safetensors")
    for layer, kernel, plane in (("0", (5, 5), 20), ("4", (1, 1), 10), ("7", (1, 7), 10)):
        captured = qx.capture(packed, layer, pictures.numpy())
        assert (captured.layer.kernel, captured.plane) == (kernel, (plane, plane))
        check_reference(Golden(captured))
    made = integer_network(network)
    assert made.ties == 0
    assert made.network.inputs[0].shape == (3, 20, 20)
    (image,), engine = made.network.inputs, Engine(made.network)
    ours = engine.run({image.name: image.codes(pictures.numpy())}, ["classifier"])["classifier"][:, :, 0, 0]
    with torch.no_grad():
        theirs = network.model.double()(normalise(pictures, torch.float64)).numpy()
    assert np.abs(ours * made.network.outputs[0].scale - theirs).max() < 0.05 * np.ptp(theirs)


def test_pictures_of_another_side_are_read_from_a_folder(tmp_path: Path) -> None:
    """Of as many classes as the network tells apart, of any names."""
    torch.manual_seed(0)
    model = QuantVGG(specs_of("4 M 8 M"), in_features=8 * 3 * 3, classes=2, side=12)
    for conv in model.quantized().values():
        conv.act_alpha.data.fill_(2.5)
    path, data, file = (
        saved(tmp_path / "m.pth", model.state_dict()),
        tmp_path / "data",
        tmp_path / "m.network.safetensors",
    )
    for name in ("left", "right"):
        folder = data / "test" / name
        folder.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 256, (12, 12, 3), np.uint8)).save(folder / "0.png")
    of = ("--checkpoint", path, "--side", 12)
    done = cli("dump", *of, "--data", data, "--images", 2, "--layer", "4", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert json.loads(cli("eval", *of, "--data", data, "--json").stdout)["total"] == 2
    assert cli("import", path, "--side", 12, "--out", file).exit_code == 0
    found = cli("eval", "--network", file, *of, "--data", data, "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["total"] == 2
    fails(cli("dump", *of, "--layer", "4", "--out", tmp_path), "is 32x32; needs 12x12: give --data of that size")
    shutil.rmtree(data / "test/left")
    fails(cli("eval", *of, "--data", data), "has 1 classes; the network tells 2 apart")


@pytest.mark.parametrize("name", ["m.pth", "m.safetensors"])
@pytest.mark.parametrize("content", [b"", b"junk" * 100, None])
def test_files_that_are_no_checkpoint_are_refused(name: str, content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is None:  # cut a good one in half
        if name == "m.pth":
            saved(path, small_network().state_dict())
        else:
            checkpoint.pack(checkpoint.load(saved(tmp_path / "s.pth", small_network().state_dict())), path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    fails(cli("layers", "--checkpoint", path), f"checkpoint: {path}")


def test_a_missing_checkpoint_and_another_architecture_are_refused(tmp_path: Path) -> None:
    fails(cli("layers", "--checkpoint", tmp_path / "none.pth"), "does not exist", "--checkpoint builtin")
    path = saved(tmp_path / "resnet.pth", {"conv1.weight": torch.zeros(8, 3, 3, 3)})
    fails(cli("layers", "--checkpoint", path), "another architecture", "no features.N.weight")
    path = saved(tmp_path / "list.pth", [1, 2, 3])
    fails(cli("layers", "--checkpoint", path), "holds no state_dict")


@pytest.mark.parametrize("bits", [None, "x", float("nan"), float("inf"), torch.tensor(4)])
def test_recipe_bits_that_are_no_whole_number_are_refused(bits: object, tmp_path: Path) -> None:
    state = {"state_dict": small_network().state_dict(), "recipe": {"weight_bits": bits, "act_bits": 4}}
    fails(cli("layers", "--checkpoint", saved(tmp_path / "m.pth", state)), "m.pth", "weight_bits of its recipe")


WEIGHT = "features.4.weight"
NOT_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": lambda t: t.to_sparse(),
    "meta": lambda t: t.to("meta"),
    "quantized": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    "stride 0": lambda t: torch.zeros(1).expand(t.shape),
    "complex": lambda t: t.to(torch.complex64),
    "bool": lambda t: t > 0,
}


@pytest.mark.filterwarnings("ignore")  # torch's own about quantized tensors
@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_a_tensor_that_is_not_plain_real_numbers_is_refused(kind: str, tmp_path: Path) -> None:
    state = small_network().state_dict()
    state[WEIGHT] = NOT_PLAIN[kind](state[WEIGHT])
    fails(cli("layers", "--checkpoint", saved(tmp_path / "m.pth", state)), "m.pth", f"{WEIGHT} is ")


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    state = small_network().state_dict()
    del state[WEIGHT]
    fails(cli("layers", "--checkpoint", saved(tmp_path / "m.pth", state)), f"{WEIGHT} is missing")


def test_bf16_parameters_load(tmp_path: Path) -> None:
    state: State = dict(small_network().state_dict())
    state[WEIGHT] = nn.Parameter(state[WEIGHT].bfloat16())
    assert checkpoint.load(saved(tmp_path / "m.pth", state)).model.quantized()


Facts = dict[str, Any]
PACKED: dict[str, tuple[Callable[[Facts], Any], str]] = {
    "negative channels": (lambda facts: facts["specs"][1].update(out_channels=-8), "specs[1].out_channels"),
    "huge channels": (lambda facts: facts["specs"][1].update(out_channels=10**9), "specs[1].out_channels"),
    "many channels": (lambda facts: widened(facts, 10**6), "weights, more than it holds"),
    "channels that are text": (lambda facts: facts["specs"][1].update(out_channels="8"), "specs[1].out_channels"),
    "channels that do not fit": (lambda facts: facts["specs"][1].update(in_channels=9), "convolution 2 takes 9"),
    "no specs": (lambda facts: facts.update(specs=[]), "$.specs"),
    "specs of numbers": (lambda facts: facts.update(specs=[1]), "specs[0]"),
    "specs within each other": (lambda facts: facts.update(specs=deep(100_000)), "is not a packed qexport network"),
    "negative in_features": (lambda facts: facts.update(in_features=-1), "in_features"),
    "huge in_features": (lambda facts: facts.update(in_features=10**12), "in_features"),
    "other in_features": (lambda facts: facts.update(in_features=63), "the classifier takes 63 values"),
    **{
        f"{what} bits": (lambda facts, bits=bits: facts.update(weight_bits=bits), "weight_bits")  # type: ignore[misc]
        for what, bits in (("no", None), ("x", "x"), ("NaN", float("nan")), ("infinite", float("inf")), ("99", 99))
    },
}


def widened(facts: Facts, channels: int) -> None:
    facts["specs"][0]["out_channels"] = facts["specs"][1]["in_channels"] = channels


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


@pytest.fixture
def packed(tmp_path: Path) -> Callable[[Callable[[Facts], Any], str], Path]:
    """Writes the small network in its packed form, with changed facts."""

    def write(change: Callable[[Facts], Any], name: str = "p.safetensors") -> Path:
        checkpoint.pack(checkpoint.load(saved(tmp_path / "s.pth", small_network().state_dict())), tmp_path / name)
        with safe_open(str(tmp_path / name), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator)
            facts = json.loads(file.metadata()["qexport"])
        change(facts)
        text = json.dumps(facts)
        if isinstance(facts["specs"], str):
            text = text.replace(json.dumps(facts["specs"]), facts["specs"])
        save_file(tensors, str(tmp_path / name), metadata={"qexport": text})
        return tmp_path / name

    return write


@pytest.mark.parametrize("case", PACKED)
def test_a_packed_network_with_impossible_facts_is_refused(
    case: str, packed: Callable[[Callable[[Facts], Any]], Path]
) -> None:
    change, message = PACKED[case]
    fails(cli("layers", "--checkpoint", packed(change)), "p.safetensors", message)


def test_packed_codes_that_are_no_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    checkpoint.pack(checkpoint.load(saved(tmp_path / "s.pth", small_network().state_dict())), path)
    with safe_open(str(path), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator)
        metadata = file.metadata()
    save_file(tensors | {"features.4.weight_codes": tensors["features.4.weight_codes"].float()}, str(path), metadata)
    fails(cli("layers", "--checkpoint", path), "features.4.weight_codes is strided float32", "needs plain")


def test_a_checkpoint_that_unpacks_to_more_than_it_has_is_refused_before_it_is_read(tmp_path: Path) -> None:
    saved(tmp_path / "ok.pth", small_network().state_dict())
    with zipfile.ZipFile(tmp_path / "ok.pth") as stored, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for entry in stored.infolist():
            bomb.writestr(entry.filename, stored.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    fails(cli("layers", "--checkpoint", tmp_path / "bomb.pth"), "bomb.pth unpacks to", "torch.save")


def test_a_checkpoint_with_a_damaged_directory_is_refused(tmp_path: Path) -> None:
    data = saved(tmp_path / "ok.pth", small_network().state_dict()).read_bytes()
    (tmp_path / "bad.pth").write_bytes(data.replace(b"PK\x01\x02", b"PK\x01\x03"))
    fails(cli("layers", "--checkpoint", tmp_path / "bad.pth"), "bad.pth cannot be loaded as weights", "builtin")


def test_a_checkpoint_beyond_the_budget_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "m.pth").open("wb") as file:
        file.truncate(1 << 34)  # takes no room on the disk
    fails(cli("layers", "--checkpoint", tmp_path / "m.pth"), "m.pth has 17,179,869,184 bytes, more than")


def test_a_network_whose_first_layer_takes_no_picture_is_refused(tmp_path: Path) -> None:
    state = small_network().state_dict()
    state["features.0.weight"] = torch.zeros(8, 4, 3, 3)
    fails(cli("layers", "--checkpoint", saved(tmp_path / "m.pth", state)), "convolution 1 takes 4 channels")
