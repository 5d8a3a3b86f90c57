"""The `cnnzoo` command: parses arguments, prints results, and nothing else.

Exit codes: 0 good, 1 failed (one line says why), 2 wrong use, 130 stopped by Ctrl-C, 143 stopped by SIGTERM.
"""

import click

from ..version import __version__
from . import _bench, _export, _hub, _models, _plot, _train
from ._common import Group


@click.group(cls=Group, context_settings=dict(help_option_names=["-h", "--help"]))
@click.version_option(__version__, prog_name="cnnzoo")
def main() -> None:
    """The classic CNNs for small grayscale images, pretrained on Fashion-MNIST."""


for _module in (_models, _train, _hub, _plot, _bench, _export):
    for _command in _module.COMMANDS:
        main.add_command(_command)
