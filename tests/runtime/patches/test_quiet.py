"""What of the libraries' warnings reaches the terminal."""

import logging
import warnings

import pytest

from runtime.patches.quiet import quieten_libraries, without_advice

pytestmark = pytest.mark.runtime

KNOWN = [
    ("barrier(): using the device under current context.", UserWarning, "torch.distributed.c10d_logger"),
    ("TypedStorage is deprecated.", UserWarning, "colossalai.nn.optimizer.nvme_optimizer"),
    ("invalid escape sequence '\\S'", SyntaxWarning, "whatever"),
    ('"\\S" is an invalid escape sequence', SyntaxWarning, "whatever"),
    ("`torch.cuda.amp.custom_fwd(args...)` is deprecated.", FutureWarning, "typing_extensions"),
    ("another name", FutureWarning, "torch.distributed.fsdp"),
]
NEWS = [
    ("something else", UserWarning, "torch.distributed.c10d_logger"),
    ("assertion is always true", SyntaxWarning, "whatever"),
    ("something", UserWarning, "runtime.train.loop"),
]


@pytest.mark.parametrize(("text", "kind", "module"), KNOWN + NEWS)
def test_only_known_warnings_are_left_out(text: str, kind: type[Warning], module: str) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        quieten_libraries()
        warnings.warn_explicit(text, kind, "file.py", 1, module=module)
    assert bool(heard) == ((text, kind, module) in NEWS)


def test_advice_is_left_out_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("colossalai")
    with without_advice():
        logger.warning("set use_reentrant to False")
    logger.warning("something else")
    assert caplog.messages == ["something else"]
