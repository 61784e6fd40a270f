"""Secrets: a learner without a Hugging Face account has none."""


class SecretNotFoundError(Exception):
    """No secret has that name."""


def get(key: str) -> str:
    """Say that there is no such secret."""
    raise SecretNotFoundError(f"Secret {key} does not exist.")
