"""The `cnnzoo` command: parses arguments, prints results, and nothing else.

Exit codes: 0 good, 1 failed (one line says why), 2 wrong use, 130 stopped by Ctrl-C, 143 stopped by SIGTERM.
"""

import click

from ..version import __version__
from . import _app, _bench, _export, _hub, _models, _plot, _train
from ._common import Group

TASKS = {
    "Use": ("app", "demo", "list", "info", "summary", "predict", "export"),
    "Train": ("train", "ask", "reproduce", "build"),
    "Share": ("verify", "push", "pull", "publish", "twin"),
    "Measure": ("eval", "measure", "plot", "bench"),
}


class Tasks(Group):
    """Lists the commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        room = formatter.width - 6 - max(map(len, self.commands))
        placed = {name for names in TASKS.values() for name in names}
        for task, names in {**TASKS, "More": tuple(sorted(set(self.commands) - placed))}.items():
            rows = [(n, self.commands[n].get_short_help_str(room)) for n in names if n in self.commands]
            if rows:
                with formatter.section(task):
                    formatter.write_dl(rows)


@click.group(cls=Tasks, context_settings=dict(help_option_names=["-h", "--help"]))
@click.version_option(__version__, prog_name="cnnzoo")
def main() -> None:
    """The classic CNNs for small grayscale images, pretrained on Fashion-MNIST."""


for _module in (_models, _train, _hub, _plot, _bench, _export, _app):
    for _command in _module.COMMANDS:
        main.add_command(_command)
