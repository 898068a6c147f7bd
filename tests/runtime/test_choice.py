"""What a runtime's name means here."""

import pytest
import torch

from stepseg.runtime.choice import choose_runtime

CPU = torch.device("cpu")


CUDA = torch.device("cuda")


@pytest.mark.parametrize("name", ["eager", "compile", "graphs", "auto"])
def test_what_is_asked_for_is_what_runs(name):
    assert choose_runtime(name, CUDA) == name  # auto: by measurement (`stepseg.runtime.trial`)
    assert choose_runtime("eager", CPU) == "eager"


def test_auto_compiles_on_a_cpu(monkeypatch):
    monkeypatch.setattr("stepseg.runtime.choice._has_cpp_compiler", lambda: True)
    assert choose_runtime("auto", CPU) == "compile"


def test_graphs_need_a_gpu():
    with pytest.raises(ValueError, match=r"runtime=graphs .* needs device=cuda.*runtime=compile"):
        choose_runtime("graphs", CPU)


def test_without_a_compiler(monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none():
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    assert choose_runtime("auto", CPU) == "eager"
    with pytest.raises(ValueError, match=r"runtime=compile needs a C\+\+ compiler .* CXX"):
        choose_runtime("compile", CPU)


@pytest.mark.parametrize("name", ["graph", "", "Compile"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r"choose one of auto, eager, compile, graphs$"):
        choose_runtime(name, CPU)
