# SPDX-License-Identifier: Apache-2.0
"""`small.py` over JSON lines."""

import small


def get_config():
    c = small.get_config()
    c.data.sources.text = dict(kind="jsonl", path="", field="text", weight=1.0)
    return c
