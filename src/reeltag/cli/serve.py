"""`reeltag serve`: tagging over HTTP, and a web page."""

from __future__ import annotations

from typing import Annotated

import typer

from reeltag.cli.console import Device


def serve(
    model: Annotated[str, typer.Argument(help="A run folder, a bundle, or an ensemble of them.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = 8000,
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="Videos tagged at once; one a core, at most 4, when not given.")
    ] = None,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait beside those; the next gets 503.")] = 16,
    max_mib: Annotated[int, typer.Option(min=1, help="Largest upload in MiB; a larger one gets 413.")] = 512,
    checkpoint: Annotated[str, typer.Option(help="Which weights of a run: last or best.")] = "last",
    extractor: Annotated[
        str | None, typer.Option(help="For a model on features: where the model that makes them lies now.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No line for each request on standard error.")] = False,
    device: Device = "auto",
) -> None:
    """Serve a model over HTTP: a page at /, POST /tag for programs; Ctrl-C ends it.

    There is no password and no encryption: other machines are to come through a proxy that has both (docs/serve.md).

    Example: reeltag serve runs/first --port 8000
    """
    from pathlib import Path

    from reeltag.serve import require_extra

    require_extra()
    from reeltag.serve import server
    from reeltag.serve.service import ServiceLimits, load_tagger

    bound = server.listen(host, port)  # before the model is loaded, which takes longer
    try:
        tagger = load_tagger(model, device=device, checkpoint=checkpoint, extractor=extractor)
    except BaseException:
        bound.close()
        raise
    if server.is_open(bound):
        typer.echo("other machines may reach this address, and nothing asks for a password (docs/serve.md)", err=True)
    path = Path(model).resolve()
    name = f"{path.parent.name}/{path.name}" if path.name.startswith("seed") else path.name.removesuffix(".json")
    server.serve(
        tagger,
        name=name,
        bound=bound,
        limits=ServiceLimits(workers=workers, queue=queue, max_mib=max_mib),
        listening=lambda url: print(f"{name} is served on {url} (Ctrl-C ends it)", flush=True),
        log_requests=not quiet,
    )
