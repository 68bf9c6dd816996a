"""Where in the model a kernel is launched: the module, or the function outside of modules."""

import sys
from pathlib import Path
from types import CodeType, FrameType

from torch import nn

import omniforcing_model

ROOM = Path(omniforcing_model.__file__).parent
KERNELS = str(ROOM / "kernels")  # they carry out what others ask for: the place is who asks
UNNAMED = ("forward", "__call__")
DEPTH = 3  # of a path: parts of a layer, but not what they consist of


class Places:
    """Names places by the call stack."""

    def __init__(self, model: nn.Module) -> None:
        """Modules of `model` go by their path in it, without the number of a layer."""
        self._modules = {
            id(module): _without_numbers(name) for name, module in model.named_modules() if name
        }
        self._is_ours: dict[CodeType, bool] = {}

    def here(self) -> str:
        """The part of a layer, such as `video.layers.self_attention`, or its method that is not
        `forward`, such as `video.layers.answer`; outside of modules the innermost function."""
        function = "elsewhere"
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if self._of_interest(frame.f_code):
                module = self._module(frame)
                if module is not None:
                    return module
                if function == "elsewhere":
                    function = f"{Path(frame.f_code.co_filename).stem}.{_name(frame.f_code)}"
            frame = frame.f_back
        return function

    def _of_interest(self, code: CodeType) -> bool:
        if code not in self._is_ours:
            file = code.co_filename
            self._is_ours[code] = file.startswith(str(ROOM)) and not file.startswith(KERNELS)
        return self._is_ours[code]

    def _module(self, frame: FrameType) -> str | None:
        if frame.f_code.co_varnames[:1] != ("self",):
            return None
        path = self._modules.get(id(frame.f_locals.get("self")))
        method = _name(frame.f_code).rpartition(".")[2]
        if path is None or method in UNNAMED:
            return path
        return ".".join(f"{path}.{method}".split(".")[:DEPTH])


def _name(code: CodeType) -> str:
    return code.co_qualname.partition(".<locals>")[0]


def _without_numbers(path: str) -> str:
    return ".".join([part for part in path.split(".") if not part.isdigit()][:DEPTH])
