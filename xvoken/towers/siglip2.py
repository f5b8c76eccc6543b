"""The image tower of SigLIP 2's NaFlex models, which take pictures in their own ratio (Tschannen et al., 2025, arXiv 2502.14786).

Their text tower is SigLIP's, see xvoken/towers/clip.py. SigLIP 2's models of one size are of the type siglip.
"""

from typing import Any

from torch import Tensor, nn

from xvoken.errors import UserError
from xvoken.pictures.patches import PatchView, square
from xvoken.towers.hashes import name_settings


class Siglip2ImageTower(nn.Module):
    """The vision model; width: size of its pooled output; view: its preprocessing."""

    def __init__(self, name: str, model: Any, processor: Any):
        super().__init__()
        self.name, self.model = name, model
        self.width = model.config.hidden_size
        self.view = PatchView.from_processor(processor, name)
        if not model.config.vision_use_head:
            raise UserError(f"model {name}: its vision tower has no pooling (vision_use_head), and so no vector for a picture")
        if processor.patch_size != model.config.patch_size or not square(model.config.num_patches):
            sizes = f"patches of {model.config.patch_size} pixels, {model.config.num_patches} positions"
            raise UserError(f"model {name}: its vision tower ({sizes}) does not go with its processor (patches of {processor.patch_size})")
        seen = ("max_num_patches", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        name_settings(model, {key: getattr(processor, key) for key in seen} | {"resample": int(processor.resample)})

    def forward(self, packed: Tensor) -> Tensor:
        """packed: uint8 (B, 3, 1 + N, P * P), see PatchView -> (B, width), pooled"""
        inside, grids = self.view.inside(packed).int(), self.view.grids(packed)
        return self.model(pixel_values=self.view.patches(packed), pixel_attention_mask=inside, spatial_shapes=grids).pooler_output


def require_right_padding(tokenizer: Any, name: str) -> None:
    """Raise UserError for a tokenizer that pads in front of a sentence, where the tower looks at the padding."""
    if getattr(tokenizer, "padding_side", "right") != "right":
        raise UserError(
            f"tokenizer {name}: pads in front of a sentence, where padding is put behind it here; "
            'if the model was trained so too, write "padding_side": "right" into its tokenizer_config.json'
        )
