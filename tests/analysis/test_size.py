# SPDX-License-Identifier: GPL-2.0-only
"""Sizing: each answer holds, the next smaller does not, and bad questions are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.replay.made_traces import exhausted

from kmem.analysis.size import Sizing, Trial, _Search, size
from kmem.analysis.summary import analyse
from kmem.cli import main
from kmem.replay.variant import Variant

BOOT = str(Path(__file__).parent.parent / "data/boot.trace.txt.gz")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(exhausted(tmp_path_factory.mktemp("traces") / "full.txt"))


def neighbours(found: Sizing) -> None:
    """What was tried is split at the answer, and the value below it was tried."""
    assert found.answer is not None
    holds = {trial.value: trial.holds for trial in found.trials}
    assert holds[found.answer]
    assert holds[found.answer - 1] is False
    assert [trial.value for trial in found.trials] == sorted(holds)


def asked(does: Callable[[int], bool], low: int, high: int) -> Sizing:
    """A search among values of which a function says whether they do."""

    class Made(_Search):
        def __init__(self) -> None:
            self.trials = {}

        def trial(self, setting: str, value: int, fault: object, unit: str = "") -> Trial:
            assert low <= value <= high
            return self.trials.setdefault(value, Trial(value, does(value), {}, ""))

    return Made().smallest("ram", "ram", low, high, lambda _: "")


@pytest.mark.parametrize("least", [0, 1, 2, 3, 7, 100, 1023, 1024, 1025, 50_000, 65_535, 65_536])
def test_where_more_is_never_worse_the_answer_is_the_least(least: int) -> None:
    found = asked(lambda value: value >= least, 0, 65_536)
    assert found.answer == least
    assert found.steady
    assert found.lucky == ()
    assert len(found.trials) < 60


def test_nothing_does() -> None:
    found = asked(lambda value: False, 1, 70_000)
    assert found.answer is None
    assert not found.steady
    assert max(trial.value for trial in found.trials) == 70_000


def test_a_value_that_does_by_luck_is_not_the_answer() -> None:
    """::

    ....|#|..............|######## ... from 5000 on, and 700 to 720 by luck
    """
    found = asked(lambda value: value >= 5000 or 700 <= value <= 720, 1, 65_536)
    assert found.answer == 5000
    assert found.steady
    assert set(found.lucky) <= set(range(700, 721))


@pytest.mark.parametrize("seed", range(20))
def test_where_it_is_all_chance_the_answer_is_what_the_trials_say(seed: int) -> None:
    def does(value: int) -> bool:
        return hash((seed, value // 7, 0.5)) % 100_000 < value

    found = asked(does, 1, 60_000)
    holds = {trial.value: trial.holds for trial in found.trials}
    if found.answer is not None:
        assert holds[found.answer]
        assert not holds[found.answer - 1]
        tried = [holds[value] for value in holds if found.answer <= value <= 2 * found.answer]
        assert found.steady == all(tried)
        assert found.steady or len(holds) >= 300


def test_the_smallest_reserve_without_an_atomic_failure(full: str) -> None:
    found = size(full, "min_free_kbytes", base=Variant(ram="96M"))
    neighbours(found)
    for value, failures in ((found.answer, False), (found.answer - 1, True)):  # type: ignore[operator]
        run = Variant(ram="96M").with_settings([f"vm.min_free_kbytes={value}"]).replay(full)
        assert bool(run.atomic_failures) == failures


def test_the_smallest_memory(full: str) -> None:
    found = size(full, "ram", base=Variant(ram="96M"))
    neighbours(found)
    assert Variant(ram=f"{found.answer}M").replay(full).engine.nr_failures == 0
    assert Variant(ram=f"{found.answer - 1}M").replay(full).engine.nr_failures > 0  # type: ignore[operator]


def test_the_smallest_pool_covers_the_requests_that_may_not_wait(full: str) -> None:
    found = size(full, "mempool", cache="kmalloc-4k", base=Variant(ram="103M"))
    neighbours(found)
    assert found.setting == "mempool.kmalloc-4k"


def test_a_pool_that_is_not_needed_has_no_elements() -> None:
    found = size(BOOT, "mempool", cache="dentry")
    assert found.answer == 0
    assert len(found.trials) == 1


def test_the_largest_order_is_what_a_request_gets() -> None:
    run = Variant().replay(BOOT)
    found = size(BOOT, "order")
    assert found.answer == 10
    assert run.machine.alloc_pages(0xCC0, found.answer) is not None
    few = size(BOOT, "order", base=Variant().with_settings(["ram=72M"]))
    run = Variant(ram="72M").replay(BOOT)
    assert few.answer is not None
    assert run.machine.alloc_pages(0xCC0, few.answer) is not None


def test_the_best_slab_order() -> None:
    base = Variant().with_settings(["scale_load=4"])
    found = size(BOOT, "slab-order", cache="inode_cache", base=base)
    costs = {}
    for trial in found.trials:
        run = base.with_settings([f"slab_order.inode_cache={trial.value}"]).replay(BOOT)
        costs[trial.value] = analyse(run).slab.peak_slab_pages
    assert found.answer == min(costs, key=lambda order: (costs[order], order))
    assert len(set(costs.values())) > 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--for", "luck"], "luck"),
        (["--for", "mempool"], "needs a cache"),
        (["--for", "ram", "--cache", "dentry"], "is about no cache"),
        (["--for", "mempool", "--cache", "nonesuch"], "no cache 'nonesuch'"),
        (["--for", "slab-order", "--cache", "kmalloc-64"], "cannot be tried"),
        (["--for", "ram", "--set", "vm.nonsense=1"], "unknown sysctl"),
    ],
)
def test_questions_that_are_none(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size", BOOT, *args]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert shown.err.count("\n") == 1


def test_the_command(full: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["size", full, "--for", "ram", "--set", "ram=96M", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["question"] == "ram"
    assert f"{found['answer'] - 1}" in {str(trial["value"]) for trial in found["trials"]}
    assert main(["size", full, "--for", "ram", "--set", "ram=96M"]) == 0
    assert f"{found['answer']} MiB" in capsys.readouterr().out
