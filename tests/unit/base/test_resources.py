"""What ran out is known by a number or by a library's words, also where it is the cause of another fault."""

import errno
import os

import pytest

from moe_tune.base.errors import ConfigError, ResourceError
from moe_tune.base.resources import free_bytes, out_of_resources, told_fault, writing

OUT = {
    "disk": [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, "quota"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] PytorchStreamWriter failed writing file data/3"),
    ],
    "memory": [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError(errno.ENOMEM, "no")],
    "ulimit -n": [OSError(errno.EMFILE, "Too many open files"), RuntimeError("unable: Too many open files (24)")],
}


@pytest.mark.parametrize(("word", "fault"), [(word, fault) for word, faults in OUT.items() for fault in faults])
def test_what_ran_out_is_a_resource_also_below_another_fault(word, fault):
    above = ValueError("something else")
    above.__cause__ = fault
    for one in (fault, above):
        told = told_fault(one)
        assert out_of_resources(one)
        assert isinstance(told, ResourceError)
        assert word in str(told)


@pytest.mark.parametrize("fault", [ValueError("a shape"), OSError(errno.ENOENT, "no such file"), KeyError("x")])
def test_other_faults_are_not_told_as_a_lack(fault):
    assert not out_of_resources(fault)
    assert told_fault(fault) is None


def test_a_writer_names_the_file_and_the_free_bytes(tmp_path):
    with pytest.raises(ResourceError, match=rf"bytes are free \({tmp_path}/file\)"), writing(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "full")
    with pytest.raises(ConfigError, match="place that can be written to"), writing(tmp_path / "file"):
        raise OSError(errno.EROFS, "read-only")
    with pytest.raises(KeyError), writing(tmp_path / "file"):
        raise KeyError("x")


def test_free_bytes_of_a_path_that_is_not_there_are_those_of_the_folder_above(tmp_path):
    assert free_bytes(tmp_path / "not" / "there") == pytest.approx(free_bytes(tmp_path), rel=0.1)
