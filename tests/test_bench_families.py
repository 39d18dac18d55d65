import math

import pytest

from packdit.bench.families import FAMILIES
from packdit.export.families import KINDS
from packdit.runtime.load import empty_module
from packdit.runtime.models import transformer_class


@pytest.mark.parametrize("name", [name for name in FAMILIES if name in KINDS["transformer"]])
def test_configs_are_complete(name: str) -> None:
    module = empty_module(transformer_class(name), dict(FAMILIES[name].config), name)
    assert 2e6 < sum(p.numel() for p in module.parameters()) < 1e8


@pytest.mark.parametrize("name", FAMILIES)
def test_the_mix_is_of_small_sequences_each_size_twice(name: str) -> None:
    mix = FAMILIES[name].mix
    sizes = [math.prod(grid) for grid in mix]
    assert min(sizes) >= 16
    assert max(sizes) <= 256
    assert {mix.count(grid) for grid in mix} == {2}
