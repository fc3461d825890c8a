"""The networks have the layers, indices and shapes that others rely on."""

import torch
from torch import nn

from qexport.frontends.vgg.model import build
from qexport.frontends.vgg.quant import QuantConv2d

GRADUAL = {
    0: (3, 64), 4: (64, 128), 7: (128, 128), 11: (128, 256), 14: (256, 256), 17: (256, 256), 21: (256, 512),
    24: (512, 128), 27: (128, 32), 30: (32, 8), 33: (8, 8), 35: (8, 32), 38: (32, 128), 41: (128, 512),
    45: (512, 512), 48: (512, 512), 51: (512, 512),
}  # fmt: skip


def test_the_gradual_network_has_the_documented_indices() -> None:
    model = build("vgg16_quant_gradual")
    assert {i: (c.in_channels, c.out_channels) for i, c in model.quantized().items()} == GRADUAL
    kinds = [type(module) for module in model.features]
    assert len(kinds) == 56
    assert [i for i, kind in enumerate(kinds) if kind is nn.MaxPool2d] == [3, 10, 20, 44, 54]
    assert kinds[33:36] == [QuantConv2d, nn.ReLU, QuantConv2d]  # no BatchNorm behind the 8-to-8 layer
    assert kinds[30:33] == [QuantConv2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds[55] is nn.AvgPool2d
    assert (model.classifier.in_features, model.classifier.out_features) == (512, 10)


def test_the_sudden_network_squeezes_at_27() -> None:
    convs = build("vgg16_quant").quantized()
    assert (convs[24].in_channels, convs[24].out_channels) == (512, 8)
    assert (convs[27].in_channels, convs[27].out_channels) == (8, 8)
    assert (convs[29].in_channels, convs[29].out_channels) == (8, 512)


def test_layer_33_sees_an_8x4x4_plane_and_the_network_gives_ten_logits() -> None:
    model = build("vgg16_quant_gradual").eval()
    seen: list[torch.Size] = []
    model.features[33].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert seen == [torch.Size((2, 8, 4, 4))]


def test_state_dict_names_are_the_documented_ones() -> None:
    names = set(build("vgg16_quant_gradual").state_dict())
    assert {"features.33.weight", "features.33.act_alpha", "features.33.weight_quant.wgt_alpha"} <= names
    assert {"features.1.running_mean", "classifier.weight", "classifier.bias"} <= names
    assert "features.34.running_mean" not in names
    assert not any("codes" in name for name in names)
