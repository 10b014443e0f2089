"""Guided backpropagation: derivatives of which rectifiers let through the positive ones alone.

Springenberg et al., "Striving for simplicity: the all convolutional net" (ICLR workshop 2015). At
an activation f the derivative that goes back is ``max(0, f'(x) g)`` of the derivative g that comes:
of a ReLU, g where x and g are both above nought. The rule is the same for ReLU6, SiLU, GELU and
Hardswish.

The activations are met as they are called, and not by the modules that call them: a network may
call a function, use one module twice, or work in place. What no rule is known for is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from retrieval.errors import ExplainError

Rectifier = Callable[[Tensor], Tensor]

_PLAIN: Final[dict[Any, Rectifier]] = {
    functional.relu: functional.relu,
    functional.relu_: functional.relu,
    torch.relu: functional.relu,
    torch.relu_: functional.relu,
    Tensor.relu: functional.relu,
    Tensor.relu_: functional.relu,
    functional.relu6: functional.relu6,
    functional.silu: functional.silu,
    functional.hardswish: functional.hardswish,
}
"""Functions of one tensor, besides ``inplace``."""
_REFUSED: Final[dict[Any, str]] = {
    getattr(functional, name): name
    for name in (
        "leaky_relu", "leaky_relu_", "elu", "elu_", "celu", "celu_", "selu", "selu_", "mish",
        "softplus", "rrelu", "rrelu_", "prelu", "glu", "threshold", "threshold_", "hardshrink",
        "softshrink", "softsign", "tanhshrink", "logsigmoid",
    )
}  # fmt: skip
_REFUSED.update({torch.celu: "celu", torch.selu: "selu", torch.prelu: "prelu"})
_SIGMOIDS: Final = (torch.sigmoid, Tensor.sigmoid, functional.sigmoid)
_PRODUCTS: Final = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.mul_, Tensor.__imul__)
_CLAMPS: Final = (
    torch.clamp, Tensor.clamp, torch.clamp_, Tensor.clamp_, torch.clamp_min, Tensor.clamp_min
)  # fmt: skip


class _Guided(torch.autograd.Function):
    """A rectifier with the rule above."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rectify: Rectifier) -> Tensor:
        with torch.enable_grad():
            leaf = values.detach().requires_grad_()
            made = rectify(leaf)
            (slope,) = torch.autograd.grad(made.sum(), leaf)
        ctx.save_for_backward(slope)
        return made.detach()

    @staticmethod
    def backward(ctx: Any, *came: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return (slope * came[0]).clamp(min=0), None


class _Watch(TorchFunctionMode):
    """Every activation by the rule."""

    def __init__(self) -> None:
        super().__init__()
        self.met = 0
        self._sigmoids: list[tuple[Any, Any]] = []

    def __torch_function__(
        self, called: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = dict(kwargs or {})
        if called in _REFUSED:
            raise ExplainError(
                f"guided backpropagation: no rule is known for {_REFUSED[called]}, which the"
                " network calls; take gradient, integrated or grad-cam"
            )
        rectify = self._rectifier(called, args, given)
        if rectify is not None:
            self.met += 1
            values = args[0] if args else given["input"]
            made: Tensor = _Guided.apply(values, rectify)
            # In place, so that whoever looks at the same tensor later sees it rectified.
            return values.copy_(made) if _in_place(called, args, given) else made
        self._refuse_product(called, args)
        found = called(*args, **given)
        if called in _SIGMOIDS:
            self._sigmoids.append((found, args[0] if args else given["input"]))
        return found

    def _rectifier(self, called: Any, args: Any, given: dict[str, Any]) -> Rectifier | None:
        if called in _PLAIN:
            return _PLAIN[called]
        if called is functional.gelu:
            form = given.get("approximate", args[1] if len(args) > 1 else "none")
            return lambda values: functional.gelu(values, approximate=form)
        if called in (functional.hardtanh, functional.hardtanh_):
            least = given.get("min_val", args[1] if len(args) > 1 else -1.0)
            most = given.get("max_val", args[2] if len(args) > 2 else 1.0)
            if least < 0:
                raise ExplainError(
                    "guided backpropagation: no rule is known for hardtanh, which the network calls"
                )
            return lambda values: functional.hardtanh(values, least, most)
        if called in _CLAMPS:
            least = given.get("min", args[1] if len(args) > 1 else None)
            most = given.get("max", args[2] if len(args) > 2 else None)
            if least is not None and not isinstance(least, Tensor) and least == 0:
                return lambda values: torch.clamp(values, 0, most)
        return None

    def _refuse_product(self, called: Any, args: Any) -> None:
        """A SiLU that is written out would pass for no activation at all."""
        if called not in _PRODUCTS or len(args) < 2:
            return
        for made, of in self._sigmoids:
            if any(a is made and b is of for a, b in (args[:2], args[1::-1])):
                raise ExplainError(
                    "guided backpropagation: the network multiplies x by sigmoid(x) itself, for"
                    " which no rule is known; take gradient, integrated or grad-cam"
                )


def _in_place(called: Any, args: Any, given: dict[str, Any]) -> bool:
    name = getattr(called, "__name__", "")
    at = {"relu": 1, "relu6": 1, "silu": 1, "hardswish": 1, "hardtanh": 3}.get(name)
    told = args[at] if at is not None and called not in (torch.relu,) and len(args) > at else False
    return bool(name.endswith("_") or given.get("inplace", told))


@contextmanager
def guided() -> Iterator[None]:
    """Within, what networks compute is derived by the rule.

    Raises:
        ExplainError: at an activation without a rule; or at the end, where none was met at all.
    """
    watch = _Watch()
    with watch:
        yield
    if not watch.met:
        raise ExplainError(
            "guided backpropagation: the network calls no ReLU, ReLU6, SiLU, GELU or Hardswish;"
            " take gradient, integrated or grad-cam"
        )
