"""Scripts that the tests start stand alone, though one server forks them all."""

import signal
import time
from pathlib import Path

from tests.smoke import LONGEST, Started

DRAWING = """
import time
from tqdm import tqdm

with tqdm.get_lock():
    print("drawing", flush=True)
    time.sleep(600)
"""
DRAWS = """
from tqdm import tqdm

print(sum(tqdm(range(3))))
"""


def test_one_killed_while_it_draws_its_bar_does_not_stop_the_next(tmp_path: Path) -> None:
    drawing, draws = tmp_path / "drawing.py", tmp_path / "draws.py"
    drawing.write_text(DRAWING)
    draws.write_text(DRAWS)
    killed = Started(str(drawing))
    while "drawing" not in killed.printed():
        assert time.time() - killed.began < LONGEST
        time.sleep(0.01)
    killed.kill(signal.SIGKILL)
    following = Started(str(draws))
    following.process.join(60)
    if following.returncode is None:
        following.kill(signal.SIGKILL)
    assert following.returncode == 0
    assert following.printed().startswith("3")
