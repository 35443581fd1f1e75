"""What libraries say that is no news to the person at the terminal."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def quieten_libraries() -> None:
    """Leave out warnings about features that are not used and about names that Colossal-AI still calls."""
    # What they say on import is about fused kernels, 4-bit weights, other ways to save; newer PyTorch announces
    # other names for functions that Colossal-AI calls, and newer Python its escape sequences.
    warnings.filterwarnings("ignore", module=r"colossalai\.|tensornvme\.|torch\.jit")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch\.cuda\.amp\.custom_")
    warnings.filterwarnings("ignore", message=r"barrier\(\): using the device", module=r"torch\.distributed")
    warnings.filterwarnings("ignore", category=SyntaxWarning, message="invalid escape sequence|.*is an invalid escape")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # That windows need masks, which they get, and what is unusual about rotary scaling, which a spec says on purpose.
    for module in ("models.qwen2.modeling_qwen2", "modeling_rope_utils"):
        logging.getLogger(f"transformers.{module}").setLevel(logging.ERROR)
    # Colossal-AI tells of every skipped step of loss scaling, on stdout. It sets its own level later.
    logging.getLogger("colossalai").addFilter(lambda record: record.levelno >= logging.WARNING)


@contextmanager
def without_advice() -> Iterator[None]:
    """Make a plugin of Colossal-AI without a word of it, where what it warns of is done otherwise, and right."""
    logger = logging.getLogger("colossalai")

    def nothing(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(nothing)
    try:
        yield
    finally:
        logger.removeFilter(nothing)
