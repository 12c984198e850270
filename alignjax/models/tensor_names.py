# SPDX-License-Identifier: Apache-2.0
"""Names of tensors in published checkpoints: a table, one line a tensor.

A family's file puts its table together from these parts and lines of its own.
"""

from __future__ import annotations

from typing import NamedTuple


class Tensor(NamedTuple):
    """One tensor of a checkpoint and the parameters that it holds.

    Attributes:
      name: with {layer} and {expert} for their indices.
      parameters: path of a parameter, which is stacked over layers: [L, ...], or
        [L, E, ...] with experts. Several paths: they are concatenated in this order
        along the axis of their outputs.
      transposed: the tensor is [out, in] and the parameter [in..., out...]; where this
        is False they differ in shape only.
    """

    name: str
    parameters: str | tuple[str, ...]
    transposed: bool = True

    @property
    def paths(self) -> tuple[str, ...]:
        single = isinstance(self.parameters, str)
        return (self.parameters,) if single else self.parameters


def plain(name: str, parameters: str | tuple[str, ...]) -> Tensor:
    """A tensor that needs no transposition: an embedding, a scale, a bias."""
    return Tensor(name, parameters, transposed=False)


LAYER = "model.layers.{layer}."
_ATTENTION, _MLP = LAYER + "self_attn.", LAYER + "mlp."
OUTER = (
    plain("model.embed_tokens.weight", "embed"),
    plain("model.norm.weight", "norm/scale"),
    Tensor("lm_head.weight", "head"),
)
ATTENTION = (
    *(Tensor(f"{_ATTENTION}{x}_proj.weight", f"layers/{x}/kernel") for x in "qkvo"),
    *(plain(f"{_ATTENTION}{x}_proj.bias", f"layers/{x}/bias") for x in "qkvo"),
)
QK_NORMS = tuple(
    plain(f"{_ATTENTION}{x}_norm.weight", f"layers/{x}_norm/scale") for x in "qk"
)
MLP = tuple(
    Tensor(f"{_MLP}{x}_proj.weight", f"layers/mlp/{x}/kernel")
    for x in ("gate", "up", "down")
)
MLP_BIASES = tuple(
    plain(f"{_MLP}{x}_proj.bias", f"layers/mlp/{x}/bias")
    for x in ("gate", "up", "down")
)


def _norm(name: str, owner: str) -> Tensor:
    return plain(f"{LAYER}{name}_layernorm.weight", f"layers/{owner}_norm/scale")


NORMS_BEFORE = (_norm("input", "attention"), _norm("post_attention", "mlp"))
NORMS_AFTER = (
    _norm("post_attention", "attention_post"),
    _norm("post_feedforward", "mlp_post"),
)
NORMS_AROUND = (
    _norm("input", "attention"),
    _norm("pre_feedforward", "mlp"),
    *NORMS_AFTER,
)


def table(
    norms: tuple[Tensor, ...] = NORMS_BEFORE,
    qk_norms: tuple[Tensor, ...] = (),
    mlp: tuple[Tensor, ...] = MLP,
) -> tuple[Tensor, ...]:
    """The tensors of a model with Llama's names."""
    return (*OUTER, *norms, *ATTENTION, *qk_norms, *mlp)


def experts(prefix: str, gate: str, up: str, down: str) -> tuple[Tensor, ...]:
    """The router and the matrices of experts under `{prefix}`, by their own names."""
    expert = f"{LAYER}{prefix}.experts.{{expert}}."
    return (
        Tensor(f"{LAYER}{prefix}.gate.weight", "layers/moe/router/kernel"),
        Tensor(f"{expert}{gate}.weight", "layers/moe/gate/kernel"),
        Tensor(f"{expert}{up}.weight", "layers/moe/up/kernel"),
        Tensor(f"{expert}{down}.weight", "layers/moe/down/kernel"),
    )
