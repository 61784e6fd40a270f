"""Shared code of the course *GRPO, step by step*: small, flat, imports go one way."""


class CourseError(ValueError):
    """Something that the learner can mend; the text says what, where and how."""
