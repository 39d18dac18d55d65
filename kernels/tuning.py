"""How a Triton kernel is cut, and how a sweep tries other cuts.

Beside each kernel stand a frozen dataclass of what can be tuned, a rule that picks one for a key, and the candidates
that are worth timing. A key names the GPU's capability, dtypes, widths, heads and head dim, never rows, segments or
lengths: a sample's bits must not depend on its companions. Nothing is searched for while serving: a sweep times the
candidates, and its rows are why a rule says what it says.

    for trial in trials(run):       # run: a call of an op
        with trial.applied():
            ...                     # check run, then time it
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .backend import interpreted

Key = TypeVar("Key")
Config = TypeVar("Config")

_invariant: ContextVar[bool] = ContextVar("packdit_invariant", default=False)
_forced: ContextVar["Trial | None"] = ContextVar("packdit_trial", default=None)
_asked: ContextVar["dict[tuple[Tuned[Any, Any], Any], None] | None"] = ContextVar("packdit_asked", default=None)


class Tuned(Generic[Key, Config]):
    """The choice of one kernel: called with a key, gives the config that the rule picks, or the trial's."""

    def __init__(
        self, kernel: str, rule: Callable[[Key], Config], candidates: Callable[[Key], Sequence[Config]]
    ) -> None:
        self.kernel, self.rule, self.candidates = kernel, rule, candidates

    def __call__(self, key: Key) -> Config:
        asked, trial = _asked.get(), _forced.get()
        if asked is not None:
            asked[self, key] = None
        if trial is not None and (trial.kernel, trial.key) == (self.kernel, key):
            config: Config = trial.config
            return config
        return self.rule(key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One config of one kernel for one key; chosen: it is what the rule picks."""

    kernel: str
    key: Any
    config: Any
    chosen: bool

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the kernel takes this config for this key."""
        token = _forced.set(self)
        try:
            yield
        finally:
            _forced.reset(token)


def trials(run: Callable[[], object]) -> Iterator[Trial]:
    """Every candidate for every choice that `run` makes, which is called once to see them; the chosen one first."""
    asked: dict[tuple[Tuned[Any, Any], Any], None] = {}
    token = _asked.set(asked)
    try:
        run()
    finally:
        _asked.reset(token)
    for tuned, key in asked:
        chosen = tuned.rule(key)
        for config in dict.fromkeys((chosen, *tuned.candidates(key))):
            yield Trial(kernel=tuned.kernel, key=key, config=config, chosen=config == chosen)


@contextmanager
def invariant(wanted: bool = True) -> Iterator[None]:
    """Within it no op takes a library call whose bits may depend on the number of rows."""
    token = _invariant.set(wanted)
    try:
        yield
    finally:
        _invariant.reset(token)


def is_invariant() -> bool:
    """Whether this runs within `invariant`."""
    return _invariant.get()


def current_arch() -> int:
    """The compute capability of the GPU that kernels are compiled for (90 is Hopper's), also under the interpreter."""
    if interpreted():
        return 90
    import triton  # optional

    arch: int = triton.runtime.driver.active.get_current_target().arch
    return arch
