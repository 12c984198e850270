# SPDX-License-Identifier: Apache-2.0
"""How tests are compiled: they compile far more than they compute."""

import importlib.metadata


def flags(devices: int) -> str:
    """XLA's flags for as many virtual CPU devices, which halve compilation twice."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    flags += " --xla_backend_optimization_level=0"
    # Devices that wait for each other: 40 seconds end the process on a busy machine.
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    if int(importlib.metadata.version("jaxlib").split(".")[1]) < 11:
        # Later compilers refuse it: they have no other way to write a fused kernel.
        flags += " --xla_cpu_use_fusion_emitters=false"
    return flags
