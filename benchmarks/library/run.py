"""Train hand-written layouts with Colossal-AI alone and append rows: ``python -m benchmarks.library.run CASES.toml``.

Every rank of every case is a process of its own, so that no layout finds memory of an earlier one. The ranks of the
next case import the libraries while a case trains, which many cores do not notice.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.library.cases import LibraryCase, read_cases
from planner.validation.recording import append_row

Ranks = list["subprocess.Popen[bytes]"]


def cells(case: LibraryCase, gpu: str, set_name: str) -> dict[str, str]:
    """What a row says of the case beside what was measured."""
    gemini, pipeline = case.plugin == "GeminiPlugin", case.pp > 1
    return {
        "id": case.name,
        "set": set_name,
        "gpu": gpu,
        "n_gpus": str(case.devices),
        "model": f"gpt-{case.hidden}",
        "layers": str(case.layers),
        "hidden": str(case.hidden),
        "heads": str(case.heads),
        "vocab": str(case.vocab),
        "seq_len": str(case.seq_len),
        "plugin": case.plugin,
        "tp": str(case.tp),
        "pp": str(case.pp),
        "dp": str(case.dp),
        "zero_stage": str(3 if gemini else case.zero),
        "pp_style": case.schedule if pipeline else "",
        "num_model_chunks": str(case.chunks) if pipeline else "",
        "micro_batch": str(case.micro_batch),
        "batch_per_dp_rank": str(case.rank_batch),
        "global_batch": str(case.rank_batch * case.dp),
        "recompute": "full" if case.recompute else "none",
        "precision": case.precision,
        "flash_attention": str(case.flash),
        "attn": "colossalai flash path" if case.flash else "hf sdpa",
        "sequence_parallel": "split_gather" if case.sequence_parallel else "",
        "shard_param_frac": "1.0" if gemini else "",
        "offload_optim_frac": str(case.optimizer_fraction),
        "offload_param_frac": str(case.parameter_fraction or ""),
        "optimizer": "HybridAdam" if case.fused_adam else "torch.optim.AdamW",
        "fresh_process": "yes",
        "dropout": "0.0",
    }


def prepared(case: LibraryCase) -> Ranks:
    """Processes for the ranks of a case, which import and wait."""
    command = [sys.executable, "-m", "benchmarks.library.rank"]
    return [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(case.devices)]


def run_case(case: LibraryCase, ranks: Ranks, device: str, limit_s: float) -> dict[str, str] | None:
    """Have the ranks train the case; what was measured, or ``None`` if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        _tell(case, ranks, device, found)
        deadline = time.monotonic() + limit_s
        while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
            if any(rank.poll() not in (None, 0) for rank in ranks):
                break
            time.sleep(0.05)
        _end(ranks)
        return msgspec.json.decode(found.read_bytes(), type=dict[str, str]) if found.exists() else None


def _tell(case: LibraryCase, ranks: Ranks, device: str, found: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for index, rank in enumerate(ranks):
        task = {"case": case, "rank": index, "port": port, "device": device, "found": str(found)}
        if rank.stdin is not None:
            rank.stdin.write(msgspec.json.encode(task) + b"\n")
            rank.stdin.close()


def _end(ranks: Ranks) -> None:
    for rank in ranks:
        rank.kill()
        rank.wait()
        if rank.stdin is not None:
            rank.stdin.close()


def _keep(table: Path, row: dict[str, str]) -> None:
    append_row(table, lambda _: row)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases in turn; 1 if one gave no row."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.library.run", description=__doc__)
    parser.add_argument("cases", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="ROWS.csv")
    parser.add_argument("--gpu", default="H200-SXM-141G", help="the card, as a table names it")
    parser.add_argument("--set", default="colossalai-h200-library", help="name of the set of rows")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds for one case")
    parser.add_argument("--until", type=float, default=float("inf"), help="seconds after which no case is started")
    options = parser.parse_args(arguments)
    start, failed = time.monotonic(), 0
    try:
        cases = read_cases(options.cases)
    except (OSError, msgspec.DecodeError) as error:
        parser.error(f"cannot read {options.cases}: {error}; name a TOML file of [[case]] tables")
    ranks = prepared(cases[0])
    for case, following in zip(cases, [*cases[1:], None], strict=True):
        if time.monotonic() - start > options.until:
            print(f"{case.name} and those after it: not run, the time is over", flush=True)
            break
        mine, ranks = ranks, [] if following is None else prepared(following)
        began = time.monotonic()
        measured = run_case(case, mine, options.device, options.limit)
        print(f"{case.name}: {time.monotonic() - began:.0f} s {measured}", flush=True)
        if measured is None:
            failed += 1
        else:
            _keep(options.output, cells(case, options.gpu, options.set) | measured)
    _end(ranks)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
