# SPDX-License-Identifier: Apache-2.0
"""Devices to compile for that are not here, on one host; of a TPU also on several."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from alignjax import errors
from alignjax.plan import cards

HOST = 8  # GPUs of one host at most
REMEDY = "pip install 'alignjax[plan]', on Python 3.12 or newer"
# The distributions of the compiler for CUDA, and of the libraries that it asks.
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
CUDNN = ("nvidia-cudnn-cu12", "nvidia-cudnn-cu13")

# GpuTargetConfigProto, as text.
TARGET = """gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared}
  shared_memory_per_block_optin: {optin}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  memory_bandwidth: {bandwidth}
  l2_cache_size: {gpu.l2}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {card.memory}
  cuda_compute_capability {{
    major: {gpu.capability[0]}
    minor: {gpu.capability[1]}
    feature_extension: {features}
  }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  driver_version: "{cuda}"
  runtime_version: "{cuda}"
  compile_time_toolkit_version: "{cuda}"
  dnn_version: "{dnn}"
}}
platform_name: "CUDA"
dnn_version_info {{ major: {dnn_parts[0]} minor: {dnn_parts[1]} patch: {dnn_parts[2]} }}
device_description_str: "{card.kind}"
"""


class Topology(NamedTuple):
    """Devices of one card, and what their compiler is told besides."""

    name: str
    card: cards.Card
    devices: list[Any]
    options: dict[str, Any]


def find(name: str) -> Topology:
    """The devices that a name such as `h200`, `h100:8` or `v5e:4` stands for.

    A card alone is the fewest that there are together.

    Raises:
      ConfigError: an unknown card, a number that no host has, or no compiler for it.
    """
    card_name, _, count = name.partition(":")
    card = cards.find(card_name)
    counts = list(card.slices or range(1, HOST + 1))
    count = count or str(counts[0])
    if count not in map(str, counts):
        listed = ", ".join(map(str, counts))
        raise errors.ConfigError(
            f"topology: {name!r}: {card_name} comes in numbers of {listed}"
        )
    make = _tpus if card.gpu is None else _gpus
    return make(name, card, int(count))


def _gpus(name: str, card: cards.Card, count: int) -> Topology:
    plugin, dnn = _version(PLUGINS), _version(CUDNN)
    if None in (plugin, dnn):
        raise errors.ConfigError(
            f"topology: {name!r} needs the compiler for CUDA, {PLUGINS[0]} and "
            f"{CUDNN[0]}, which are not installed; {REMEDY}"
        )
    parts = (dnn.split(".") + ["0", "0"])[:3]
    text = TARGET.format(
        card=card,
        gpu=card.gpu,
        optin=card.gpu.shared - 1024,
        bandwidth=int(card.bandwidth),
        features="ACCELERATED_FEATURES" if card.gpu.capability >= (9, 0) else "NONE",
        cuda="12.9.0",
        dnn=".".join(parts),
        dnn_parts=parts,
    )
    shape = dict(target_config=text, topology=f"1x1x{count}")
    # There is nothing here to try kernels on.
    options = {"xla_gpu_autotune_level": 0}
    return Topology(name, card, _devices(name, "cuda", **shape), options)


def _tpus(name: str, card: cards.Card, count: int) -> Topology:
    if importlib.util.find_spec("libtpu") is None:
        raise errors.ConfigError(
            f"topology: {name!r} needs the compiler for TPUs, libtpu, which is not "
            "installed; pip install 'alignjax[tpu]'"
        )
    # No chip is opened: ask no host of a cloud, and let others plan meanwhile.
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    quiet |= {"TPU_ACCELERATOR_TYPE": f"v5litepod-{count}"}  # any, or it complains
    quiet |= {"TPU_WORKER_HOSTNAMES": "localhost"}
    for variable, value in quiet.items():
        os.environ.setdefault(variable, value)
    shape = f"{name.partition(':')[0]}:{card.slices[count]}"
    part = (count, 1, 1) if count < 4 else None  # of a host
    options = dict(chips_per_host_bounds=part, chip_config_name=card.chip)
    return Topology(name, card, _devices(name, "tpu", shape, **options), {})


def _devices(name: str, platform: str, *arguments, **options) -> list[Any]:
    options = {key: value for key, value in options.items() if value is not None}
    try:
        described = topologies.get_topology_desc(
            *arguments, platform=platform, **options
        )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise errors.ConfigError(
            f"topology: {name!r}: the compiler of jax {jax.__version__} cannot start: "
            f"{' '.join(str(error).split()):.300}; its packages must be of one version"
        ) from error
    return list(described.devices)


def _version(distributions) -> str | None:
    """The version of the first of these that is installed."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
