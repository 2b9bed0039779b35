"""`gradenc cluster`: a real SLURM on this machine, to develop against and to try things out."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hpc.cli.errors import Command

Folder = Annotated[Path, typer.Argument(help="The cluster's folder.")]
Node = Annotated[str, typer.Argument(help="A node's name: n1, n2, …")]

app = typer.Typer(no_args_is_help=True, help="A real SLURM on this machine, for development.")


@app.command(cls=Command)
def up(
    folder: Folder,
    nodes: Annotated[int, typer.Option(min=1, max=32, help="Nodes.")] = 4,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of each node; none is there.")] = 2,
    accounting: Annotated[
        bool, typer.Option(help="With slurmdbd and MariaDB, so that sacct works.")
    ] = True,
    cgroups: Annotated[
        bool, typer.Option(help="Memory limits by control groups, where this machine has them.")
    ] = True,
) -> None:
    """Start a cluster, wait until all its nodes are idle, and print what points SLURM at it.

    Example: `eval "$(gradenc cluster up /tmp/cluster)"`
    """
    from hpc.devcluster.cluster import running_cluster, start_cluster

    running = running_cluster(folder)
    if running:
        typer.echo(f"{folder}: is up already, with {running.nodes} nodes", err=True)
    cluster = running or start_cluster(
        folder, nodes=nodes, gpus=gpus, accounting=accounting, cgroups=cgroups
    )
    typer.echo(f"export SLURM_CONF={shlex.quote(str(cluster.conf))}")


@app.command(cls=Command)
def down(folder: Folder) -> None:
    """Stop the cluster with all its jobs; logs stay in its folder."""
    from hpc.devcluster.cluster import open_cluster

    open_cluster(folder).down()


@app.command(cls=Command)
def fail_node(folder: Folder, node: Node) -> None:
    """Switch a node off as a power cut does, with all that runs there."""
    from hpc.devcluster.cluster import open_cluster

    open_cluster(folder).fail_node(node)


@app.command(cls=Command)
def start_node(folder: Folder, node: Node) -> None:
    """Switch a node on again."""
    from hpc.devcluster.cluster import open_cluster

    open_cluster(folder).start_node(node)
