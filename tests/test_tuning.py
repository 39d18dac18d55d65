from packdit.kernels.tuning import Trial, Tuned, invariant, is_invariant, trials

first: Tuned[int, str] = Tuned("first", lambda key: f"rule {key}", lambda key: ("a", f"rule {key}", "b"))
second: Tuned[int, str] = Tuned("second", lambda key: "rule", lambda key: ())


def run() -> tuple[str, str, str]:
    return first(1), first(2), second(1)


def test_the_rule_decides() -> None:
    assert run() == ("rule 1", "rule 2", "rule")


def test_a_sweep_sees_every_candidate_of_every_choice() -> None:
    found = list(trials(run))
    configs = [(trial.kernel, trial.key, trial.config) for trial in found]
    assert configs == [
        *(("first", key, config) for key in (1, 2) for config in (f"rule {key}", "a", "b")),
        ("second", 1, "rule"),
    ]
    assert [trial.chosen for trial in found] == [True, False, False, True, False, False, True]


def test_a_trial_changes_its_own_choice() -> None:
    with Trial(kernel="first", key=2, config="tried", chosen=False).applied():
        assert run() == ("rule 1", "tried", "rule")
    assert run() == ("rule 1", "rule 2", "rule")


def test_invariance_is_asked_for() -> None:
    assert not is_invariant()
    with invariant():
        assert is_invariant()
        with invariant(False):
            assert not is_invariant()
    assert not is_invariant()
