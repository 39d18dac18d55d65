import re
from pathlib import Path

import pytest
import torch

from packdit.bench import facts


def test_a_row_says_where_it_comes_from() -> None:
    found = facts.gather(torch.device("cpu"), commit="abc")
    assert found.commit == "abc"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", found.date)
    assert (found.torch, found.threads) == (torch.__version__, torch.get_num_threads())
    assert found.machine.endswith(("avx512", "avx2", "portable"))


def test_a_commit_is_asked_for_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert facts.find_commit() == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts.find_commit() == "unknown"
