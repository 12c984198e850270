# SPDX-License-Identifier: Apache-2.0
r"""SmolLM2-135M-Instruct fine-tuned on the dialogues that HH prefers; see README.md.

alignjax train --config=experiments/smollm2_hh/sft.py --workdir=runs/x \
    --config.init.run=runs/smollm2 --config.data.sources.hh.path=hh.jsonl

Hardware, time and result: README.md.
"""

from configs import base
from configs.sft import smollm2


def get_config():
    c = smollm2.get_config()
    c.data.sources = {}
    base.hh_pairs(c)  # of which fine-tuning reads what was chosen
    c.data.share_prompt = False
    c.data.long_documents = "skip"
    c.length = c.model.max_length = 384
    c.sample.every = None
    return c
