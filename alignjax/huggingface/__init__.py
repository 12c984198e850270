# SPDX-License-Identifier: Apache-2.0
"""Hugging Face folders: opened leaf by leaf, and written tensor by tensor.

A folder has config.json, weights in one or more safetensors files, and files of a
tokenizer. `models/<family>.py` says what its fields and tensors are called; here is how
they are found, checked, read and written. Neither torch nor transformers is needed, and
no code of a folder is ever run.
"""
