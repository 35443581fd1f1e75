"""A job: one struct a section, whose fields are the only declaration of its keys.

From them come decoding and its messages, the commented file of ``gptplan job``, docs/job.md, and what the workers of
a run are told.
"""

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from planner.data.token_files import TokenType
from planner.data.tokenizers import BYTES
from planner.layouts.problem import MAX_GLOBAL_BATCH

ScheduleKind = Literal["constant", "cosine", "linear", "wsd"]
Documents = Literal["joined", "apart"]
Wandb = Literal["off", "offline", "online"]
OnFault = Literal["stop", "skip", "rewind"]
OnSpike = Literal["ignore", "stop", "skip", "rewind"]

DATA_VARIABLE = "DATA"
"""Environment variable: what to learn from where neither job nor options say."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section. Its docstring and the description of each field are what people read of it."""


class DataSection(Section, frozen=True, kw_only=True):
    """What to learn from, in which order."""

    paths: Annotated[
        tuple[str, ...],
        Meta(
            description="Sources: each a file, a folder or a pattern of text, JSONL (also .gz and .zst), Parquet, "
            "Arrow, or tokens as Megatron-LM (.bin and .idx), nanoGPT and llm.c (.bin) keep them. Without any, that of "
            "the environment variable DATA, else the source text of Python's standard library"
        ),
    ] = ()
    weights: Annotated[
        tuple[Annotated[float, Meta(gt=0)], ...],
        Meta(description="Share of each source in every 10,000 sequences; without any, the sources follow their sizes"),
    ] = ()
    field: Annotated[str, Meta(min_length=1, description="Where a record of JSONL, Parquet and Arrow has its text")] = (
        "text"
    )
    held_out: Annotated[
        float, Meta(ge=0, lt=1, description="Share of each source's documents that is kept for evaluation")
    ] = 0.0
    token_type: Annotated[
        TokenType, Meta(description="What a .bin with neither an index nor a header is made of, such as nanoGPT's")
    ] = "uint16"
    documents: Annotated[
        Documents,
        Meta(
            description="`joined`: a token attends to all before it in its sequence, an end-of-document token "
            "between documents. `apart`: to its own document only, up to and with its end, and learned positions "
            "begin anew with each, as with Megatron-LM's `--reset-attention-mask --reset-position-ids`"
        ),
    ] = "joined"
    cache: Annotated[
        str,
        Meta(
            description="Folder in which text is kept as tokens; without one, gptplan's in XDG_CACHE_HOME or ~/.cache"
        ),
    ] = ""


class TokenizerSection(Section, frozen=True, kw_only=True):
    """How text becomes tokens. Files of tokens are taken as they are."""

    path: Annotated[
        str,
        Meta(
            min_length=1,
            description=f"`{BYTES}`: every byte is a token. Else a Hugging Face tokenizer.json or its folder, or "
            "tiktoken's file of GPT-2's ranks",
        ),
    ] = BYTES
    end_of_document: Annotated[
        str, Meta(description="The token after each document, as text; without it, what the tokenizer says")
    ] = ""


class OptimizerSection(Section, frozen=True, kw_only=True):
    """AdamW, which decays weights, and neither norms nor biases."""

    learning_rate: Annotated[float, Meta(gt=0, le=1e3, description="The highest of the schedule")] = 3e-4
    beta1: Annotated[float, Meta(ge=0, lt=1, description="Share of the first moment that stays a step")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="Share of the second moment that stays a step")] = 0.999
    epsilon: Annotated[float, Meta(gt=0, le=1, description="Added to the root of the second moment")] = 1e-8
    clip_norm: Annotated[
        float,
        Meta(
            ge=0,
            le=1e9,
            description="Longest gradient of all parameters together, each of which counts once in every layout; a "
            "longer one is scaled to it. 0: none",
        ),
    ] = 0.0
    weight_decay: Annotated[float, Meta(ge=0, le=1e3, description="Times the learning rate, of a weight a step")] = 0.01


class ScheduleSection(Section, frozen=True, kw_only=True):
    """How long, and how the learning rate and the batch move."""

    kind: Annotated[
        ScheduleKind,
        Meta(
            description="After the warm-up: `constant`; down to the last step along a `cosine` or a `linear` path; "
            "or `wsd`, constant and linear at the end. A path is gone by the sequences that are learned from"
        ),
    ] = "constant"
    steps: Annotated[int, Meta(ge=1, le=10**9, description="Optimizer steps")] = 50
    tokens: Annotated[
        Annotated[int, Meta(ge=1, le=10**18)] | None,
        Meta(description="Stop after the step in which so many tokens are reached, instead of `steps`"),
    ] = None
    stop_after_minutes: Annotated[
        float,
        Meta(
            ge=0,
            le=10**7,
            description="Save and end after the step in which so many minutes have passed since the start of `run`, "
            "with exit code 75; `--resume` goes on. Learning rates are those of the whole run. 0: no limit",
        ),
    ] = 0.0
    warmup_steps: Annotated[int, Meta(ge=0, le=10**9, description="Over which the learning rate rises")] = 10
    decay_share: Annotated[
        float, Meta(gt=0, le=1, description="Share of all steps, the last ones, over which `wsd` falls")
    ] = 0.2
    final_share: Annotated[
        float, Meta(ge=0, le=1, description="The learning rate after the last step, as a share of the highest")
    ] = 0.1
    ramp_start: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_GLOBAL_BATCH,
            description="Sequences of the first steps, fewer than the plan's global batch, to which the batch grows "
            "over `ramp_samples`, by more micro batches of the same size. 0: it is the plan's from the first step on",
        ),
    ] = 0
    ramp_increment: Annotated[
        int, Meta(ge=0, le=MAX_GLOBAL_BATCH, description="Sequences by which the batch grows, as often as it takes")
    ] = 0
    ramp_samples: Annotated[
        int, Meta(ge=0, le=10**15, description="Sequences over which it grows, each batch for the same share of them")
    ] = 0


class CheckpointSection(Section, frozen=True, kw_only=True):
    """When a run saves, which it also does at its end and when it is asked to end, and what stays."""

    every_steps: Annotated[int, Meta(ge=0, le=10**9, description="Save after so many steps; 0: never at all")] = 1000
    every_minutes: Annotated[float, Meta(ge=0, le=10**6, description="Save after so many minutes, too; 0: not")] = 0.0
    keep: Annotated[int, Meta(ge=1, le=10**6, description="Checkpoints that stay: so many of the last")] = 2
    keep_every: Annotated[int, Meta(ge=0, le=10**9, description="And those of steps that this divides; 0: none")] = 0
    wait: Annotated[
        bool, Meta(description="Training waits while a checkpoint is written, without copies in host memory")
    ] = False


class EvaluationSection(Section, frozen=True, kw_only=True):
    """Loss and perplexity of what is not learned from."""

    every_steps: Annotated[int, Meta(ge=0, le=10**9, description="And after the last step; 0: never")] = 0
    batches: Annotated[int, Meta(ge=1, le=10**6, description="Global batches at most, the same every time")] = 10
    paths: Annotated[
        tuple[str, ...],
        Meta(description="Sources to evaluate on, as in `data.paths`; without any, what `data.held_out` keeps"),
    ] = ()


class LoggingSection(Section, frozen=True, kw_only=True):
    """What is seen of a run while it goes on. The metrics file has every step in any case."""

    every_steps: Annotated[
        int,
        Meta(
            ge=1,
            le=10**9,
            description="Steps from one line where there is no terminal, and from one reading of memory, to the next; "
            "at most a tenth of the run",
        ),
    ] = 10
    tensorboard: Annotated[
        bool, Meta(description="Write events for TensorBoard into `tensorboard` in the run's folder")
    ] = False
    wandb: Annotated[
        Wandb,
        Meta(
            description="Weights & Biases: `online`; `offline`, into the run's folder, for `wandb sync`; or `off`. "
            "The project is `gptplan`, unless its own environment variables say otherwise"
        ),
    ] = "off"


class FaultsSection(Section, frozen=True, kw_only=True):
    """What a run does when its loss goes wrong, and how often it starts again."""

    not_finite: Annotated[
        OnFault,
        Meta(
            description="When the loss is infinite or no number: `stop`; `skip` the update of that step; or `rewind`, "
            "go back to a checkpoint before it and pass over the batches that did it. Gradients that overflow in fp16 "
            "are no fault: they lower the scale of the loss"
        ),
    ] = "stop"
    spike: Annotated[
        OnSpike,
        Meta(
            description="The same when the loss is above the median of the last `spike_window` steps by more than "
            "`spike_deviations` deviations: each 1.4826 times the median distance from that median, and at least a "
            "thousandth of it. `ignore`: learn from it as from any other"
        ),
    ] = "ignore"
    spike_deviations: Annotated[float, Meta(gt=0, le=1e6, description="How many make a spike")] = 10.0
    spike_window: Annotated[
        int, Meta(ge=4, le=10**5, description="Steps; before half of them are done, nothing is a spike")
    ] = 64
    pass_over: Annotated[
        int, Meta(ge=1, le=10**6, description="Batches that a rewind passes over: that of the fault and those before")
    ] = 2
    max_faults: Annotated[
        int, Meta(ge=0, le=10**6, description="Steps of a run that may be skipped or gone back from; one more ends it")
    ] = 10
    max_restarts: Annotated[
        int, Meta(ge=0, le=10**6, description="Of `run --keep-going`, when ranks have ended; one more ends the run")
    ] = 100
    max_restarts_in_place: Annotated[
        int, Meta(ge=0, le=10**6, description="In a row, without a new checkpoint in between; one more ends the run")
    ] = 5
    restart_wait_s: Annotated[
        float, Meta(ge=0, le=86_400, description="Seconds between the end of the ranks and their next start")
    ] = 2.0
    devices_file: Annotated[
        str,
        Meta(
            description="A file with the numbers of the devices that may be used, such as `0,1,3`, which something "
            "that watches them writes; `run --keep-going` reads it. Without one, those that the machine has"
        ),
    ] = ""
    replan_pins: Annotated[
        tuple[str, ...],
        Meta(
            description="Pins of a plan that is solved for another number of devices, as `solve --pin` takes them; the "
            "plan's own pins of degrees and micro batches do not hold there"
        ),
    ] = ()


_JUDGES_LOSSES = ("not_finite", "spike", "spike_deviations", "spike_window", "pass_over", "max_faults")


class Job(Section, frozen=True, kw_only=True):
    """What a run learns, beside the plan that says how it is divided."""

    seed: Annotated[int, Meta(ge=0, le=2**32 - 1, description="Of weights, dropout, held-out documents and order")] = 0
    data: DataSection = DataSection()
    tokenizer: TokenizerSection = TokenizerSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    checkpoint: CheckpointSection = CheckpointSection()
    evaluation: EvaluationSection = EvaluationSection()
    logging: LoggingSection = LoggingSection()
    faults: FaultsSection = FaultsSection()

    @property
    def digest(self) -> str:
        """SHA-256 of every value but those that change nothing learned.

        Those are where tokens are kept, when states are, what is shown, and how a run starts again.
        """
        data = msgspec.structs.replace(self.data, cache="")
        judged = {name: getattr(self.faults, name) for name in _JUDGES_LOSSES}
        unseen = {"checkpoint": CheckpointSection(), "logging": LoggingSection(), "faults": FaultsSection(**judged)}
        kept = msgspec.structs.replace(self, data=data, **unseen)
        return "sha256:" + hashlib.sha256(msgspec.json.encode(kept, order="sorted")).hexdigest()
