"""Every example of the page on data is run: what it writes, and what a sweep file reads of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from foldrace.search.spec.sweep_spec import parse_spec
from foldrace.trainables.data.datasets import load_dataset
from tests.docs.test_docs import AROUND, BLOCK, ROOT

PAGE = (ROOT / "docs" / "how-to" / "data.md").read_text()


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    read = []
    for language, text in BLOCK.findall(PAGE):
        if language == "python":
            if file := re.match(r"# (\w+\.py)\n", text):
                Path(file[1]).write_text(text)
            exec(compile(text, "<docs>", "exec"), {})
        elif language == "yaml":
            given = parse_spec({**AROUND, **yaml.safe_load(text)}, tmp_path).dataset
            size = given.size and (given.size[0], given.size[1])
            data = load_dataset(
                given.name,
                limit=given.limit,
                size=size,
                wanted=given.wanted,
                data_dir=tmp_path,
            )
            assert len(data) and data.test_count and data.sample.inputs
            read.append(given.name)
    assert len(read) >= 7
