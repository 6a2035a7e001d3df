from __future__ import annotations

import subprocess
import sys

import pytest

from arena_ray.devices import offscreen_renderer, prepare_process, torch_device
from arena_ray.doctor import Finding, findings_of


@pytest.mark.ray
@pytest.mark.heavy
def test_doctor_tries_everything_and_says_what_to_do() -> None:
    findings = {finding.topic: finding for finding in findings_of(None)}
    assert findings["ray"].ok
    assert "CPUs" in findings["ray"].found
    assert findings["renderer: classic control"].ok
    assert findings["encoder: inline"].ok
    assert findings["encoder: imageio-ffmpeg"].ok
    assert {"NVIDIA driver", "EGL devices", "torch: GPUs"} <= set(findings)
    assert findings["EGL devices"].found.startswith("0: ") == (offscreen_renderer() == "egl")
    assert findings["renderer: MuJoCo egl"].ok == (offscreen_renderer() == "egl")
    assert all(
        finding.advice for finding in findings.values() if finding.topic != "versions" and finding.topic != "ray"
    )


def test_doctor_fails_when_something_needed_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from arena_ray import doctor

    broken = Finding(topic="ray", found="no answer", ok=False, needed=True, advice="start it")
    monkeypatch.setattr(doctor, "findings_of", lambda address: iter([broken]))
    assert doctor.examine(None) == 1
    assert "start it" in capsys.readouterr().out


def test_a_process_is_prepared_without_overriding_the_user() -> None:
    environ = {"MUJOCO_GL": "osmesa", "SDL_NO_SIGNAL_HANDLERS": "0"}
    prepare_process(environ)
    assert environ["MUJOCO_GL"] == "osmesa"
    assert environ["SDL_NO_SIGNAL_HANDLERS"] == "0"
    fresh: dict[str, str] = {}
    prepare_process(fresh)
    assert fresh["SDL_NO_SIGNAL_HANDLERS"] == "1"
    assert fresh.get("MUJOCO_GL") == offscreen_renderer()


def test_a_worker_without_gpus_computes_on_the_cpu_and_does_not_import_torch_for_it() -> None:
    assert torch_device(()) == "cpu"
    code = "import sys; from arena_ray.devices import torch_device; torch_device(()); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
