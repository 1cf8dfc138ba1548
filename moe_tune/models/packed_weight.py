"""Expert weights in 8 or 4 bits: each expert is packed alone, and unpacked alone when it is needed."""

from typing import Any

import torch
from torch import Tensor, nn

from moe_tune.base.errors import ModelError

GROUP = 32
"""Inputs that share a scale and a minimum at 4 bits; fewer where a width is no multiple."""


class PackedWeight(nn.Module):
    """The weights of all experts of a layer for one product, packed; ``weight[expert]`` is one of them, unpacked.

    Formula: 8 bits: ``w = s_o q``, ``q`` in -127..127, one scale for each output. 4 bits: ``w = s_go q + m_go``, ``q``
    in 0..15, a scale and a minimum for each output and group of inputs. Scales and minima have the weights' dtype.

    Args:
        weight: The weights of the experts, (E, O, I), or (E, I, O) if transposed.
        bits: 8 or 4.
        transposed: Whether the model's own layout has inputs before outputs.

    Raises:
        ModelError: There is an odd number of inputs, which 4 bits cannot be packed for.

    Shape:
        - packed: (E, I, O) of 8 bits, or (E, I / 2, O): inputs of the first half in the lower four bits.
        - scale, minimum: (E, G, 1, O), G groups of inputs; 1 at 8 bits.
    """

    packed: Tensor
    scale: Tensor
    minimum: Tensor | None

    def __init__(self, weight: Tensor, bits: int, transposed: bool) -> None:
        super().__init__()
        self.bits, self.transposed = bits, transposed
        inputs = weight.shape[1 if transposed else 2]
        if bits == 4 and inputs % 2:
            raise ModelError(
                f"expected an even number of inputs but got {inputs} (model.base.quantise). Hint: 8 bits, or null."
            )
        with torch.no_grad():
            one_by_one = [self._pack(one if transposed else one.T) for one in weight]
        for name, parts in zip(("packed", "scale", "minimum"), zip(*one_by_one, strict=True), strict=False):
            self.register_buffer(name, torch.stack(parts))
        if bits == 8:
            self.register_buffer("minimum", None)

    def _pack(self, weight_IO: Tensor) -> tuple[Tensor, ...]:
        """Return one expert's packed values, scales and, at 4 bits, minima."""
        exact_IO, dtype = weight_IO.float(), weight_IO.dtype
        inputs, outputs = weight_IO.shape
        if self.bits == 8:
            scale_1O = (exact_IO.abs().amax(0, keepdim=True) / 127).to(dtype)
            whole_IO = (exact_IO / _divisor(scale_1O)).round_().clamp_(-127, 127)
            return whole_IO.to(torch.int8), scale_1O[None]
        size = next(size for size in range(min(GROUP, inputs), 0, -1) if inputs % size == 0)
        group_GSO = exact_IO.reshape(-1, size, outputs)
        least_G1O, most_G1O = group_GSO.aminmax(dim=1, keepdim=True)
        minimum_G1O = least_G1O.to(dtype)
        scale_G1O = ((most_G1O - minimum_G1O.float()) / 15).to(dtype)
        whole_IO = ((group_GSO - minimum_G1O) / _divisor(scale_G1O)).round_().clamp_(0, 15).reshape(inputs, outputs)
        low_IO, high_IO = whole_IO.to(torch.uint8).chunk(2)
        return low_IO | (high_IO << 4), scale_G1O, minimum_G1O

    def unpacked(self, expert: int | Tensor) -> Tensor:
        """Return the weights of one expert, inputs first, (I, O)."""
        packed, scale_G1O = self.packed[expert], self.scale[expert]
        if self.minimum is None:
            return packed * scale_G1O[0]
        # Laid out with outputs last, so that scales are read along with the values.
        half, outputs = packed.shape
        weight_IO = scale_G1O.new_empty(2 * half, outputs)
        weight_IO[:half] = packed & 15
        weight_IO[half:] = packed >> 4
        group_GSO = weight_IO.view(len(scale_G1O), -1, outputs)
        torch.addcmul(self.minimum[expert], group_GSO, scale_G1O, out=group_GSO)
        return weight_IO

    def product(self, hidden_NI: Tensor, expert: int) -> Tensor:
        """Return what one expert's weights make of hidden states, (N, O); for the gradient they are unpacked again."""
        product_NO: Tensor = _Product.apply(hidden_NI, self, expert)
        return product_NO

    def __getitem__(self, expert: int | Tensor) -> Tensor:
        """Return the weights of one expert in the model's own layout."""
        weight_IO = self.unpacked(expert)
        return weight_IO if self.transposed else weight_IO.T

    def __len__(self) -> int:
        """Return the number of experts."""
        return len(self.packed)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of unpacked weights."""
        return self.scale.dtype

    def extra_repr(self) -> str:
        """Return what ``print`` says of it."""
        experts, rows, outputs = self.packed.shape
        return f"experts={experts}, inputs={rows * 8 // self.bits}, outputs={outputs}, bits={self.bits}"


class _Product(torch.autograd.Function):
    """A product with unpacked weights that keeps only the packed ones for its gradient."""

    @staticmethod
    def forward(ctx: Any, hidden_NI: Tensor, weight: PackedWeight, expert: int) -> Tensor:
        ctx.weight, ctx.expert, ctx.dtype = weight, expert, hidden_NI.dtype
        return hidden_NI @ weight.unpacked(expert)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_NO,) = gradients
        # Under autocast the product was in another dtype than the weights.
        weight_IO = ctx.weight.unpacked(ctx.expert).to(gradient_NO.dtype)
        return (gradient_NO @ weight_IO.T).to(ctx.dtype), None, None


def _divisor(scale: Tensor) -> Tensor:
    """Return scales in float32 to divide by: where one is 0 all its values are equal, and become 0."""
    return scale.float().masked_fill(scale == 0, torch.inf)


def fused_weights(experts: nn.Module, recurse: bool = True) -> list[Tensor | PackedWeight]:
    """Return the weights of a layer's experts: 3-D parameters, or the packed ones in their place.

    Args:
        experts: The module that holds them.
        recurse: Whether those of the modules within it count.
    """
    within = experts.modules() if recurse else experts.children()
    packed = [one for one in within if isinstance(one, PackedWeight)]
    return [*packed, *(one for one in experts.parameters(recurse) if one.dim() == 3)]
