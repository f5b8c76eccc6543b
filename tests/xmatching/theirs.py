"""Vokenization's and Maria's joint model, put together as their xmatching/model.py says, with small towers.

Vokenization: LangModel and VisnModel, mlp = Sequential(Linear to 256, ReLU, Dropout, Linear), a vector for each token. Maria:
Sent_LangModel, mlp.linears = three maps by way of 1024 and 1024, the vector of [CLS]. In both the text tower is a BertModel with its
position ids among the weights (transformers 3.3.0), the image tower a ResNet without fc, whose batch normalizations are four buffers.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision import transforms
from transformers import BertModel

SCALED = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
PICTURE = transforms.Compose(
    [*SCALED.transforms, transforms.ToTensor(), transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])]
)
SIZES = {"vokenization": (256, 64), "maria": (1024, 1024, 512)}


class FrozenNorm(nn.Module):
    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=1e-5)


class Linears(nn.Module):
    def __init__(self, width: int, sizes: tuple[int, ...]):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip((width, *sizes), sizes, strict=False))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.linears[:-1]:
            x = F.relu(layer(x))
        return self.linears[-1](x)


class Side(nn.Module):
    """A backbone and the mlp on it."""

    def __init__(self, backbone: nn.Module, width: int, project: str):
        super().__init__()
        sizes, self.by_token = SIZES[project], project == "vokenization"
        self.backbone = backbone
        plain = nn.Sequential(nn.Linear(width, sizes[0]), nn.ReLU(), nn.Dropout(0.3), nn.Linear(sizes[0], sizes[-1]))
        self.mlp = plain if self.by_token else Linears(width, sizes)

    def of_pictures(self, paths: list[Path]) -> Tensor:
        x = torch.cat([self.backbone(PICTURE(Image.open(path).convert("RGB"))[None]) for path in paths])
        return F.normalize(self.mlp(x), dim=-1)

    def of_text(self, ids: list[int]) -> Tensor:
        """(T, dim) in Vokenization, (dim,) in Maria"""
        states = self.backbone(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64), output_hidden_states=True).hidden_states
        x = torch.cat([states[layer] for layer in (-4, -3, -2, -1)], -1)[0]
        return F.normalize(self.mlp(x if self.by_token else x[0]), dim=-1)


class Joint(nn.Module):
    def __init__(self, project: str, bert: Path, resnet: Path, position_ids: bool = True):
        super().__init__()
        torch.manual_seed(3)
        text, image = BertModel.from_pretrained(bert), torchvision.models.resnet18()
        image.load_state_dict(load_file(resnet))
        image.fc = nn.Identity()
        for owner in list(image.modules()):
            for name, norm in list(owner.named_children()):
                if isinstance(norm, nn.BatchNorm2d):
                    setattr(owner, name, FrozenNorm(norm))
        ids = torch.arange(text.config.max_position_embeddings).expand((1, -1))
        text.embeddings.register_buffer("position_ids", ids.clone(), persistent=position_ids)
        self.lang_model = Side(text, 4 * text.config.hidden_size, project)
        self.visn_model = Side(image, 512, project)
        self.eval()
