# SPDX-License-Identifier: Apache-2.0
"""Mixtures of experts: each token goes through a few of E MLPs, which a router chooses.

No expert has a limit of tokens and no token is ever dropped: the choices of all tokens
are sorted by expert, and each run of rows is multiplied by the kernel of its own
expert. On a mesh every device sorts the tokens of its own rows, and computes them for
the experts that it holds ("experts" in `sharding.RULES`) or for its slice of all of
them ("expert_mlp"); one sum over these devices makes the output.
"""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from alignjax import errors
from alignjax.distributed import sharding
from alignjax.models import layers, projection
from alignjax.types import Routing


class Kernel(nn.Module):
    """The matrix of a router, or one for each expert, [E, inputs, outputs]."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    std: float

    @nn.compact
    def __call__(self) -> jax.Array:
        initializer = projection.normal(self.std, self.axes)
        return self.param("kernel", initializer, self.shape)


def route(x_BTD, kernel_DE) -> tuple[jax.Array, jax.Array]:
    """(probability_BTE of each expert, its log-normaliser logz_BT), in float32."""
    kernel_DE = kernel_DE.astype(x_BTD.dtype)
    logits_BTE = jnp.matmul(x_BTD, kernel_DE, preferred_element_type=jnp.float32)
    logz_BT = jax.nn.logsumexp(logits_BTE, axis=-1)
    return jnp.exp(logits_BTE - logz_BT[..., None]), logz_BT


class Experts(nn.Module):
    """The feed-forward layer of a mixture (arXiv:2401.04088 section 2.1).

    Attributes:
      experts, per_token: E, and how many of them each token goes through.
      d_ff, activation, std, out_std: of each, as in `layers.MLP`; without biases.
      normalised: whether the weights of the chosen experts are made to sum to 1, or
        stay the probabilities that they are.
    """

    experts: int
    per_token: int
    d_ff: int
    activation: str
    normalised: bool
    std: float
    out_std: float

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, counts_BT: jax.Array | None = None
    ) -> tuple[jax.Array, Routing | None]:
        """The output, like x, and the routing of the tokens in `counts_BT`."""
        E, D, F = self.experts, x_BTD.shape[-1], self.d_ff
        router_DE = Kernel((D, E), ("embed", None), self.std, name="router")()
        probability_BTE, logz_BT = route(x_BTD, router_DE)
        inner = ("experts", "embed", "expert_mlp")
        outer = ("experts", "expert_mlp", "embed")
        kernels = {}
        if layers.ACTIVATIONS[self.activation][1]:
            kernels["gate"] = Kernel((E, D, F), inner, self.std, name="gate")()
        kernels["up"] = Kernel((E, D, F), inner, self.std, name="up")()
        kernels["down"] = Kernel((E, F, D), outer, self.out_std, name="down")()
        kernels = {k: kernel.astype(x_BTD.dtype) for k, kernel in kernels.items()}
        compute = functools.partial(
            mixture,
            per_token=self.per_token,
            normalised=self.normalised,
            activation=self.activation,
        )
        if not self.is_initializing():
            compute = _on_mesh(compute, x_BTD.shape[0], E, F)
        y_BTD, expert_BTJ = compute(x_BTD, probability_BTE, kernels)
        if counts_BT is None:
            return y_BTD, None
        return y_BTD, routing(probability_BTE, logz_BT, expert_BTJ, counts_BT)


def routing(probability_BTE, logz_BT, expert_BTJ, counts_BT) -> Routing:
    """Sums over the tokens of each row that are true in `counts_BT`."""
    E = probability_BTE.shape[-1]
    counts_BT1 = counts_BT.astype(jnp.float32)[..., None]
    chosen_BTE = (expert_BTJ[..., None] == jnp.arange(E)).sum(-2)
    # p log p is 0 at p = 0, and the entropy needs no gradient.
    p_BTE = lax.stop_gradient(probability_BTE)
    plogp_BTE = p_BTE * jnp.log(jnp.where(p_BTE > 0, p_BTE, 1.0))
    total = lambda x_BTX: (x_BTX * counts_BT1).sum(1)
    return Routing(
        chosen=total(chosen_BTE),
        probability=total(probability_BTE),
        entropy=-total(plogp_BTE).sum(-1),
        z=total(jnp.square(logz_BT)[..., None])[:, 0],
        tokens=counts_BT1.sum((1, 2)),
    )


def mixture(
    x_BTD,
    probability_BTE,
    kernels: dict,
    *,
    per_token: int,
    normalised: bool,
    activation: str,
    first=0,
    cut: tuple[str, ...] = (),
) -> tuple[jax.Array, jax.Array]:
    """The output of the likeliest experts of each token, and their numbers, [B, T, J].

    See `Experts` and `summed`; `cut` are axes of the mesh along which devices have the
    same tokens and different kernels, over which the output is summed.
    """
    weight_BTJ, expert_BTJ = lax.top_k(probability_BTE, per_token)
    if normalised:
        weight_BTJ /= weight_BTJ.sum(-1, keepdims=True)
    if cut:
        # Each device multiplies these by other kernels, so their gradients are summed.
        x_BTD, weight_BTJ = lax.pcast((x_BTD, weight_BTJ), cut, to="varying")
    options = dict(activation=activation, first=first)
    y_BTD = summed(x_BTD, expert_BTJ, weight_BTJ, kernels, **options)
    return lax.psum(y_BTD, cut) if cut else y_BTD, expert_BTJ


def summed(
    x_BTD, expert_BTJ, weight_BTJ, kernels: dict, *, activation: str, first=0
) -> jax.Array:
    """The weighted sum of the outputs of the chosen experts of each token, like x.

    Args:
      x_BTD: tokens.
      expert_BTJ, weight_BTJ: the experts that each goes through, and their weights.
      kernels: `up` and `down`, and `gate` of a gated activation, [E, ...]: of all
        experts, or of some consecutive ones. The others add nothing.
      activation: a name in `layers.ACTIVATIONS`.
      first: the number of the first of these experts.
    """
    B, T, D = x_BTD.shape
    J, E = expert_BTJ.shape[-1], kernels["up"].shape[0]
    # A row for each choice of each token, M = B T J; those of no expert here go last.
    expert_M = expert_BTJ.reshape(-1) - first
    expert_M = jnp.where((expert_M >= 0) & (expert_M < E), expert_M, E)
    order = jnp.argsort(expert_M)
    sizes_E = (expert_M[:, None] == jnp.arange(E)).sum(0, dtype=jnp.int32)
    # Rows of no run are undefined in a product: they are cleared here and below, where
    # the gradient passes in the other direction.
    here_M1 = (jnp.arange(B * T * J) < sizes_E.sum())[:, None]
    dot = lambda x_MX, name: ragged_dot(x_MX, kernels[name], sizes_E)
    x_MD = jnp.broadcast_to(x_BTD[:, :, None], (B, T, J, D)).reshape(-1, D)
    x_MD = jnp.where(here_M1, _permuted(x_MD, order, jnp.argsort(order)), 0)
    names = ("gate", "up") if layers.ACTIVATIONS[activation][1] else ("up",)
    h_MF = layers.activate(activation, *(dot(x_MD, name) for name in names))
    y_MD = jnp.where(here_M1, dot(h_MF, "down"), 0)
    y_BTJD = _permuted(y_MD, jnp.argsort(order), order).reshape(B, T, J, D)
    y_BTD = (y_BTJD * weight_BTJ[..., None].astype(jnp.float32)).sum(2)
    return y_BTD.astype(x_BTD.dtype)


def ragged_dot(
    x_MD: jax.Array, kernels_EDF: jax.Array, sizes_E: jax.Array
) -> jax.Array:
    """Runs of rows, each times a matrix of its own: [M, F], in the dtype of x.

    `lax.ragged_dot` on accelerators. On CPUs that would multiply all rows with all
    matrices and put zeros in between; there the runs are cut into blocks, each of rows
    of one matrix.

    Args:
      x_MD: the rows, in runs one after the other.
      kernels_EDF: a matrix for each run.
      sizes_E: int32, rows of each run, perhaps 0. Rows beyond the last run are
        undefined in the product.
    """
    if sharding.platform() == "cpu":
        return ragged_dot_in_blocks(x_MD, kernels_EDF, sizes_E)
    return lax.ragged_dot(x_MD, kernels_EDF, sizes_E)


def ragged_dot_in_blocks(
    x_MD, kernels_EDF, sizes_E, size: int | None = None
) -> jax.Array:
    """As `ragged_dot`: one batched product, with a copy of its matrix for each block.

    Blocks have `size` rows, by default half of a run's average, so that at most a third
    of the rows are padding.
    """
    M, E = len(x_MD), len(kernels_EDF)
    size = size or max(8, M // (2 * E))
    count = M // size + E  # each run may end with a block that is not full
    ends_E, last_E = jnp.cumsum(sizes_E), jnp.cumsum(-(-sizes_E // size))
    starts_E, first_E = ends_E - sizes_E, last_E - (-(-sizes_E // size))
    run_of = lambda n, ends: jnp.minimum((ends <= n[..., None]).sum(-1), E - 1)
    # Row m of run e lies in the blocks at m + shift.
    shift_E = first_E * size - starts_E
    run_C = run_of(jnp.arange(count), last_E)
    row_CR = jnp.arange(count * size).reshape(count, size) - shift_E[run_C][:, None]
    full_CR = row_CR < ends_E[run_C][:, None]
    row_CR = jnp.clip(row_CR, 0, M - 1)
    x_CRD = jnp.where(full_CR[..., None], x_MD[row_CR], 0)
    y_CRF = jnp.einsum("CRD,CDF->CRF", x_CRD, kernels_EDF[run_C])
    m = jnp.arange(M)
    return y_CRF.reshape(count * size, -1)[m + shift_E[run_of(m, ends_E)]]


@jax.custom_vjp
def _permuted(x_MD, order, inverse):
    """Rows in another order; the gradient gathers too, where it would scatter."""
    del inverse
    return x_MD[order]


_permuted.defvjp(
    lambda x_MD, order, inverse: (x_MD[order], inverse),
    lambda inverse, g_MD: (g_MD[inverse], None, None),
)


def _on_mesh(compute, B: int, E: int, F: int):
    """`compute` on each device, and the sum over devices; itself without a mesh.

    Left to the partitioner, sorting would gather the tokens of all devices, and so
    would choosing the likeliest experts of each.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return compute
    size = lambda axes: math.prod(mesh.shape[axis] for axis in axes)
    batch, experts, mlp = map(sharding.axes_of, ("batch", "experts", "expert_mlp"))
    # An axis that cuts the batch may store kernels in pieces, as FSDP does; to compute,
    # each device needs what its own tokens may choose.
    free = lambda axis: mesh.shape[axis] > 1 and axis not in batch
    experts = tuple(filter(free, experts))
    mlp = tuple(axis for axis in filter(free, mlp) if axis not in experts)
    for name, axes, count in (("experts", experts, E), ("expert_mlp", mlp, F)):
        if count % size(axes):
            raise errors.ConfigError(
                f"sharding_rules.{name}: {count} cannot be cut into {size(axes)} equal "
                f"parts, along {', '.join(axes)}; choose another mesh, or set this "
                "to None"
            )
    if B % size(batch):
        batch = ()
    rows = PartitionSpec(batch or None)
    inner = PartitionSpec(experts or None, None, mlp or None)
    outer = PartitionSpec(experts or None, mlp or None, None)

    def part(x_BTD, probability_BTE, kernels):
        local = kernels["up"].shape[0]
        first = lax.axis_index(experts) * local if experts else 0
        cut = (*experts, *mlp)
        return compute(x_BTD, probability_BTE, kernels, first=first, cut=cut)

    def spread(x_BTD, probability_BTE, kernels):
        specs = {name: outer if name == "down" else inner for name in kernels}
        run = jax.shard_map(part, in_specs=(rows, rows, specs), out_specs=(rows, rows))
        return run(x_BTD, probability_BTE, kernels)

    return spread
