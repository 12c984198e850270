# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders: opened leaf by leaf, and written tensor by tensor.

A folder has config.json, weights in one or more safetensors files, and files of a
tokenizer. `models/families/` has the keys and the names of tensors of each family; this
room reads, checks and writes them. Neither torch nor transformers is needed, and no
code of a folder is ever run.
"""
