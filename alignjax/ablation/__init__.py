# SPDX-License-Identifier: Apache-2.0
"""Sweeps over losses and other fields of a config, and what may be claimed of them."""
