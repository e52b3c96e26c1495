"""What is computed in a thread of its own is computed as where it was asked for."""

from __future__ import annotations

import contextvars
import threading

import pytest
import torch

from mmhall.generation._threads import CallerContext
from tests.generation.reference import QUIET

pytestmark = QUIET
VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("of_a_test", default=0)


def elsewhere(work):
    """Do some work in another thread; return what it returns."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def seen():
    return torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), VARIABLE.get()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_and_context_variables_come_along(dtype):
    VARIABLE.set(7)
    with torch.autocast("cpu", dtype=dtype):
        work = CallerContext(torch.device("cpu")).wrap(seen)
        assert elsewhere(seen) != (True, dtype, 7)
    assert elsewhere(work) == (True, dtype, 7)
    assert not torch.is_autocast_enabled("cpu")


def test_the_cuda_stream_comes_along(monkeypatch):
    """Simulated: which stream is asked for, and that the work is done inside it."""
    entered = []

    class Inside:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            entered.append(self.stream)

        def __exit__(self, *_):
            entered.append("left")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "stream", Inside)
    work = CallerContext(torch.device("cuda:1")).wrap(lambda: list(entered))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "another")
    assert elsewhere(work) == ["stream of cuda:1"]
    assert entered == ["stream of cuda:1", "left"]


def dtypes(lvlm):
    """Collect the dtype of every pass's logits."""
    found = set()
    lvlm.model.lm_head.register_forward_hook(lambda *call: found.add(call[2].dtype))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["greedy", "vdd", "vhr(alpha=4)", "opera"])
def test_a_stream_computes_as_generate_does(llava, pictures, spec):
    """Autocast where `stream` is called, whatever holds where its pieces are asked for."""
    asked, found = (pictures[0], "What is this?", spec), dtypes(llava)
    full = llava.generate(*asked, max_new_tokens=20)
    assert found == {torch.float32}
    found.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = llava.generate(*asked, max_new_tokens=20)
        stream = llava.stream(*asked, max_new_tokens=20)
    assert "".join(stream).strip() == whole.text
    assert stream.answer.token_ids == whole.token_ids
    assert found == {torch.bfloat16}
    found.clear()
    plain = llava.stream(*asked, max_new_tokens=20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "".join(plain).strip() == full.text
    assert found == {torch.float32}
