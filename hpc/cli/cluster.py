"""`gradenc cluster`: a real SLURM on this machine, for development and for trying a profile."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hpc.cli.errors import Command

_Folder = Annotated[Path, typer.Argument(help="The cluster's folder.")]
_Node = Annotated[str, typer.Argument(help="The name of a node: n1, n2, …")]

app = typer.Typer(no_args_is_help=True, help="A real SLURM on this machine, for development.")


@app.command(cls=Command)
def up(
    folder: _Folder,
    nodes: Annotated[int, typer.Option(min=1, max=32, help="Number of nodes.")] = 4,
    gpus: Annotated[
        int, typer.Option(min=0, help="GPUs per node; they are counted, but do not exist.")
    ] = 2,
    accounting: Annotated[
        bool, typer.Option(help="Run slurmdbd and MariaDB, so that sacct works.")
    ] = True,
    cgroups: Annotated[
        bool, typer.Option(help="Limit memory by control groups, if this machine has them.")
    ] = True,
) -> None:
    """Start a cluster, wait until all nodes are idle, and print the setting that SLURM needs.

    Example: `eval "$(gradenc cluster up /tmp/cluster)"`
    """
    from hpc.devcluster.cluster import running_cluster, start_cluster

    running = running_cluster(folder)
    if running:
        typer.echo(f"the cluster in {folder} is up already, with {running.nodes} nodes", err=True)
    cluster = running or start_cluster(
        folder, nodes=nodes, gpus=gpus, accounting=accounting, cgroups=cgroups
    )
    typer.echo(f"export SLURM_CONF={shlex.quote(str(cluster.conf))}")


@app.command(cls=Command)
def down(folder: _Folder) -> None:
    """Stop the cluster with all its jobs; the logs stay in its folder.

    Example: `gradenc cluster down /tmp/cluster`
    """
    from hpc.devcluster.cluster import open_cluster

    open_cluster(folder).down()


@app.command(cls=Command)
def fail_node(folder: _Folder, node: _Node) -> None:
    """Switch a node off as a power cut does, with all its processes.

    Example: `gradenc cluster fail-node /tmp/cluster n2`
    """
    from hpc.devcluster.cluster import open_cluster

    open_cluster(folder).fail_node(node)


@app.command(cls=Command)
def start_node(folder: _Folder, node: _Node) -> None:
    """Switch a node on again.

    Example: `gradenc cluster start-node /tmp/cluster n2`
    """
    from hpc.devcluster.cluster import open_cluster

    open_cluster(folder).start_node(node)
