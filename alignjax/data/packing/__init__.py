# SPDX-License-Identifier: Apache-2.0
"""Documents and groups of responses laid out in rows of equal length."""
