# SPDX-License-Identifier: Apache-2.0
"""How a command ended, for the script or scheduler that started it.

Numbers up to 78 are those of sysexits.h where it has one that fits. A supervisor
starts the command again after `PREEMPTED`, `HANG` and death by a signal; the rest need
a person.
"""

DONE = 0
DATA = 65  # a source cannot be read, or holds what it should not
CHECKPOINT = 74  # a checkpoint cannot be written or read: disk full, all broken
PREEMPTED = 75  # asked to stop by SIGTERM; the last step is saved
HANG = 76  # no progress within the watchdog's limit; all stacks were written
NON_FINITE = 77  # the loss or a gradient was not finite; checkpoints are from before
CONFIG = 78  # the config, or the workdir it is to run in, was refused before any work
INTERRUPTED = 130  # asked to stop by SIGINT (Ctrl-C); the last step is saved
