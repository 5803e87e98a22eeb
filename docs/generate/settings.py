"""The settings, from where they are declared."""

from __future__ import annotations

from docs.generate.markdown import code, table, words
from fastws.configuration import ENV_ALIASES
from fastws.settings import SETTINGS
from fastws.settings_catalog import Setting


def settings() -> str:
    """Every setting, in the order of its declaration."""
    return table(("setting", "default", "what"), map(_row, SETTINGS.values()))


def aliases() -> str:
    """The variables that stand for settings under other names."""
    rows = ([code(variable), code(name)] for variable, name in ENV_ALIASES.items())
    return table(("variable", "setting"), rows)


def _row(setting: Setting) -> list[str]:
    notes = [words(setting.expects)]
    if setting.is_secret:
        notes.append("secret: never shown")
    if setting.needs_restart:
        notes.append("**restart**")
    return [
        f'<span id="{setting.name}">`{setting.name}`</span>',
        words(setting.default_text),
        f"{words(setting.description)}<br><small>{' · '.join(notes)}</small>",
    ]
