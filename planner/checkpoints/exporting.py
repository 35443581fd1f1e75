"""The weights of a checkpoint as a folder that Transformers loads, made without PyTorch."""

import shutil
from pathlib import Path

import msgspec

from planner.checkpoints.folders import PART, check_content, check_files, find_checkpoint, synchronize
from planner.checkpoints.manifest import INDEX, WEIGHTS, Manifest, index, read_manifest
from planner.diagnostics import usage_error

SINGLE_FILE = "model.safetensors"
CONFIG = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
"""What a folder of a Hugging Face tokenizer may have."""


def export_weights(source: Path, folder: Path, tokenizer: Path | None = None) -> Path:
    """Write weights, their index, `config.json` and a tokenizer into a new folder; the checkpoint that they are from.

    The folder is complete or absent: it is written beside its place.

    Args:
        source: a checkpoint, or the folder of a run, whose newest is taken.
        folder: a new one.
        tokenizer: a tokenizer.json, or a folder with the files of one.

    Raises:
        PlanError: there is no such checkpoint or tokenizer, the checkpoint is damaged, or the folder is there.
    """
    checkpoint = find_checkpoint(source)
    manifest = read_manifest(checkpoint)
    check_files(checkpoint, manifest, ())
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise usage_error("there is something already", location=f"-o {folder}", hint="name a new folder with `-o`")
    files = _tokenizer_files(tokenizer)
    try:
        _write(checkpoint, manifest, folder, files)
    except OSError as error:
        raise usage_error(f"cannot write the weights: {error.strerror}", location=str(folder)) from error
    return checkpoint


def weights_in(folder: Path) -> dict[str, Path] | None:
    """Tensors in a folder of Transformers' by their names, each with its file; ``None``: in a single file that says so.

    Raises:
        PlanError: there are no weights in safetensors' format.
    """
    index_file = folder / INDEX
    if index_file.is_file():
        try:
            found = msgspec.json.decode(index_file.read_bytes(), type=_Index).weight_map
        except msgspec.MsgspecError as error:
            raise usage_error(f"this is no index of weights: {error}", location=str(index_file)) from error
        return {name: folder / file for name, file in found.items()}
    if (folder / SINGLE_FILE).is_file():
        return None
    raise usage_error(
        f"there are no weights in it: neither {SINGLE_FILE} nor {INDEX}",
        location=f"--init-from {folder}",
        hint="name a folder that `gptplan export-weights` or Transformers' `save_pretrained` wrote",
    )


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def heads_in(folder: Path) -> int | None:
    """Attention heads as `config.json` has them, which no shape of a tensor shows; ``None``: it does not say."""
    try:
        fields = msgspec.json.decode((folder / CONFIG).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None
    found = [fields[name] for name in ("num_attention_heads", "n_head") if name in fields]
    return found[0] if found else None


def _tokenizer_files(tokenizer: Path | None) -> list[Path]:
    if tokenizer is None:
        return []
    found = [tokenizer / name for name in TOKENIZER_FILES] if tokenizer.is_dir() else [tokenizer]
    files = [path for path in found if path.is_file()]
    if not files:
        raise usage_error("there is no tokenizer", location=str(tokenizer), hint="name a tokenizer.json or its folder")
    return files


def _write(checkpoint: Path, manifest: Manifest, folder: Path, tokenizer: list[Path]) -> None:
    beside = folder.with_name(folder.name + PART)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        names = _exported_names(manifest)
        for name, exported in names.items():
            shutil.copyfile(checkpoint / name, beside / exported)
            check_content(beside / exported, manifest.files[name].sha256, checkpoint / name)
        if len(names) > 1:
            (beside / INDEX).write_bytes(_renamed_index(manifest, names))
        shutil.copyfile(checkpoint / CONFIG, beside / CONFIG)
        for path in tokenizer:
            shutil.copyfile(path, beside / (path.name if path.name in TOKENIZER_FILES else TOKENIZER_FILES[0]))
        synchronize(beside)
        beside.replace(folder)  # which takes the place of an empty one
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _exported_names(manifest: Manifest) -> dict[str, str]:
    """Files with weights, each with its name as Transformers numbers them."""
    files = sorted(name for name, file in manifest.files.items() if file.kind == WEIGHTS)
    if len(files) == 1:
        return {files[0]: SINGLE_FILE}
    return {name: f"model-{number:05}-of-{len(files):05}.safetensors" for number, name in enumerate(files, 1)}


def _renamed_index(manifest: Manifest, names: dict[str, str]) -> bytes:
    renamed = {exported: manifest.files[name] for name, exported in names.items()}
    return index(msgspec.structs.replace(manifest, files=renamed))
