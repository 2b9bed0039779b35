"""The type of GPU that SLURM's configuration gives a node, where no driver can be asked."""

import re

from hpc.slurm.client import run


def type_on_node(node: str) -> str:
    """Return the type of the node's GPUs as configured, ``unknown`` where it names none."""
    shown = run("scontrol", "show", "node", node)
    found = re.search(r"Gres=\S*gpu:([A-Za-z][^:,\s(]*):\d", shown)
    return found[1] if found else "unknown"
