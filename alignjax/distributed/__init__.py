# SPDX-License-Identifier: Apache-2.0
"""Devices, processes and their end: sharding, agreement, signals, the watchdog."""
