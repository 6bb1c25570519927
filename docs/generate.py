"""The generated reference pages: the sweep file (from its schema) and the command line (its help).

mkdocs-gen-files runs this while the site is built; nothing is written into docs/.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mkdocs_gen_files
import typer
from typer.core import TyperArgument

from foldrace.cli.app import app
from foldrace.search.spec.sweep_spec import json_schema

Schema = Mapping[str, Any]

FOLDER = Path(__file__).parent / "examples"
EXAMPLES = {
    "classifier": "The folds are stratified; an exported model computes `predict`.",
    "regression": "`prepare` sees the training part of its fold alone: nothing of the validation"
    " part leaks into it. What it returns is kept in checkpoints and beside the weights.",
    "sequences": "`tokens_length` holds the lengths.",
    "denoising": "What `augment` draws from its generator is the same every time.",
    "patients": "With `groups` no patient is on both sides of a split, nor in both parts.",
    "demand": "Folds in time, a day apart, and a metric of the task's own. The last tenth is the"
    " test part.",
    "resnet": "`optimizers` returns parameter groups and a schedule; `clip_norm` comes from the"
    " space.",
}
"""What else each example shows."""


def sweep_file() -> Iterator[str]:
    """The page on the sweep file: every key with its type, default and meaning."""
    schema = json_schema()
    definitions = schema["$defs"]
    yield "# Sweep file\n"
    yield "A sweep file is YAML. Unknown keys are refused. `foldrace schema` prints the JSON"
    yield "schema that this page is made of; editors complete and check with it.\n"
    yield "## Top level\n"
    yield from _keys(schema, definitions)
    for name, section in schema["properties"].items():
        definition = _section(section, definitions)
        if definition is not None:
            yield f"\n## {name}\n"
            yield f"{definition.get('description', '')}\n"
            yield from _keys(definition, definitions)
    yield "\n## Distributions\n"
    yield "What may stand behind a parameter's name in `space`:\n"
    for name in ("Choice", "Uniform", "Log", "Int", "LogInt", "Fixed"):
        definition = definitions[name]
        key = definition.get("required", [name.lower()])[0]
        yield f"\n### {key}\n"
        yield f"{definition.get('description', '')}\n"
        yield from _keys(definition, definitions)


def examples() -> Iterator[str]:
    """The page of the examples: what each shows, its task and its sweep file."""
    yield "# Examples\n"
    yield "Each is one file and a sweep file in `docs/examples`. `foldrace sweep` runs it; only"
    yield "`classifier` downloads its data.\n"
    for name, says in EXAMPLES.items():
        code = (FOLDER / f"{name}.py").read_text()
        about = ast.get_docstring(ast.parse(code)) or ""
        body = code.partition('"""\n\n')[2]
        yield f"## {name.capitalize()}\n"
        yield f"{about} {says}\n"
        yield f"```python\n{body}```\n"
        yield f"```yaml\n{(FOLDER / f'{name}.yaml').read_text()}```\n"


def _section(schema: Schema, definitions: Mapping[str, Schema]) -> Schema | None:
    """The mapping that a key holds; None for a plain value."""
    for option in (schema, *schema.get("anyOf", ())):
        reference = option.get("$ref", "").removeprefix("#/$defs/")
        if reference and "properties" in definitions[reference]:
            return definitions[reference]
    return None


def _keys(schema: Schema, definitions: Mapping[str, Schema]) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, key in schema["properties"].items():
        required = name in schema.get("required", ())
        default = "required" if required else _shown(key.get("default"))
        meaning = _cell(key.get("description", ""))
        yield f"| `{name}` | {_type(key, definitions)} | {default} | {meaning} |"


def _type(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{_inline(value)}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{_inline(schema['const'])}`"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(option, definitions) for option in schema["anyOf"]))
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        inner = definitions[name]
        return "mapping" if "properties" in inner else _type(inner, definitions)
    kind = schema.get("type", "value")
    kind = " or ".join(kind) if isinstance(kind, list) else kind
    words = {"integer": "whole number", "object": "mapping", "array": "list", "string": "text"}
    words["null"] = "none"
    bounds = [
        f"{sign} {schema[rule]:g}"
        for rule, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if rule in schema
    ]
    return " ".join([words.get(kind, kind), ", ".join(bounds)]).strip()


def _shown(value: object) -> str:
    """A default as a cell: nothing for a section, whose own keys have theirs."""
    return "" if isinstance(value, dict) or value is None else f"`{_inline(value)}`"


def _inline(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).strip('"')


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def command_line() -> Iterator[str]:
    """The page on the command line: every command with its arguments and options."""
    yield "# Command line\n"
    yield "| exit status | meaning |"
    yield "|---|---|"
    yield "| 0 | done |"
    yield "| 2 | wrong input; nothing was started |"
    yield "| 3 | finished, with failed trials |"
    yield "| 130 | interrupted; `foldrace resume` continues |\n"
    yield "With `--json`, a sweep that ran puts one JSON object on the last line of standard"
    yield "output; progress and errors go to standard error.\n"
    yield from _commands(typer.main.get_command(app), "foldrace")


def _commands(command: Any, path: str) -> Iterator[str]:
    for name, child in getattr(command, "commands", {}).items():
        if child.hidden:
            continue
        if hasattr(child, "commands"):
            yield from _commands(child, f"{path} {name}")
            continue
        parameters = [p for p in child.params if not getattr(p, "hidden", False)]
        arguments = [_name(p) for p in parameters if isinstance(p, TyperArgument)]
        yield f"## {path} {name}\n"
        yield f"{(child.help or '').strip()}\n"
        yield f"```text\n{' '.join([path, name, '[OPTIONS]', *arguments])}\n```\n"
        yield "| argument or option | default | meaning |"
        yield "|---|---|---|"
        for parameter in parameters:
            meaning = _cell(parameter.help or "")
            yield f"| `{_name(parameter)}` | {_default(parameter)} | {meaning} |"
        yield ""


def _name(parameter: Any) -> str:
    if isinstance(parameter, TyperArgument):
        name = str(parameter.metavar or parameter.name).upper()
        return name if parameter.required else f"[{name}]"
    return ", ".join((*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    default = parameter.default
    return "" if callable(default) or default in (None, False, ()) else f"`{default}`"


for page, lines in (
    ("reference/sweep-file.md", sweep_file()),
    ("reference/command-line.md", command_line()),
    ("tutorial/examples.md", examples()),
):
    with mkdocs_gen_files.open(page, "w") as file:
        file.write("\n".join(lines) + "\n")
