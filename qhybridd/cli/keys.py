"""`qhybridd keygen`."""

from pathlib import Path

import click

from qhybridd.cli.site import site_of
from qhybridd.errors import OperatorError


@click.command()
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    help="Where to write it.  [default: `identity` of the configuration]",
)
@click.option("--force", is_flag=True, help="Overwrite an identity. Every peer then has to add the new one.")
@click.pass_context
def keygen(ctx: click.Context, out: Path | None, force: bool) -> None:
    """Make this gateway's identity: an Ed25519 and an ML-DSA-65 key in one file that only its owner can read.

    Prints the fingerprint. An identity that is already there is left alone.

    \b
    Examples:
      qhybridd keygen
      qhybridd keygen -o /etc/qhybridd/next.key     to roll over to
    """
    from qhybridd.crypto.identity import Identity
    from qhybridd.keyfiles import create_identity, replace_identity

    path = out or site_of(ctx).gateway().identity
    if not path.parent.is_dir():
        hint = f"Make it: install -d -m 0755 {path.parent}"
        raise OperatorError("file.missing", f"there is no directory {path.parent}", where=str(path), hint=hint)
    identity = Identity.generate()
    (replace_identity if force else create_identity)(path, identity)
    public = identity.public
    identity.wipe()
    click.echo(f"identity     {path}")
    click.echo(f"fingerprint  {public.short}")
    click.echo("\nNext: `qhybridd peer export` prints what the other gateway needs.")
