"""Command-line options read off the declaration of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from webbkg.params import Field, Params

__all__ = ["GreedyCommand", "params_from", "params_options"]


_P = TypeVar("_P", bound=Params)


class GreedyCommand(click.Command):
    """A command whose options in `greedy` take all values up to the next option."""

    greedy: tuple[str, ...] = ("--bkg",)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat a greedy option before each of its values, which click understands."""
        expanded: list[str] = []
        current: str | None = None
        for position, word in enumerate(args):
            if word == "--":
                expanded += args[position:]
                break
            if word in self.greedy:
                current = word
                following = args[position + 1 : position + 2]
                if not following or following[0].startswith("-"):
                    raise click.UsageError(f"Option '{word}' requires at least one file.", ctx)
            elif word.startswith("-") and word != "-":
                current = next((name for name in self.greedy if word.startswith(f"{name}=")), None)
                expanded.append(word)
            elif current is not None:
                expanded += [current, word]
            else:
                expanded.append(word)
        return super().parse_args(ctx, expanded)


def params_options(params_class: type[Params]) -> list[click.Parameter]:
    """
    Make an option of each parameter, and those that concern all of them.

    Parameters
    ----------
    params_class : type
        Parameter class.

    Returns
    -------
    list of click.Parameter
        Options whose value is None where the user gave none; ``--preset``, ``--config`` and
        ``--dump-config`` come with them.
    """
    options: list[click.Parameter] = [_option(item) for item in params_class.fields()]
    if params_class.presets:
        options.append(
            click.Option(
                ["--preset"],
                type=click.Choice(sorted(params_class.presets)),
                help="Named set of values that replace defaults.",
            )
        )
    options.append(
        click.Option(
            ["--config"],
            type=click.Path(dir_okay=False, path_type=Path),
            help=f"TOML file with a table [{params_class.table}]; options go over it.",
        )
    )
    options.append(
        click.Option(
            ["--dump-config"],
            is_flag=True,
            help="Print the parameters as such a file, and stop.",
        )
    )
    return options


def params_from(params_class: type[_P], given: Mapping[str, Any]) -> _P:
    """
    Make parameters of the values click has parsed.

    Parameters
    ----------
    params_class : type
        Parameter class.
    given : mapping
        Values by name, None where the user gave none.

    Returns
    -------
    Params
        Valid parameters.
    """
    names: Iterable[str] = (item.name for item in params_class.fields())
    return params_class.build(
        preset=given.get("preset"),
        config=given.get("config"),
        overrides={name: given[name] for name in names if given.get(name) is not None},
    )


def _option(item: Field) -> click.Option:
    default = "none" if item.default is None else item.default
    notes = [f"in {item.unit}"] if item.unit else []
    if item.kind is bool:
        return click.Option(
            [f"{item.option}/--no-{item.name.replace('_', '-')}"], default=None, help=item.doc
        )
    notes += [item.limits] if item.limits and not item.choices else []
    notes.append(f"default {default}")
    return click.Option(
        [item.option],
        type=click.Choice(item.choices) if item.choices else item.kind,
        help=f"{item.doc} [{'; '.join(notes)}]",
    )
