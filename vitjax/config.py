"""How a config file is written and read, so that a misspelt key can never pass unnoticed.

A config file has `get_config(arg)`: `arg` is what follows the colon in `--config FILE:arg`.
Sections of the config are a name plus the keyword arguments of the function of that name; `call`
hands them over and names every key the function does not take. So a key is either an argument of
something, or an error.
"""

import contextlib
import dataclasses
import importlib.util
import inspect
import os
import re
import types
from collections.abc import Callable, Mapping
from typing import Any

from vitjax.lookup import lookup, nearest

DURATIONS = ("steps", "epochs", "examples")


class ConfigError(ValueError):
    """One line for the user: what was given, what was expected, which key to change."""


def parse_arg(arg: str, args: type) -> Any:
    """Parse `variant=L/16,res=384,smoke` into the frozen dataclass `args`.

    A name alone sets a bool to True. Raises ConfigError for unknown names and for values that the
    field's type (bool, int, float or str) does not take.
    """
    fields = {field.name: field.type for field in dataclasses.fields(args)}
    values = {}
    for part in filter(None, (arg or "").split(",")):
        name, equals, text = part.partition("=")
        if name not in fields:
            raise ConfigError(f"config argument {name!r} is unknown; {nearest(name, fields)}")
        kind = fields[name]
        if not equals:
            if kind is not bool:
                raise ConfigError(f"config argument {name!r} needs a value: {name}=...")
            values[name] = True
            continue
        try:
            values[name] = _BOOLS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise ConfigError(
                f"config argument {name}={text!r} is not of type {kind.__name__}"
            ) from None
    return args(**values)


def load(path: str) -> dict:
    """FILE[:ARGS] as for --config -> the config as a plain dict. Raises ConfigError."""
    module, arg = open_file(path)
    return module.get_config(arg).to_dict()


def open_file(path: str) -> tuple[types.ModuleType, str]:
    """FILE[:ARGS] -> (the module of the file, ARGS). Raises ConfigError."""
    file, _, arg = path.partition(":")
    spec = importlib.util.spec_from_file_location("vitjax_config", file)
    if spec is None or not os.path.isfile(file):
        raise ConfigError(f"--config={path!r}: there is no Python file {file}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, arg


_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@contextlib.contextmanager
def one_line():
    """Values of the wrong kind fail deep inside libraries, in their words: make it one line."""
    try:
        yield
    except (TypeError, ArithmeticError, LookupError, AttributeError, re.error) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"a value in the config is of the wrong kind: {type(error).__name__}: {reason} "
            "(--traceback shows where)"
        ) from error


def check(function: Callable, section: Mapping, path: str, given=(), beyond=None) -> None:
    """Raise ConfigError, naming the key, where `section` has a key that the function does not take
    or lacks one that it needs.

    path: where the section stands in the config, for messages ("" for the config itself).
    given: arguments that come from the program and may not be set in the config.
    beyond: the function to which `function` hands its own **keywords.
    """
    parameters = {} if beyond is None else dict(inspect.signature(beyond).parameters)
    parameters |= inspect.signature(function).parameters
    takes = [
        name
        for name, parameter in parameters.items()
        if name not in given and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    dotted = f"{path}." if path else ""
    for key in section:
        if key not in takes:
            raise ConfigError(f"config key {dotted}{key} is unknown; {nearest(key, takes)}")
    for name in takes:
        if parameters[name].default is inspect.Parameter.empty and name not in section:
            raise ConfigError(f"config key {dotted}{name} is missing")


def settings_of(function: Callable, section: Mapping) -> dict[str, Any]:
    """A section with the defaults of a function for what it leaves out."""
    parameters = inspect.signature(function).parameters
    empty = inspect.Parameter.empty
    defaults = {name: p.default for name, p in parameters.items() if p.default is not empty}
    return defaults | dict(section)


def call(function: Callable, section: Mapping, path: str, **given):
    """Call `function(**section, **given)` after `check`."""
    check(function, section, path, given)
    return function(**section, **given)


def named(table: Mapping[str, Callable], section: Mapping, path: str) -> Callable:
    """The function of `table` that the section's `name` says."""
    if "name" not in section:
        raise ConfigError(f"config key {path}.name is missing; {nearest('', table)}")
    return lookup(table, section["name"], f"config key {path}.name")


def call_named(table: Mapping[str, Callable], section: Mapping, path: str, **given):
    """Call the function of `table` that the section names, with the section's other keys."""
    function = named(table, section, path)
    settings = {key: value for key, value in section.items() if key != "name"}
    return call(function, settings, path, **given)


def steps_of(section: Mapping, prefix: str, path: str, *, batch_size: int, examples: int):
    """Take the duration `<prefix>steps|epochs|examples` out of a section.

    prefix: "" for the length of a run, "every_" or "warmup_" for others.
    batch_size, examples: images per step and per epoch.
    Returns (whole steps, at least 1 unless the duration is 0, or None where none is given; the
    other keys).
    """
    rest = dict(section)
    found = [(unit, rest.pop(prefix + unit)) for unit in DURATIONS if prefix + unit in rest]
    found = [(unit, value) for unit, value in found if value is not None]
    if len(found) > 1:
        keys = " and ".join(f"{path}{prefix}{unit}" for unit, _ in found)
        raise ConfigError(f"config keys {keys} are both set: give one of them, the other as 0")
    if not found:
        return None, rest
    unit, value = found[0]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ConfigError(f"config key {path}{prefix}{unit}={value!r} is not a number of {unit}")
    count = {
        "steps": value,
        "epochs": value * examples / batch_size,
        "examples": value / batch_size,
    }
    return (max(1, round(count[unit])) if value else 0), rest


def smoke(c, **encoder) -> None:
    """Shrink a config to seconds on a laptop: three steps of a tiny network on the digits.

    encoder: settings that make this config's encoder tiny. The rest stays as the config has it:
    what runs is still that recipe, its objective, views, optimizer and evaluators.
    """
    c.encoder.update(encoder)
    for unit in set(DURATIONS) & set(c):
        del c[unit]
    c.steps, c.batch_size, c.accumulate = 3, 16, 1
    c.data = dict(name="digits", fraction=0.1)
    c.input = dict(canvas=8)
    if "classes" in c.objective:
        c.objective.classes = 10
    c.optimizer.schedule = dict(name=c.optimizer.schedule.name, warmup_steps=1)
    c.evaluate = dict(train_examples=100)
    if "linear" in c.evaluators:
        c.evaluators.linear = dict(steps=5, batch_size=16)
    c.checkpoint = dict(keep=1)
    c.log = dict(every_steps=1)


def flatten(tree: Mapping, path: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat = {}
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        flat.update(flatten(value, name) if isinstance(value, Mapping) else {name: value})
    return flat
