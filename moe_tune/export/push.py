"""A folder sent to a repository of the Hugging Face Hub."""

from pathlib import Path

from moe_tune.base.errors import ConfigError, ServiceError

LOG_IN = "set HF_TOKEN to a token that may write, or run hf auth login."


def require_token(repository: str) -> None:
    """Refuse an upload for which there is no token, before anything is made for it.

    Raises:
        ServiceError: There is none.
    """
    from huggingface_hub import get_token

    if not get_token():
        raise ServiceError(f"expected a token of the Hub but there is none (--push {repository}). Hint: {LOG_IN}")


def push_folder(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """Upload a folder to a model repository of the Hub, which is made if it is not there, and return the commit.

    Args:
        folder: What is uploaded, all of it.
        repository: ``owner/name``.
        private: Whether a repository that is made here is seen by its owner alone.
        message: The commit's.

    Raises:
        ConfigError: The name is none of a repository.
        ServiceError: There is no token, the Hub cannot be reached, or it refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    require_token(repository)
    api = HfApi()
    try:
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
        return api.upload_folder(repo_id=name, folder_path=folder, commit_message=message).oid
    except HFValidationError as fault:
        raise ConfigError(
            f"expected the name of a repository, owner/name, but got {repository!r} (--push): "
            f"{' '.join(str(fault).split())[:200]} Hint: --push me/my-router."
        ) from fault
    except OfflineModeIsEnabled as fault:
        raise ServiceError(
            f"expected to reach the Hub but HF_HUB_OFFLINE is set (--push {repository}). Hint: unset it."
        ) from fault
    except HfHubHTTPError as fault:
        status = fault.response.status_code
        hint = LOG_IN if status in (401, 403) else f"run again later; {folder} stays."
        raise ServiceError(
            f"expected the Hub to take {folder.name} but it answered with status {status} (--push {repository}). "
            f"Hint: {hint}"
        ) from fault
    except Exception as fault:
        # The client lets faults of its HTTP library through, which is httpx or httpx2 by its version.
        if not type(fault).__module__.startswith("httpx"):
            raise
        raise ServiceError(
            f"expected to reach the Hub but got {type(fault).__name__}: {' '.join(str(fault).split())[:200]} "
            f"(--push {repository}). Hint: run again with a connection; {folder} stays."
        ) from fault
