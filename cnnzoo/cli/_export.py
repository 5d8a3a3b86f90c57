"""`cnnzoo export`: a model as one file."""

import click

from ._common import data_dir_option, skip_broken_option


@click.command()
@click.argument("model")
@click.argument("path")
@click.option("--format", default=None, help="torch_export, aoti or onnx.  [default: by PATH's ending]")
@click.option("--dtype", default="fp32", show_default=True, help="fp32 or bf16.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda: what a .pt2 file runs on.")
@click.option("--quantize", default=None, help="int8: 8-bit weights and activations, onnx only.")
@click.option("--preprocess/--no-preprocess", default=True, show_default=True, help="Take raw uint8 pixels.")
@data_dir_option
@skip_broken_option
def export(model: str, path: str, format: str | None, **options) -> None:
    """Write MODEL to the file PATH (.pt2 or .onnx). Preprocessing and labels are inside."""
    from .. import exporting

    click.echo(exporting.export(model, path, format, **options))


COMMANDS = (export,)
