# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or absent, read by the slice and verified."""
