"""`flask delay config`."""

from collections.abc import Iterator
from textwrap import fill

import click

from flask_delay import config
from flask_delay.commands.target import Target
from flask_delay.config import Setting
from flask_delay.masking import masked

_WIDTH = 88


def show(target: Target, *, explain: bool) -> None:
    """Print all settings, and config keys of the app that have no effect."""
    click.echo(f"{target}\n")
    rows = [("key", "value", "from")]
    texts = [""]
    for setting in config.settings(target.prefix, target.kind):
        rows.append((setting.key, _shown(setting.value(target.settings)), _source(target, setting)))
        texts.append(
            "\n".join([_indent(setting.help), _indent(f"Allowed: {setting.allowed}."), ""])
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, text in zip(rows, texts, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())
        if explain and text:
            click.echo(text)
    found = list(problems(target))
    if found and not explain:
        click.echo()
    for problem in found:
        click.echo(problem)


def problems(target: Target) -> Iterator[str]:
    """Config keys of the app without effect, as sentences without a full stop."""
    for key, hint in config.unknown(target.app.config, target.prefix, target.kind):
        yield f"{key} is no setting: {hint}"
    for setting in config.settings(target.prefix, target.kind):
        if not _is_in_effect(target, setting):
            now, used = target.app.config.get(setting.key), setting.value(target.settings)
            yield (
                f"{setting.key} is {_shown(now)} in app.config now, but init_app found"
                f" {_shown(used)}: set it before init_app"
            )


def _shown(value: object) -> str:
    return masked(repr(value))


def _indent(text: str) -> str:
    return fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")


def _source(target: Target, setting: Setting) -> str:
    if _is_in_effect(target, setting):
        return "app.config" if setting.key in target.app.config else "default"
    used = setting.value(target.settings)
    return "default" if used == setting.default else "app.config, earlier"


def _is_in_effect(target: Target, setting: Setting) -> bool:
    """Whether the app's config still has the value that `init_app` found."""
    now = target.app.config.get(setting.key, setting.default)
    try:
        loaded = config.load({setting.key: now}, target.prefix, target.kind)
    except ValueError:
        return False
    return setting.value(loaded) == setting.value(target.settings)
