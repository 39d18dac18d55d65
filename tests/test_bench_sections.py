"""The dry run: what `make gpu-check` does, on the CPU and at small sizes."""

from itertools import islice

import pytest
import torch

from packdit.bench.sections import SECTIONS, Section, sections

CPU = torch.device("cpu")


def test_names_are_unique_and_the_limits_fit_into_the_run() -> None:
    assert len({section.name for section in SECTIONS}) == len(SECTIONS)
    together = max(section.seconds for section in SECTIONS if not section.alone)
    assert together + sum(section.seconds for section in SECTIONS if section.alone) <= 8 * 60


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_the_first_items_of_a_section(section: Section) -> None:
    if section.name == "times with torch.compile":
        return  # it would compile
    found = list(islice(section.items(CPU), 2))
    assert found
    for _, rows in found:
        for row in rows():
            assert row.section == section.name
            assert row.outcome in ("ok", "skipped"), row


def test_a_sweep_takes_the_place_of_all_else() -> None:
    pytest.importorskip("triton")
    from packdit.kernels.interpreter import strict

    (section,) = sections("varlen_attention")
    assert section.name == "sweep of varlen_attention"
    with strict():
        ((_, rows),) = islice(section.items(CPU), 1)
        assert {row.section for row in rows()} == {section.name}
    with pytest.raises(ValueError, match="there is no op 'x'"):
        sections("x")
