"""A model directory, uploaded to the Hugging Face hub."""

from __future__ import annotations

import os
from pathlib import Path

from minibert.training.history import read_run

# What training keeps for itself: rows that were given in Python, checkpoints with the state of an
# optimizer (ours, and those of other trainers), the best weights so far, what a killed process left
# half-written.
NEVER = (
    "run/data/*", "run/checkpoint.safetensors", "run/best.safetensors", "checkpoint-*",
    "*/checkpoint-*", "optimizer*", "*/optimizer*", "*.tmp-*", ".*", "*/.*",
)  # fmt: skip


def push(
    directory: str | os.PathLike, name: str, *, private: bool = False, token: str | None = None
) -> dict:
    """Upload a model directory as ``owner/name``; the repository is made if it is not there.

    Never uploaded: checkpoints with the state of an optimizer, temporary and hidden files.

    Args:
        private: only for repositories that this makes, or that are private already.
        token: one that may write; None = that of ``HF_TOKEN`` or of ``hf auth login``.

    Returns:
        ``url`` of the commit, and the ``files`` of the directory that are there now.

    Raises:
        ValueError: no model in the directory, a run that is unfinished or has failed, a name that
            is none, or a public repository where a private one was asked for.
        OSError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi, constants, utils

    home = Path(directory)
    if not any((home / file).is_file() for file in ("config.json", "modules.json")):
        raise ValueError(f"{directory} holds no model: neither config.json nor modules.json")
    if (home / "run").exists() and (state := read_run(home).state) != "finished":
        raise ValueError(f"the run in {directory} is {state}; only a finished one can be pushed")
    if name.count("/") != 1:
        raise ValueError(f"{name!r} is no name on the hub; owner/name is needed")
    utils.validate_repo_id(name)
    api, where = HfApi(token=token), f"{name} at {constants.ENDPOINT}"
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise ValueError(f"{where} is public; push without --private, or to another name")
        commit = api.upload_folder(
            repo_id=name, folder_path=home, ignore_patterns=list(NEVER),
            commit_message="Upload with minibert",
        )  # fmt: skip
    except ValueError:
        raise
    except Exception as error:  # the HTTP library's (which one depends on the version)
        status = getattr(getattr(error, "response", None), "status_code", None)
        what = str(error).strip().split("\n")[0]
        raise OSError(
            f"{where} takes nothing from you ({what}); log in (hf auth login) or set HF_TOKEN, "
            "with a token that may write there"
            if status in (401, 403)
            else f"{where} was not reached or broke off ({type(error).__name__}: {what}); run again"
        ) from error
    paths = (path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())
    files = list(utils.filter_repo_objects(sorted(paths), ignore_patterns=list(NEVER)))
    return {"url": commit.commit_url, "files": files}
