# SPDX-License-Identifier: Apache-2.0
"""What lies under checkpoints and Hugging Face folders.

atomic: files and folders that appear whole · json_files: bounded JSON · tensor_files:
safetensors, read by the slice · fingerprint: hashes of parameters · filenames: names
that may be used
"""
