"""Whole swarms in virtual time: how close to the bound, and what faults cost.

The checkers of dfly/sim/checkers.py watch every one of these runs, and `simulate()` raises if a
rule is broken or a live host never finishes.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import pytest

from dfly.core.choice import ChoiceLimits
from dfly.core.pacing import PaceLimits
from dfly.core.scheduler import SchedulerLimits
from dfly.sim.scenario import Fault, Outcome, Scenario, simulate
from dfly.units import parse_rate, parse_size

ROOT = Path(__file__).resolve().parents[2]


def fleet(hosts: int, size: str, host_rate: str, source_rate: str, **more: Any) -> Scenario:
    return Scenario(hosts, parse_size(size), parse_rate(host_rate), parse_rate(source_rate),
                    **more)


def slowest_over_median(outcome: Outcome) -> float:
    return max(outcome.times_s) / outcome.median_s


# ------------------------------------------------------------------- close to the bound
def test_star_of_ten() -> None:
    outcome = simulate(fleet(10, "100MB", "100mbit", "200mbit"))
    assert outcome.bound_s == pytest.approx(8.0)
    assert outcome.ratio <= 1.05 and slowest_over_median(outcome) <= 1.03
    assert outcome.source_copies == 1.0


@pytest.mark.long
def test_star_of_twenty_on_slow_paths_too() -> None:
    assert simulate(fleet(20, "200MB", "100mbit", "200mbit")).ratio <= 1.05
    slow = simulate(fleet(20, "200MB", "100mbit", "200mbit", latency_s=0.02))
    assert slow.ratio <= 1.10 and slowest_over_median(slow) <= 1.05


@pytest.mark.parametrize("hosts", (1, 2, 3, 8))
def test_a_handful_of_fast_hosts(hosts: int) -> None:
    assert simulate(fleet(hosts, "200MB", "1gbit", "1gbit")).ratio <= 1.08


def test_forty_hosts_behind_a_slow_source() -> None:
    outcome = simulate(fleet(40, "100MiB", "0", "25MB"))
    assert outcome.ratio <= 1.08 and slowest_over_median(outcome) <= 1.05


def test_few_upload_slots_are_enough() -> None:
    assert simulate(fleet(10, "100MB", "100mbit", "200mbit", upload_slots=8)).ratio <= 1.10
    assert simulate(fleet(10, "50MB", "100mbit", "200mbit", upload_slots=2)).ratio <= 2.0


def test_two_hundred_hosts_lease_runs() -> None:
    outcome = simulate(fleet(200, "200MB", "1gbit", "10gbit"))
    assert outcome.ratio <= 1.12
    assert outcome.leases < 200 * 763 / 3      # of 763 pieces each


@pytest.mark.long
def test_fast_hosts_on_slow_paths_fill_their_windows_soon() -> None:
    assert simulate(fleet(20, "200MB", "1gbit", "10gbit", latency_s=0.01)).ratio <= 1.50
    assert simulate(fleet(20, "1000MB", "1gbit", "10gbit", latency_s=0.02)).ratio <= 1.15


@pytest.mark.long
def test_three_hundred_hosts_are_a_forest() -> None:
    outcome = simulate(fleet(300, "200MB", "1gbit", "10gbit"))
    assert outcome.ratio <= 1.17 and slowest_over_median(outcome) <= 1.05
    assert outcome.leases < 300 * 12 and outcome.source_copies == 1.0


@pytest.mark.long
def test_a_forest_keeps_to_its_budget_and_still_flows() -> None:
    pace = PaceLimits(leases_per_s=600.0)
    outcome = simulate(fleet(300, "200MB", "1gbit", "10gbit", limits=SchedulerLimits(pace=pace)))
    assert outcome.leases <= 300 * 5 + 600 * outcome.makespan_s
    assert outcome.ratio <= 1.8


@pytest.mark.long
def test_a_thousand_hosts() -> None:
    outcome = simulate(fleet(1000, "500M", "1gbit", "10gbit"))
    assert outcome.ratio <= 1.15 and slowest_over_median(outcome) <= 1.08
    assert outcome.source_copies == 1.0


def test_hosts_without_uplink_slots_live_from_the_manager() -> None:
    outcome = simulate(fleet(4, "10MB", "100mbit", "400mbit", upload_slots=1))
    assert outcome.seed_copies >= 1.0
    assert len(outcome.times_s) == 4


def test_unknown_length() -> None:
    outcome = simulate(fleet(10, "50MB", "100mbit", "200mbit", sized=False))
    assert outcome.ratio <= 1.10


@pytest.mark.parametrize("size", (0, 1, 65_537, 262_144, 262_145))
def test_odd_sizes(size: int) -> None:
    outcome = simulate(Scenario(5, size, 1e7, 1e7))
    assert len(outcome.times_s) == 5


def test_in_order_readers_cost_little() -> None:
    plain = simulate(fleet(30, "100MB", "100mbit", "200mbit"))
    read = simulate(fleet(30, "100MB", "100mbit", "200mbit", readers=30))
    assert read.makespan_s <= 1.10 * plain.makespan_s


def test_joins_over_time_are_served_by_those_that_came_before() -> None:
    outcome = simulate(fleet(40, "50MB", "100mbit", "100mbit", join_every_s=0.5))
    alone = 50e6 / 12.5e6
    assert max(outcome.times_s) <= 1.6 * alone      # the first ones wait for the source
    assert outcome.median_s <= 1.1 * alone
    assert outcome.seed_copies < 10


def test_near_parents_save_the_long_links() -> None:
    """Two regions: most bytes should stay within one."""
    scenario = fleet(40, "50MB", "100mbit", "400mbit", labels=(("eu", "a"), ("us", "b")))
    outcome = simulate(scenario)
    assert outcome.ratio <= 1.25
    assert outcome.far_share < 0.4       # half, if nobody cared


@pytest.mark.parametrize("manager_rack", (None, 1))
@pytest.mark.parametrize("rack_rate", ("100mbit", "50mbit"))
def test_two_racks_on_a_thin_link(manager_rack: Optional[int], rack_rate: str) -> None:
    outcome = simulate(fleet(20, "100MB", "100mbit", "200mbit", racks=2,
                             rack_bps=parse_rate(rack_rate), manager_rack=manager_rack))
    assert outcome.rack_copies <= 1.1
    assert outcome.ratio <= 1.15


def test_groves_of_a_forest_take_the_file_in_about_once() -> None:
    outcome = simulate(fleet(300, "200MB", "1gbit", "10gbit", racks=3, rack_bps=1.25e9))
    assert outcome.far_share < 0.03 and outcome.rack_copies <= 3
    assert outcome.ratio <= 1.35


def test_carriers_that_die_do_not_starve_their_rack() -> None:
    faults = tuple(Fault("lost", host, 0.6 * host) for host in range(1, 8))
    outcome = simulate(fleet(20, "100MB", "100mbit", "200mbit", racks=2, rack_bps=12.5e6,
                             faults=faults))
    assert len(outcome.times_s) >= 13 and outcome.makespan_s <= 2 * outcome.bound_s


# ---------------------------------------------------------------- what reality adds
def test_costs_and_headers_make_a_run_longer_by_what_they_are() -> None:
    plain = fleet(20, "50MB", "100mbit", "200mbit")
    ideal = simulate(plain).makespan_s
    assert simulate(replace(plain, goodput=0.5)).makespan_s == pytest.approx(2 * ideal, rel=0.05)
    assert simulate(replace(plain, startup_s=3.0)).makespan_s == pytest.approx(3 + ideal, rel=0.02)
    assert 0.99 <= simulate(replace(plain, run_s=0.001)).makespan_s / ideal <= 1.10
    busy = simulate(replace(plain, fact_s=0.0005, lease_s=0.0005)).makespan_s
    assert 0.99 <= busy / ideal <= 1.25


# ------------------------------------------------------------------------------ faults
BASES: Dict[str, Tuple[int, str, str, str]] = {
    "pieces": (30, "50MB", "100mbit", "200mbit"), "runs": (90, "100MB", "1gbit", "4gbit"),
    "forest": (280, "200MB", "1gbit", "10gbit")}
SEEDS = (1, pytest.param(2, marks=pytest.mark.long))


def faulty(base: str, seed: int, *faults: Fault, **more: Any) -> Outcome:
    return simulate(fleet(*BASES[base], faults=faults, seed=seed, **more))


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_third_of_the_hosts_dies_on_the_way(base: str, seed: int) -> None:
    bound_s = fleet(*BASES[base]).bound_s
    hosts = BASES[base][0]
    faults = [Fault("lost", host, bound_s * host / hosts) for host in range(3, hosts, 3)]
    outcome = faulty(base, seed, *faults)
    assert outcome.makespan_s <= 1.5 * bound_s
    assert len(outcome.times_s) >= hosts - len(faults)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_liars_are_found_and_harm_little(base: str, seed: int) -> None:
    bound_s = fleet(*BASES[base]).bound_s
    outcome = faulty(base, seed, *(Fault("liar", host) for host in (2, 5, 9)))
    assert outcome.makespan_s <= 1.5 * bound_s + 1.0


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_parents_that_stall_without_a_word_are_left(base: str, seed: int) -> None:
    bound_s = fleet(*BASES[base]).bound_s
    outcome = faulty(base, seed, *(Fault("stalled", host, bound_s * 0.3) for host in (2, 5, 9)))
    assert outcome.median_s <= 1.5 * bound_s + 0.5      # long branches hang on a few
    assert outcome.makespan_s <= 1.5 * bound_s + 4.0


@pytest.mark.parametrize("seed", (0, *SEEDS, pytest.param(3, marks=pytest.mark.long)))
def test_everything_at_once(seed: int) -> None:
    faults = [Fault("lost", host, 0.2 * host) for host in range(1, 12)]
    faults += [Fault("stalled", 20, 1.0), Fault("liar", 21), Fault("liar", 22)]
    small = SchedulerLimits(choice=ChoiceLimits(depth_max=2), work_max=50)
    outcome = faulty("runs" if seed % 2 else "pieces", seed, *faults, readers=10,
                     join_every_s=0.02, limits=small)
    assert outcome.source_copies == 1.0


# ------------------------------------------------------------------ the command, the trace
def command(*words: str, hash_seed: str = "0") -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "dfly", "simulate", *words], cwd=ROOT,
                          env={**os.environ, "PYTHONHASHSEED": hash_seed}, text=True,
                          capture_output=True, timeout=120, check=False)


def test_one_seed_gives_one_trace_under_any_hash_seed() -> None:
    words = ("--hosts", "40", "--size", "50MB", "--source-rate", "2gbit", "--lose", "5",
             "--liars", "2", "--stall", "1", "--readers", "4", "--json", "--seed")
    traces = [json.loads(command(*words, seed, hash_seed=hashes).stdout)["trace"]
              for seed, hashes in (("5", "1"), ("5", "31337"), ("6", "1"))]
    assert traces[0] == traces[1] != traces[2]


def test_json_has_exactly_these_keys() -> None:
    done = command("--hosts", "5", "--size", "10MB", "--host-rate", "100mbit", "--source-rate",
                   "25MB", "--piece-size", "512K", "--latency", "1ms", "--seed", "3", "--json")
    assert done.returncode == 0 and done.stderr == ""
    result = json.loads(done.stdout)
    assert sorted(result) == sorted(("makespan_s", "median_s", "p95_s", "bound_s", "ratio",
                                     "source_copies", "seed_copies", "rack_copies", "leases",
                                     "reports", "trace"))
    assert result["bound_s"] == pytest.approx(0.8) and result["source_copies"] == 1.0
    assert result["seed_copies"] >= 1.0 and result["reports"] >= 5


def test_the_table_is_for_people_and_tells_all_that_json_does() -> None:
    done = command("--hosts", "3", "--size", "1MB")
    assert done.returncode == 0
    assert "lower bound" in done.stdout and "last host / bound" in done.stdout
    result = json.loads(command("--hosts", "3", "--size", "1MB", "--json").stdout)
    assert len(done.stdout.splitlines()) == len(result)
    shown = [line.split()[-1] for line in done.stdout.splitlines()]
    assert shown[-3:] == [str(result["leases"]), str(result["reports"]), result["trace"][:16]]


def test_the_command_that_repeats_a_run_has_all_of_its_options() -> None:
    import argparse
    import shlex

    from dfly.cli import simulate as shown
    parser = argparse.ArgumentParser(allow_abbrev=False)
    shown.add_arguments(parser)
    flags = [action.option_strings[0] for action in parser._actions
             if action.dest not in ("help", "json")]
    words = [word for number, flag in enumerate(flags) for word in (flag, f"value {number}")]
    assert "--hosts" in flags and "--seed" in flags
    assert shlex.split(shown.command(parser.parse_args(words))) == ["dfly", "simulate", *words]


@pytest.mark.parametrize("words", (
    ("--startup", "1h"), ("--goodput", "1e-7"), ("--latency", "20m"), ("--run-cost", "10m")))
def test_slow_worlds_are_played_to_their_end(words: Tuple[str, ...]) -> None:
    done = command("--hosts", "2", "--size", "1M", *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words, what", (
    (("--hosts", "0"), "at least 1"), (("--hosts", "1000000"), "at most"),
    (("--size", "lots"), "not a size"), (("--host-rate", "fast"), "not a rate"),
    (("--latency", "soon"), "not a duration"), (("--lose", "5", "--hosts", "5"), "must be left"),
    (("--piece-size", "1", "--size", "1G"), "too many"),
    (("--racks", "6", "--hosts", "5"), "only 5 hosts"), (("--rack-rate", "1gbit"), "--racks"),
    (("--readers", "6", "--hosts", "5"), "only 5 hosts")))
def test_usage_errors_take_one_line(words: Tuple[str, ...], what: str) -> None:
    done = command(*words)
    assert done.returncode == 2 and done.stdout == ""
    assert what in done.stderr and done.stderr.count("\n") == 1


def test_a_broken_rule_prints_the_command_that_repeats_it(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from dfly.cli import main
    from dfly.sim import checkers

    def fail(self: checkers.Checkers, incomplete: object) -> None:
        raise checkers.CheckFailed("told so")
    monkeypatch.setattr(checkers.Checkers, "finished", fail)
    assert main(["simulate", "--hosts", "2", "--size", "1MB", "--seed", "77", "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "seed 77" in told.err and "told so" in told.err
    assert "dfly simulate --hosts 2 --size 1MB" in told.err and "--seed 77" in told.err
