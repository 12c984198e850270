# SPDX-License-Identifier: Apache-2.0
"""Dialogues as tokens: chat templates, what they mark, and their special tokens."""
