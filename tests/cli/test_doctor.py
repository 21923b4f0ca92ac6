"""``splade-bench doctor``: the readings of this machine's probes, and what they mean."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import replace

import pytest

from splade_bench.cli import main
from splade_bench.cli.doctor import Reading


@pytest.fixture(scope="module")
def findings() -> dict[str, object]:
    """One run for all tests."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(["doctor", "--json"])
    return {"exit_code": code, **json.loads(output.getvalue())}


@pytest.mark.skipif(sys.platform != "linux", reason="each system has probes of its own")
def test_every_probe_of_this_machine_reads_a_known_amount_back(findings: dict[str, object]) -> None:
    probes = findings["probes"]
    assert isinstance(probes, list)

    assert [(probe["probe"], probe["holds"]) for probe in probes] == [
        ("peak_rss_bytes", True),
        ("sampled_peak_rss_bytes", True),
        ("pinned_peak_rss_bytes", True),
        ("memray_peak_bytes", True),
        ("live_peak_bytes", True),
    ]
    assert all(probe["read_bytes"] for probe in probes)
    assert findings["exit_code"] == 0


def test_a_probe_that_reads_something_else_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Reading(probe="peak_rss_bytes", source="y", read_bytes=1, allowed_error_ratio=0.01)
    monkeypatch.setattr("splade_bench.cli.doctor.calibrate", lambda: [wrong])

    assert main(["doctor"]) == 1
    assert "NOT ACCURATE" in capsys.readouterr().out


def test_devices_that_were_never_measured_are_said_to_be_so(findings: dict[str, object]) -> None:
    untested = findings["untested_on_hardware"]
    assert isinstance(untested, dict)
    assert untested["mps"] == "everything"
    assert "--tf32" in untested["cuda"]
    if findings["devices"] == ["cpu"]:
        assert "device_peak_allocated_bytes" in str(findings["not_available"])


def test_a_machine_without_a_gpu_says_what_never_ran_on_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("splade_bench.cli.doctor.calibrate", list)
    monkeypatch.setattr("splade_bench.cli.doctor.available_devices", lambda: ["cpu"])

    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "cuda untested  full steps beside other libraries" in shown
    assert "mps untested   everything (never run on such a device)" in shown
    assert "mps memory" not in shown


def test_on_a_mac_it_shows_the_limits_of_the_allocator_and_torchs_defects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("splade_bench.cli.doctor.calibrate", list)
    monkeypatch.setattr("splade_bench.cli.doctor.available_devices", lambda: ["mps", "cpu"])
    monkeypatch.setattr("torch.mps.recommended_max_memory", lambda: 10 * 2**30)
    monkeypatch.setattr("torch.__version__", "2.12.0")
    monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "1.0")
    monkeypatch.delenv("PYTORCH_MPS_LOW_WATERMARK_RATIO", raising=False)

    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "mps memory     recommended 10.0 GiB, high watermark 10.0 GiB, low watermark 14.0 GiB" in shown
    assert "set PYTORCH_MPS_LOW_WATERMARK_RATIO too" in shown
    assert "torch #184180  fused attention of up to 8 tokens reads a mask wrongly. Here:" in shown


@pytest.mark.parametrize(
    ("read_bytes", "holds"), [(1000, True), (1010, True), (1011, False), (989, False), (None, False)]
)
def test_a_probe_holds_within_its_band_and_not_where_it_reads_nothing(read_bytes: int | None, holds: bool) -> None:
    reading = Reading(probe="x", source="y", read_bytes=read_bytes, allowed_error_ratio=0.0100001, expected_bytes=1000)

    assert reading.holds is holds
    assert replace(reading, read_bytes=None, available=False).holds
