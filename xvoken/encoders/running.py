"""A frozen tower's functions on a device: by which engine, in which precision."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from xvoken.console import log
from xvoken.machine import Pace
from xvoken.towers.precision import autocast


@contextmanager
def computing(device: str, precision: str) -> Generator[None]:
    """Compute without gradients, in this precision. fp32 means fp32 on a GPU too: torch's default there is TF32 convolutions (10 bits)."""
    with torch.inference_mode(), autocast(device, precision), nullcontext() if torch.device(device).type == "cpu" else _no_tf32():
        yield


@contextmanager
def _no_tf32() -> Generator[None]:
    """For a GPU alone: it holds for the whole process, and lanes on a CPU, which end in any order, would leave it as another set it."""
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = tf32


ALONE = Pace()


class Run:
    """A tower on a device and how it is computed there. to_precision: what casts it, in place, for a precision."""

    def __init__(self, tower: Any, to_precision: Callable[[Any, str], Any], device: str, precision: str, pace: Pace):
        self.device, self.precision, self.pace = device, precision, pace
        self.compiles = pace.engine == "openvino"
        # OpenVINO casts for itself what it takes in fp32.
        self.tower = (tower if self.compiles else to_precision(tower, precision)).to(device)
        self.compiled: dict[str, Any] = {}
        self.lock = Lock()

    def function(
        self, name: str, examples: Sequence[Tensor], free: Sequence[int], probe: Callable[[], Sequence[Tensor]]
    ) -> Callable[..., Tensor]:
        """The tower's method, compiled where OpenVINO computes; examples, free, probe: see compile_tower."""
        if not self.compiles:
            return self.tower if name == "forward" else getattr(self.tower, name)
        with self.lock:
            if name not in self.compiled:
                self.compiled[name] = self._compile(name, examples, free, probe())
        return self.compiled[name]

    def _compile(self, name: str, examples: Sequence[Tensor], free: Sequence[int], probe: Sequence[Tensor]) -> Callable[..., Tensor]:
        from xvoken.encoders.compiled import NotConvertible, compile_tower

        try:
            return compile_tower(self.tower, name, examples, free, probe, self.pace, self.precision)
        except NotConvertible as error:
            log.warning(f"computing with torch: OpenVINO can't take {type(self.tower).__name__} ({error})")
            return self.tower if name == "forward" else getattr(self.tower, name)
