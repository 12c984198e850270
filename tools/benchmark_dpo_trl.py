# SPDX-License-Identifier: Apache-2.0
"""A step of TRL's DPOTrainer, for `tools/benchmark_dpo.py --trl`."""

from __future__ import annotations

import argparse
import tempfile

import datasets
import torch
import trl

from alignjax.models import decoder_config
from tools import timing
from tools.crosscheck import texts


class Step:
    """TRL's own trainer, collator and loss, and AdamW as its trainer makes it.

    Args:
      c: the shape of the model.
      documents: `(prompt, chosen, rejected)` each, token ids.
      stored: whether the reference's log-probabilities are computed before.
      args: of the benchmark.
    """

    def __init__(
        self,
        c: decoder_config.DecoderConfig,
        documents: list[tuple],
        stored: bool,
        args: argparse.Namespace,
    ):
        self.folder = tempfile.TemporaryDirectory()
        end = documents[0][1][-1]
        family = args.model.split("/")[0]
        names = ("prompt", "chosen", "rejected")
        rows = [
            {n: texts.text(ids, end) for n, ids in zip(names, parts, strict=True)}
            for parts in documents
        ]
        cuda = torch.cuda.is_available()
        config = trl.DPOConfig(
            output_dir=self.folder.name,
            report_to="none",
            use_cpu=not cuda,
            bf16=args.dtype == "bfloat16",
            gradient_checkpointing=args.checkpointing,
            per_device_train_batch_size=len(documents) // args.microbatches,
            max_length=None,
            precompute_ref_log_probs=stored,
            learning_rate=1e-6,
            disable_tqdm=True,
            beta=0.1,
        )
        self.trainer = trl.DPOTrainer(
            model=timing.in_transformers(family, c, 0),
            ref_model=timing.in_transformers(family, c, 1),
            args=config,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=texts.tokenizer(c.vocab_size, end),
        )
        self.trainer.create_optimizer()
        rows = [self.trainer.train_dataset[i] for i in range(len(documents))]
        parts = [rows[i :: args.microbatches] for i in range(args.microbatches)]
        self.batches = [self.trainer.data_collator(part) for part in parts]
        self.trainer.model.train()

    def __call__(self) -> float:
        """One step; returns the loss, so it waits."""
        trainer, total = self.trainer, 0.0
        trainer.current_gradient_accumulation_steps = len(self.batches)
        for batch in self.batches:
            total += trainer.training_step(trainer.model, dict(batch)).item()
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return total
