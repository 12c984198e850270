# SPDX-License-Identifier: Apache-2.0
"""The parts of `tools/crosscheck_trl.py`: cases, the two sides, their table."""
