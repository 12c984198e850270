# SPDX-License-Identifier: Apache-2.0
"""The train step, its optimizer and state, and the loop over steps."""
