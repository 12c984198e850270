# SPDX-License-Identifier: Apache-2.0
"""Preference data collected from models."""
