"""The load bench counts what the server answered."""

import pytest

from common.errors import InputError
from scripts import bench_server


@pytest.mark.slow
def test_load_is_counted(tiny_run, capsys):
    assert (
        bench_server.main(
            [str(tiny_run), "--clients", "1,4", "--seconds", "2", "--device", "cpu", "--tool", "httpx"]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in cells] == ["1", "4"] and all(
        int(row[1]) >= int(row[0]) and row[2] == "0" for row in cells
    )
    assert all(float(row[5]) > 0 and float(row[7]) <= float(row[8]) for row in cells)


def test_requests_differ_and_say_who_asks():
    bodies = [bench_server.request_body(number, "c", 2) for number in range(40)]
    assert len({str(body) for body in bodies}) == 40 and len({str(body["target"]) for body in bodies}) == 8


def test_numbers_of_clients():
    assert bench_server.numbers_of("1, 32") == [1, 32]
    with pytest.raises(InputError, match="--clients"):
        bench_server.numbers_of("1,x")
