# SPDX-License-Identifier: Apache-2.0
"""Trained models measured on the embedded world, whose true reward is known.

alignjax assess --run=sft=runs/sft --out=FILE.json

__main__         runs, one after the other, into the file
benchmarks       the prompts, documents and pairs, the same for every model
run_models       a run opened as a model: its chat format, its responses
language_model   all figures of a model that generates text, and their changes
reward_model     all figures of a model that scores it
answers          the answers as rows, a file a run
results          the file of all figures
prose            the figures of a run in a few sentences
"""
