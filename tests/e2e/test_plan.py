"""`swarm plan` and `swarm bench`, as real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.command import Joined, check_sentence, joined, swarm, swarm_json

FIGURES = {"latency_s", "throughput_per_s", "moved_bytes", "peak_memory_bytes", "losses_survived", "steps", "answer_s"}


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Joined]]:
    with joined(name="ant") as ant, joined("--peer", ant.address, name="bee") as bee:
        yield [ant, bee]


def where(pair: list[Joined]) -> list[str]:
    return ["--no-mdns", *(word for peer in pair for word in ("--peer", peer.address))]


def test_the_contest_shows_every_way_and_why_and_what_it_really_took(pair: list[Joined]) -> None:
    report = swarm_json("plan", "fashion-vit", "--run", "3", *where(pair))
    assert (report["model"], report["goal"], report["chosen"]) == ("fashion-vit", "latency", 0)
    able = [row for row in report["candidates"] if row["feasible"]]
    assert {row["strategy"] for row in able} == {"local", "slices", "tokens", "columns", "partial"}
    assert {peer for row in able for step in row["steps"] for peer in step["peers"]} == {"ant", "bee"}
    for row in able:
        assert set(row) >= FIGURES
        assert row["latency_s"] > 0
        assert row["measured"]["runs"] == 3
        assert row["measured"]["problem"] is None
        assert row["measured"]["error"] == pytest.approx(row["latency_s"] / row["measured"]["latency_s"] - 1)
    assert able[0]["verdict"].startswith("chosen: ")
    assert all(row["verdict"] and not row["verdict"].startswith("chosen") for row in report["candidates"][1:])
    assert any("equal shares" in row["title"] for row in able)


def test_people_get_a_table_and_a_sentence_for_each_way(pair: list[Joined]) -> None:
    done = swarm("plan", "fashion-vit", "--goal", "throughput", *where(pair))
    assert done.returncode == 0, done.stderr
    assert "Ways to run fashion-vit, the best for throughput first" in done.stdout
    assert "1. " in done.stdout
    assert "chosen: " in done.stdout


def test_a_goal_that_cannot_be_met_is_refused_with_the_nearest_that_can(pair: list[Joined]) -> None:
    done = swarm("plan", "fashion-vit", "--goal", "survive=5", *where(pair))
    check_sentence(done, 3, "survives the loss of 5 peers", "at most survive=1 can be had", "--goal survive=1")
    done = swarm("plan", "fashion-vit", "--goal", "cheap", *where(pair))
    check_sentence(done, 2, "latency, throughput, memory, or survive=K")


def test_a_model_that_fits_nowhere_says_by_how_much() -> None:
    with joined("--memory", "1000000", "--no-mdns", "--forget", name="tiny") as tiny:
        done = swarm("plan", "fashion-vit", "--forget", *where([tiny]))
        check_sentence(done, 3, "fashion-vit needs", "MB are missing", "--memory")


def test_a_bench_tells_the_device_its_links_and_a_models_stages(pair: list[Joined]) -> None:
    report = swarm_json("bench", "fashion-vit", *where(pair))
    assert report["flops_per_s"]["float32"] > 0
    assert report["memory_bytes_per_s"] > 0
    assert report["step_s"] > 0
    assert {link["peer"] for link in report["links"]} == {"ant", "bee"}
    assert all(link["bytes_per_s"] > 0 and link["rtt_s"] > 0 for link in report["links"])
    stages = report["stages"]["fashion-vit"]
    assert len([row for row in stages if row["stage"].startswith("blocks.")]) >= 11
    assert all(row["seconds"] > 0 for row in stages)
