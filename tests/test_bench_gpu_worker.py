from collections.abc import Iterator
from typing import Any

import pytest
import torch

from packdit.bench import gpu_worker
from packdit.bench.ceilings import Ceilings
from packdit.bench.gpu_worker import work
from packdit.bench.rows import OpRow
from packdit.bench.sections import Item, Section

CPU = torch.device("cpu")
ROW = OpRow(section="s", op="o", shape="", dtype="", by="packdit", outcome="ok")


def fail() -> list[OpRow]:
    raise RuntimeError("device-side\nassert")


def items(device: torch.device) -> Iterator[Item]:
    yield "first", lambda: [ROW, ROW]
    yield "second", fail
    yield "third", lambda: [ROW]


def run(skip: int = 0, seconds: float = 60.0, alone: bool = False) -> tuple[bool, list[dict[str, Any]]]:
    said: list[dict[str, Any]] = []
    section = Section(name="s", seconds=seconds, items=items, alone=alone)
    return work(section, CPU, skip, said.append), said


def test_a_failing_item_is_a_row_and_the_others_run() -> None:
    done, said = run()
    assert done
    assert [message["item"] for message in said if "at" in message] == ["first", "second", "third"]
    outcomes = [message["row"]["outcome"] for message in said if "row" in message]
    assert outcomes == ["ok", "ok", "failed", "ok"]
    assert said[-1] == {"done": True}
    assert OpRow(**said[4]["row"]).note == "RuntimeError: device-side assert"


def test_it_begins_where_another_process_ended() -> None:
    assert [message["at"] for message in run(skip=2)[1] if "at" in message] == [2]


def test_a_broken_device_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_worker, "usable", lambda device: False)
    done, said = run()
    assert not done
    assert said[-1]["row"]["outcome"] == "failed"
    assert gpu_worker.BROKEN


def test_what_there_is_no_time_for_is_said() -> None:
    done, said = run(seconds=-1.0)
    assert done
    assert [message["row"]["note"] for message in said if "row" in message] == 3 * ["no time was left"]


def test_sections_of_times_tell_their_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_worker, "ceilings", lambda device: Ceilings(copy=1.0, gemm={"bfloat16": 2.0}))
    _, said = run(alone=True)
    assert said[-2] == {"ceilings": {"copy": 1.0, "gemm": {"bfloat16": 2.0}, "peak": 0.0}}


def test_a_device_that_computes_is_usable() -> None:
    assert gpu_worker.usable(CPU)
    assert not gpu_worker.usable(torch.device("cuda")) or torch.cuda.is_available()
