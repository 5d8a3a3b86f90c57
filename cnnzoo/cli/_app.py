"""`cnnzoo app`: a page in the browser."""

import click

_HOST, _PORT = "127.0.0.1", 7860


@click.command()
@click.option("--model", help="What to begin with, say runs/mine.  [default: resnext_small]")
@click.option("--host", default=_HOST, show_default=True, help="Where to listen; 0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(1, 65535), default=_PORT, show_default=True, help="The port of the page.")
@click.option("--space", metavar="FOLDER", help="Serve nothing; write the page as a Hugging Face Space into a new FOLDER.")
def app(model: str | None, host: str, port: int, space: str | None) -> None:
    """Show a page that names what a picture, a photo or a sketch shows (needs the extra app); Ctrl-C ends it."""
    from .. import app as pages

    if space is not None:
        click.echo(pages.write_space(space, model))
        return
    pages.launch(model, host, port, lambda url: click.echo(f"The page is at {url} until Ctrl-C."))


COMMANDS = (app,)
