# SPDX-License-Identifier: Apache-2.0
"""`python -m alignjax COMMAND` is the command `alignjax`."""

import sys

from alignjax import cli

if __name__ == "__main__":
    sys.exit(cli.main())
