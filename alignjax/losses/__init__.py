# SPDX-License-Identifier: Apache-2.0
"""Losses: pure functions of arrays, one value per token or example, never reduced."""
