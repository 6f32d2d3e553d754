"""Architectures of timm, freshly built: nothing may be called an error. In the environment that has timm."""

import pytest
import torch
from torch import nn, optim

import luthier

timm = pytest.importorskip("timm")

NAMES = """
resnet18 resnet34 resnet26d resnetv2_50 resnext26ts seresnet18 skresnet18 regnetx_002 regnety_002 res2net50_14w_8s
mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small efficientnet_lite0 efficientnet_b0 mnasnet_small
fbnetc_100 ghostnet_050 hardcorenas_a tinynet_e lcnet_035 semnasnet_075 spnasnet_100 rexnet_100 mixnet_s
convnext_atto convnextv2_atto convmixer_768_32 repvgg_a0 mobileone_s0 vgg11_bn densenet121 dla34 darknet17 cspresnet50
ese_vovnet19b_slim hrnet_w18_small xception41 inception_v3 vit_tiny_patch16_224 vit_small_patch32_224
deit_tiny_patch16_224 mixer_s32_224 gmixer_12_224 resmlp_12_224 gmlp_ti16_224 pit_ti_224 levit_128s
xcit_nano_12_p16_224 coat_lite_tiny efficientformer_l1 poolformer_s12 edgenext_xx_small mobilevit_xxs
""".split()  # noqa: SIM905  (rows of names read better)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_architecture_is_no_error(name: str) -> None:
    if name not in timm.list_models():
        pytest.skip("this timm does not have it")
    torch.manual_seed(0)
    net: nn.Module = timm.create_model(name, num_classes=3)
    _, height, width = net.default_cfg["input_size"]  # type: ignore[index]
    x, y = torch.randn(6, 3, height, width), torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = optim.AdamW(net.parameters(), 1e-4)
    found = luthier.check(net, (x, y), criterion=nn.CrossEntropyLoss(), optimizer=optimizer)
    assert [str(finding) for finding in found if finding.severity == "error"] == []
