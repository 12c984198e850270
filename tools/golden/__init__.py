# SPDX-License-Identifier: Apache-2.0
"""What `tools/make_golden_huggingface.py` makes tiny checkpoints of, and how."""
