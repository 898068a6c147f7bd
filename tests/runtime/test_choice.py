"""What a runtime's name means here."""

import pytest
import torch

from stepseg.runtime.choice import choose_runtime

CPU = torch.device("cpu")


def test_what_is_asked_for_is_what_runs():
    assert choose_runtime("eager", CPU) == "eager"
    assert choose_runtime("eager", torch.device("cuda")) == "eager"
    assert choose_runtime("compile", torch.device("cuda")) == "compile"


def test_auto_compiles_only_where_that_was_measured_to_be_faster(monkeypatch):
    monkeypatch.setattr("stepseg.runtime.choice._has_cpp_compiler", lambda: True)
    assert choose_runtime("auto", CPU) == "compile"
    assert choose_runtime("auto", torch.device("cuda")) == "eager"


def test_without_a_compiler(monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none():
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    assert choose_runtime("auto", CPU) == "eager"
    with pytest.raises(ValueError, match=r"runtime=compile needs a C\+\+ compiler .* CXX"):
        choose_runtime("compile", CPU)


@pytest.mark.parametrize("name", ["graphs", "", "Compile"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r"choose one of auto, eager, compile$"):
        choose_runtime(name, CPU)
