"""A frozen tower's function compiled by OpenVINO for the CPU: in fp32 two to three times as fast as torch, and equal to about 1e-6.

The tower is traced and converted in memory. openvino.convert_model is not used: it sends usage data.
"""

import functools
import queue
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xvoken.errors import one_line
from xvoken.machine import Pace, cores

APART = {"fp32": 1e-3, "bf16": 0.2}  # so far may it be from torch, as a share of the largest number
OPENVINO_TYPES = {torch.uint8: "u8", torch.int64: "i64", torch.float32: "f32"}


class NotConvertible(Exception):
    """OpenVINO can't take this function of a tower."""


class _Function(nn.Module):
    """A method of a tower as a module of its own, which is what can be traced."""

    def __init__(self, tower: nn.Module, name: str):
        super().__init__()
        self.tower, self.name = tower, name

    def forward(self, *inputs: Tensor) -> Tensor:
        return getattr(self.tower, self.name)(*inputs)


def compile_tower(
    tower: Any, name: str, examples: Sequence[Tensor], free: Sequence[int], probe: Sequence[Tensor], pace: Pace, precision: str
) -> "Compiled":
    """Compile the method `name` of a tower in fp32 on the CPU.

    examples: its inputs, for tracing; free: dimensions in which other inputs may differ from the examples; precision: to compute in.
    probe: inputs of other sizes, for which it must compute what torch does: a trace may hold what hangs on the examples' sizes.
    Raises NotConvertible where the tower does something that OpenVINO does not know, or where both differ.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    lanes, threads = pace.lanes, pace.threads or cores()
    # Not pinned: several processes would all choose the same cores.
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32", "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": lanes, "INFERENCE_NUM_THREADS": lanes * threads,
    }  # fmt: skip
    try:
        # The check would trace once more and compare the texts of both graphs, which differ where a tower keeps something.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of traced branches: they hang on the tower, not on the input
            decoder = TorchScriptPythonDecoder(_Function(tower, name), example_input=tuple(examples), trace_kwargs={"check_trace": False})
        frontend = FrontEndManager().load_by_framework("pytorch")
        model = frontend.convert(frontend.load(decoder))
        for given, example in zip(model.inputs, examples, strict=False):  # an input that is not used is left out
            shape = [-1 if dim in free else size for dim, size in enumerate(example.shape)]
            given.get_node().set_element_type(getattr(openvino.Type, OPENVINO_TYPES[example.dtype]))
            given.get_node().set_partial_shape(openvino.PartialShape(shape))
        model.validate_nodes_and_infer_types()
        made = Compiled(_core().compile_model(model, "CPU", settings))
        with torch.inference_mode():
            expected, found = getattr(tower, name)(*probe), made(*probe)
    except Exception as error:  # whatever tracing, the converter or the plugin raises: torch can do it in any case
        raise NotConvertible(one_line(error)[:200]) from None
    if found.shape != expected.shape or not ((found - expected).abs().max() < APART[precision] * expected.abs().max()):
        raise NotConvertible("it computes something else for inputs of other sizes")
    return made


@functools.cache
def _core() -> Any:
    """One for the process, as long as it lives.

    The CPU plugin sets a stack for signals, and when it goes sets back the one that was there before. With a plugin for each tower that
    can be one of a plugin that is gone: the next signal, a Ctrl-C or a child that ends, would kill the process without a word.
    """
    import openvino

    return openvino.Core()


class Compiled:
    """A compiled function of a tower; may be called from several threads at once."""

    def __init__(self, model: Any):
        self.model, self.inputs = model, len(model.inputs)
        self.idle: queue.SimpleQueue = queue.SimpleQueue()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """As the tower's own function, on the CPU."""
        try:
            request = self.idle.get_nowait()
        except queue.Empty:
            request = self.model.create_infer_request()
        found = request.infer([tensor.numpy() for tensor in inputs[: self.inputs]], share_inputs=True)[0].copy()
        self.idle.put(request)
        return torch.from_numpy(found)
