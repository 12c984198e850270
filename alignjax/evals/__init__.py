# SPDX-License-Identifier: Apache-2.0
"""Measures of finished models that need no embedded world."""
