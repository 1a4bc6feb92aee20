"""Freed memory stays with the process."""

import resource

import pytest
import torch

from agents.allocator import keep_freed_memory


def test_a_large_tensor_finds_the_pages_of_the_one_before():
    if not keep_freed_memory():
        pytest.skip("the allocator is not glibc's, and is left alone")
    numbers = 10_000_000  # 40 MB, ten thousand pages
    for _ in range(2):
        torch.empty(numbers).fill_(1.0)
    # Other threads of the process add to the count, and take nothing from it.
    assert min(page_faults(numbers) for _ in range(3)) < 1_000


def page_faults(numbers):
    """Pages that this process was given while tensors of that size were made."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.empty(numbers).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
