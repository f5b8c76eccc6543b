"""The view that an image processor of transformers makes in a way of its own: what it gives is taken as it is, in float32."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from xvoken.errors import UserError, one_line
from xvoken.pictures.view import LARGEST, AnyView, Box, ProcessorView, _bounded, as_pixels

# What a processor has to leave as it is for ProcessorView, which resizes, crops and, in the tower, normalizes by these.
STEPS = ("_preprocess", "process_image", "resize", "center_crop", "rescale_and_normalize", "rescale", "normalize")


def processor_view(processor: Any, name: str) -> AnyView:
    """The view of an image processor of a model of this name; raises UserError if it does not bring all pictures to one size."""
    from transformers.image_processing_backends import TorchvisionBackend

    if not isinstance(processor, TorchvisionBackend):
        raise UserError(f"model {name}: its image processor, {type(processor).__name__}, is not one of those that torchvision computes")
    sides = [side for sizes in (processor.size, getattr(processor, "crop_size", None)) for side in dict(sizes or {}).values()]
    if not all(side is None or isinstance(side, int) and 0 < side <= LARGEST for side in sides):
        raise UserError(f"model {name}: its image processor makes pictures of {processor.size} pixels; at most {LARGEST} a side are taken")
    plain = all(getattr(type(processor), step) is getattr(TorchvisionBackend, step) for step in STEPS)
    if plain and not getattr(processor, "do_pad", None):
        return ProcessorView.from_processor(processor, name)
    return ProcessedView.from_processor(processor, name)


@dataclass
class ProcessedView(ProcessorView):
    """Pixels as an image processor gives them, float32 and normalized already.

    For those that resize what is rescaled (DINOv3's), or that crop in a way of their own (ConvNeXt's).
    """

    @classmethod
    def from_processor(cls, processor: Any, name: str) -> "ProcessedView":
        """The view; raises UserError for a processor that gives other things than pixels of one size."""
        view = cls(json.loads(processor.to_json_string()))
        view.processor = processor
        try:
            found = [processor(images=Image.new("RGB", size), return_tensors="pt") for size in ((640, 480), (300, 500))]
            shapes = {tuple(one["pixel_values"].shape) for one in found}
        except Exception as error:  # whatever a config of a stranger leads to
            raise UserError(f"model {name}: its image processor fails ({one_line(error)[:160]})") from None
        if len(shapes) > 1 or {*found[0]} != {"pixel_values"} or len(shape := shapes.pop()) != 4 or shape[:2] != (1, 3):
            raise UserError(f"model {name}: its image processor, {type(processor).__name__}, does not give pixels of one size")
        view.size = shape[2:]
        return view

    def __call__(self, picture: Image.Image) -> Tensor:
        """RGB picture -> float32 (3, height, width)"""
        return self.of_pixels(as_pixels(_bounded(picture))[None])[0]

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Views of decoded pictures, computed on their device: uint8 (B, 3, H, W) of any size -> float32 (B, 3, height, width)"""
        found = self.processor(images=list(pixels), input_data_format="channels_first", return_tensors="pt")
        return found["pixel_values"].contiguous()

    def cropped(self, picture: Image.Image, box: Box) -> Tensor:
        """A box of the picture at the tower's size, without what the processor cuts off: RGB picture -> float32 (3, height, width)"""
        own, pixels = self.processor, super().cropped(picture, box)[None]
        how = own.do_rescale, own.rescale_factor, own.do_normalize, own.image_mean, own.image_std
        return own.rescale_and_normalize(pixels, *how)[0].to(torch.float32)

    def normalize(self, pixels: Tensor) -> Tensor:
        """float32 (B, 3, H, W), unchanged: the processor has done it."""
        return pixels
