"""Pooling in the towers and the heads, against the same computed by hand."""

import pytest
import torch

from tests.worlds import World
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec, build_heads
from xvoken.encoders.snapshot import ModelConfig
from xvoken.errors import UserError


@torch.inference_mode()
def test_mean_of_the_tokens_leaves_padding_out(world: World):
    tower = TextTowerSpec(str(world.bert), (2, 1), "mean").build()
    ids, mask = torch.tensor([[101, 2417, 4418, 102], [101, 2630, 102, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    hidden = [tower.model(input_ids=row[None, :n], output_hidden_states=True).hidden_states for row, n in zip(ids, (4, 3), strict=True)]
    by_hand = torch.stack([torch.cat([states[-2][0], states[-1][0]], -1).mean(0) for states in hidden])
    torch.testing.assert_close(tower(ids, mask), by_hand, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("pool", ["max", "grid"])
def test_pooling_over_the_last_map(world: World, pool: str):
    tower = ImageTowerSpec("resnet18", str(world.resnet), pool).build()
    pixels = torch.randint(0, 255, (2, 3, 224, 224), dtype=torch.uint8)
    maps = []
    tower.model.layer4.register_forward_hook(lambda module, inputs, output: maps.append(output))
    found = tower(pixels)
    last = maps[0]  # (2, 512, 7, 7)
    if pool == "max":
        by_hand = last.amax((2, 3))
    else:  # quarters of 4 x 4 that share the row and the column in the middle
        quarters = [last[:, :, rows, columns].mean((2, 3)) for rows in (slice(4), slice(3, 7)) for columns in (slice(4), slice(3, 7))]
        by_hand = torch.stack(quarters, -1).flatten(1)
    assert found.shape == (2, tower.width)
    torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_maps_are_the_averages_of_earlier_maps_and_the_grid(world: World):
    pixels = torch.randint(0, 255, (2, 3, 224, 224), dtype=torch.uint8)
    tower, grid = (ImageTowerSpec("resnet18", str(world.resnet), pool).build() for pool in ("maps", "grid"))
    net = grid.model
    x = net.maxpool(net.relu(net.bn1(net.conv1(tower.view.normalize(pixels)))))
    second = net.layer2(net.layer1(x))
    by_hand = torch.cat([second.mean((2, 3)), net.layer3(second).mean((2, 3)), grid(pixels)], 1)  # 128 + 256 + 4 * 512
    for _ in range(2):  # nothing stays behind from one call to the next
        found = tower(pixels)
        assert found.shape == (2, tower.width) == (2, 128 + 256 + 4 * 512)
        torch.testing.assert_close(found, by_hand, atol=1e-5, rtol=1e-4)
    assert tower.state_dict().keys() == grid.state_dict().keys()


@torch.inference_mode()
def test_maps_of_efficientnet_lite():
    tower = ImageTowerSpec("efficientnet_lite2", None, "maps").build()
    pixels = torch.randint(0, 255, (2, 3, 260, 260), dtype=torch.uint8)
    x, by_hand = tower.view.normalize(pixels), []
    x = tower.model._swish(tower.model._bn0(tower.model._conv_stem(x)))
    for number, block in enumerate(tower.model._blocks):
        x = block(x)
        if number in (6, 10, 14, 19, 20):  # the last block of 48, 88, 120, 208 and 352 channels
            by_hand.append(x.mean((2, 3)))
    last = tower.model._swish(tower.model._bn1(tower.model._conv_head(x)))  # (2, 1280, 9, 9): quarters share the middle
    quarters = [last[:, :, rows, columns].mean((2, 3)) for rows in (slice(5), slice(4, 9)) for columns in (slice(5), slice(4, 9))]
    by_hand = torch.cat([*by_hand, torch.stack(quarters, -1).flatten(1)], 1)
    assert by_hand.shape == (2, tower.width) == (2, 816 + 4 * 1280)
    torch.testing.assert_close(tower(pixels), by_hand, atol=1e-4, rtol=1e-3)


def test_maps_of_an_unknown_tower_say_so():
    from xvoken.towers.image import stages

    with pytest.raises(UserError, match="not for vgg11"):
        stages(torch.nn.Linear(2, 2), "vgg11")


def test_a_tower_without_a_map_says_so():
    with pytest.raises(UserError, match="no average pooling layer to replace"):
        from xvoken.towers.image import _replace_pooling, pooling

        _replace_pooling(torch.nn.Sequential(torch.nn.Linear(2, 2)), pooling("max"), "vit_b_16", "max")


@torch.inference_mode()
def test_heads_by_hand():
    x = torch.randn(3, 6) * 50
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    for name in ("linear", "glu"):
        config = ModelConfig.with_heads(text_width=6, image_width=6, hidden=5, dim=4, dropout=0.3, head=name)
        head = build_heads(config)["text_head"].eval()
        own = head.state_dict()
        if name == "linear":
            y = normed @ own["layers.2.weight"].T + own["layers.2.bias"]
        else:
            both = normed @ own["gated.0.weight"].T + own["gated.0.bias"]
            gated = both[:, :5] * torch.sigmoid(both[:, 5:])
            y = normed @ own["straight.weight"].T + own["straight.bias"] + gated @ own["gated.3.weight"].T + own["gated.3.bias"]
        torch.testing.assert_close(head(x), y / y.norm(dim=1, keepdim=True), atol=1e-5, rtol=1e-4)
