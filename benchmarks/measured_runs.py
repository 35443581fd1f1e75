"""Predicted against measured for the recorded runs in tests/validation: ``python -m benchmarks.measured_runs``."""

import csv
from pathlib import Path
from typing import NamedTuple

from planner.cost_model import predict
from planner.layout import Layout, Offload
from planner.prediction import Prediction
from planner.problem import Problem
from planner.question import Question, build_problem

RUNS = Path(__file__).parent.parent / "tests" / "validation" / "h200_runs.csv"
MIB = 1024**2


class Replay(NamedTuple):
    """One recorded run beside its prediction."""

    row: dict[str, str]
    layout: Layout
    predicted: Prediction

    @property
    def measured_peak_mib(self) -> int:
        """Peak allocated memory of the fullest rank."""
        return max(int(text) for text in self.row["peak_allocated_mib_per_rank"].split())

    @property
    def memory_error(self) -> float:
        """Relative error of the fullest rank's peak; above 0 where the prediction is too high."""
        peak_mib = max(stage.peak_bytes for stage in self.predicted.stages) / MIB
        return peak_mib / self.measured_peak_mib - 1

    @property
    def time_error(self) -> float:
        """Relative error of the step time; above 0 where the prediction is too high."""
        return self.predicted.step_s / float(self.row["step_s"]) - 1

    @property
    def is_large(self) -> bool:
        """Whether the model keeps the device busy: a billion parameters, nothing offloaded."""
        return int(self.row["hidden"]) >= 2048 and float(self.row["offload_optim_frac"]) == 0


def replay_runs(path: Path = RUNS) -> list[Replay]:
    """Predict every recorded run."""
    with path.open(newline="") as file:
        return [_replay(row) for row in csv.DictReader(file)]


def _replay(row: dict[str, str]) -> Replay:
    offloaded = float(row["offload_optim_frac"])
    problem = build_problem(
        Question(
            model=row["model"], gpus=int(row["n_gpus"]), gpu="h200-141g", global_batch=int(row["global_batch"]),
            seq_len=int(row["seq_len"]), precision=row["precision"],  # type: ignore[arg-type]
            allow_offload="cpu" if offloaded else "none",
        )
    )  # fmt: skip
    layout = _layout(row, problem, offloaded)
    return Replay(row, layout, predict(problem, layout))


def _layout(row: dict[str, str], problem: Problem, offloaded: float) -> Layout:
    layers = tuple(int(text) for text in row["layers_per_stage"].split())
    tensor, stages, micro_batch = int(row["tp"]), int(row["pp"]), int(row["micro_batch"])
    return Layout(
        tensor_mode="1d" if tensor > 1 else "none",
        tensor_parallel=tensor,
        tensor_depth=1,
        pipeline_parallel=stages,
        data_parallel=int(row["dp"]),
        zero_stage=int(row["zero_stage"]),
        sequence_parallel=False,
        micro_batch=micro_batch,
        num_microbatches=int(row["batch_per_dp_rank"]) // micro_batch,
        schedule="1f1b" if stages > 1 else "none",
        num_model_chunks=int(row["num_model_chunks"]),
        layers_per_stage=layers,
        recompute_layers_per_stage=layers if row["recompute"] == "full" else (0,) * stages,
        offload=Offload(optimizer=offloaded, tier="cpu" if offloaded else "none"),
        precision=problem.precision,
    )


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def main() -> None:
    """Print the table and the mean errors."""
    replays = replay_runs()
    print("model       layout                       peak MiB    error  step s    error")
    for replay in replays:
        row = replay.row
        layout = f"TP{row['tp']} PP{row['pp']} DP{row['dp']} ZeRO{row['zero_stage']} batch {row['micro_batch']}"
        layout += " recompute" * (row["recompute"] == "full") + " offload" * (float(row["offload_optim_frac"]) > 0)
        print(
            f"{row['model']:11} {layout:34} {replay.measured_peak_mib:6} {replay.memory_error:+7.1%} "
            f"{float(row['step_s']):7.3f} {replay.time_error:+8.1%}"
        )
    large = [abs(replay.time_error) for replay in replays if replay.is_large]
    print(f"\nmemory: mean error {mean([abs(r.memory_error) for r in replays]):.1%} of {len(replays)} runs")
    print(f"step time: mean error {mean(large):.1%} of the {len(large)} runs of 1.3 billion parameters or more")


if __name__ == "__main__":
    main()
