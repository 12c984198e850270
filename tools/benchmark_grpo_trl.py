# SPDX-License-Identifier: Apache-2.0
"""A step of TRL's GRPOTrainer, for `tools/benchmark_grpo.py`."""

from __future__ import annotations

import argparse
import tempfile

import datasets
import numpy as np
import torch
import trl

from alignjax.experiment import build
from alignjax.types import Params
from tools import benchmark_grpo, timing
from tools.crosscheck import texts, weights


class Step:
    """TRL's own trainer: it samples, scores and updates as in `train`.

    Args:
      experiment: of the other side, for its prompts and the shape of its model.
      params: of that model.
      args: of the benchmark.
    """

    def __init__(
        self, experiment: build.Experiment, params: Params, args: argparse.Namespace
    ):
        torch.set_num_threads(args.threads)
        self.folder = tempfile.TemporaryDirectory()
        c = experiment.model.config
        (end,) = map(int, np.flatnonzero(experiment.rollouts.sampler.stops_V))
        model = timing.in_transformers("llama", c)
        named = weights.to_transformers(params)
        tensors = {name: torch.tensor(x) for name, x in named.items()}
        missing, unexpected = model.load_state_dict(tensors, strict=False)
        if unexpected or set(missing) - {"lm_head.weight"}:  # which may be tied
            raise SystemExit(f"--run: no plain Llama: {missing or unexpected}")
        # From a folder, out of which the trainer takes its reference too.
        start = f"{self.folder.name}/start"
        model.save_pretrained(start)
        steps = 1 + args.steps
        prompts = experiment.rollouts.prompts.take(0, args.prompts * steps)
        rows = [{"prompt": texts.text(p.ids, end)} for p in prompts]
        count = args.prompts * args.samples
        options = trl.GRPOConfig(
            output_dir=self.folder.name,
            model_init_kwargs=dict(dtype="float32", attn_implementation="sdpa"),
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=count,
            num_generations=args.samples,
            max_completion_length=args.tokens,
            learning_rate=benchmark_grpo.RATE,
            beta=benchmark_grpo.BETA,
            loss_type="grpo",
            lr_scheduler_type="constant",
            max_steps=steps,
            shuffle_dataset=False,
            disable_tqdm=True,
            logging_strategy="no",
            save_strategy="no",
        )
        self.tokens = 0

        def length(completion_ids, **columns) -> list[float]:
            lengths = [len(ids) for ids in completion_ids]
            self.tokens = sum(lengths)
            return [-benchmark_grpo.PER_TOKEN * n for n in lengths]

        self.trainer = trl.GRPOTrainer(
            model=start,
            reward_funcs=length,
            args=options,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=texts.tokenizer(c.vocab_size, end),
        )
        self.trainer.create_optimizer()
        self.trainer.model.train()
        self.trainer.current_gradient_accumulation_steps = 1
        self.batches = iter(self.trainer.get_train_dataloader())

    def __call__(self) -> int:
        """One step, to its end; returns how many tokens the responses had."""
        trainer = self.trainer
        trainer.training_step(trainer.model, next(self.batches), None).item()
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        return self.tokens
